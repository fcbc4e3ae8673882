# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# RUN: rm -rf %t && %python %S/Inputs/make_channel_statistics.py %t && cp %S/choose-channel-scales.mlir %t/m.mlir
# RUN: cd %t && %python %s
"""What passes write replaces nothing that the run reads: archives, calibration
files, the module, each by any name, and no archive that a pass before read."""

import os
import subprocess
from pathlib import Path

CALIBRATION = "calibration=c.safetensors any-model"
PASSES = {
    "choose-channel-scales": CALIBRATION,
    "allocate-bits": f"budget=16 sensitivity=output {CALIBRATION}",
    "choose-group-axis": f"error=output {CALIBRATION}",
    "fold-transforms": None,
    "quantize-activations": f"include=up|gate|down mode=static granularity=tensor {CALIBRATION}",
    "quantize": f"output=q.safetensors method=gptq static-groups {CALIBRATION}",
}

os.symlink("model.safetensors", "link.json")
os.link("c.safetensors", "hard.json")
kept = {path.name: path.read_bytes() for path in Path().iterdir()}


def run(*arguments):
    return subprocess.run(["quant-opt", "m.mlir", "-o", "out.mlir", *arguments], capture_output=True, text=True)


def refuse(message, *arguments):
    done = run(*arguments)
    assert done.returncode == 1 and message in done.stderr, (arguments, done.stderr)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == kept, arguments


for name, options in PASSES.items():
    def with_report(path, name=name, options=options):
        return f"--quant-llm-{name}={options or ''} report={path}"

    begin = f"error: quant-llm-{name}: "
    for path in ("model.safetensors", "./model.safetensors", "link.json"):
        refuse(f"{begin}'{path}' is a file of an archive that the module reads; choose another file for 'report'", with_report(path))
    refuse(f"{begin}'m.mlir' is the file of the module; choose another file for 'report'", with_report("m.mlir"))
    refuse(f"{begin}invalid option 'report': expected a JSON file but got 'new.gguf', which ends like an archive of weights", with_report("new.gguf"))
    if options:
        for path in ("c.safetensors", "hard.json"):
            refuse(f"{begin}'{path}' is read as the file of 'calibration'; choose another file for 'report'", with_report(path))
    # What was there and is not read can be replaced.
    Path("r.json").write_text("old")
    done = run(with_report("r.json"))
    assert done.returncode == 0 and '"version"' in Path("r.json").read_text(), done.stderr
    for path in ("r.json", "out.mlir", "q.safetensors"):
        Path(path).unlink(missing_ok=True)

MATERIALIZE = "--quant-llm-materialize-transforms=output=t.safetensors"
SCALES = [f"--quant-llm-choose-channel-scales={CALIBRATION}", "--quant-llm-fold-transforms=max-online=0"]
refuse("'c.safetensors' is read as the file of 'calibration'; choose another file for 'output'", f"--quant-llm-quantize=output=c.safetensors method=gptq static-groups {CALIBRATION}")
refuse("'hard.json' is read as the file of 'calibration'; choose another file for 'calibration-output'", *SCALES, f"{MATERIALIZE} {CALIBRATION} calibration-output=hard.json")
# The module does not read its first archive any more.
refuse("invalid option 'report': expected a JSON file but got 'model.safetensors'", *SCALES, MATERIALIZE, "--quant-llm-quantize=output=q.safetensors report=model.safetensors")
