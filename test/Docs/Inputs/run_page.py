# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs the commands of a documentation page.

  run_page.py PAGE.md WORKDIR

Blocks fenced as ```LANG file=NAME are written to WORKDIR/NAME; ```sh blocks are run there and must succeed;
each line of an ```output block must be part of a line that the last command printed, in order.
"""

import pathlib
import re
import subprocess
import sys

page = pathlib.Path(sys.argv[1])
work = pathlib.Path(sys.argv[2])
work.mkdir(parents=True, exist_ok=True)
blocks = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
printed = None
commands = 0
for kind, text in blocks:
    file = re.search(r"file=(\S+)", kind)
    if file:
        (work / file.group(1)).write_text(text, encoding="utf-8")
    elif kind.strip() == "sh":
        run = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=work, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"{page.name}: exit status {run.returncode} from:\n{text}\n{run.stdout}{run.stderr}")
        printed = run.stdout.splitlines()
        commands += 1
    elif kind.strip() == "output":
        position = 0
        for line in text.splitlines():
            while position < len(printed) and line.strip() not in printed[position]:
                position += 1
            if position == len(printed):
                sys.exit(f"{page.name}: expected the output line\n  {line.strip()}\nbut got\n" + "\n".join(printed))
            position += 1
if not commands:
    sys.exit(f"{page.name}: expected commands but found none")
print(f"ran {commands} commands")
