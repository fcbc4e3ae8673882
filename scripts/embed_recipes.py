#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes the recipes as C++ data for lib/Pipelines/Recipes.cpp.

  embed_recipes.py OUTPUT.inc RECIPE.toml...

A recipe that is a pipeline of the library itself is left out.
"""

import json
import pathlib
import sys
import tomllib


def quote(text):
    # JSON escapes are those of C++ for text of ASCII.
    return json.dumps(text)


def main():
    output, *paths = sys.argv[1:]
    text = "// Written by scripts/embed_recipes.py.\n"
    for path in sorted(paths):
        recipe = tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        if recipe["name"] != pathlib.Path(path).stem:
            sys.exit(f"error: {path}: expected the name of the file but got the name '{recipe['name']}'")
        if recipe["pipeline"].strip().startswith(f"quant-llm-{recipe['name']}{{"):
            continue
        # The form of Recipe::parse() (include/quant-llm/Pipelines/Recipes.h).
        options = [{"name": name, **option} for name, option in recipe.get("options", {}).items()]
        entry = {"name": recipe["name"], "summary": recipe["summary"], "pipeline": recipe["pipeline"], "options": options, "calibration": "calibration" in recipe}
        text += f"{quote(json.dumps(entry))},\n"
    pathlib.Path(output).write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
