#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes the recipes as C++ data for lib/Pipelines/RecipePipelines.cpp.

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
        name, pipeline = recipe["name"], " ".join(" ".join(line.partition("#")[0] for line in recipe["pipeline"].splitlines()).split())
        if name != pathlib.Path(path).stem:
            sys.exit(f"error: {path}: expected the name of the file but got the name '{name}'")
        if pipeline.startswith(f"quant-llm-{name}{{"):
            continue
        options = "".join(f"    {{{quote(key)}, {quote(str(entry['default']).lower() if isinstance(entry['default'], bool) else str(entry['default']))}, {quote(entry['help'])}}},\n" for key, entry in recipe.get("options", {}).items())
        text += f"{{{quote(name)}, {quote(recipe['summary'])},\n  {quote(pipeline)},\n  {{\n{options}  }}}},\n"
    pathlib.Path(output).write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
