# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""check_row_slices.py: parts.safetensors and parts-c.safetensors have the rows of w that materialize-row-slices.mlir takes."""

import numpy as np
from safetensors.numpy import load_file

rows = np.arange(24)[::-1][10:18][[7, 0, 6, 1, 5, 2, 4, 3]][2:7][[2, 0, 1, 4, 3]]
assert (load_file("parts.safetensors")["w.untied"] == load_file("a.safetensors")["w"][rows]).all()
before, after = load_file("rows.safetensors"), load_file("parts-c.safetensors")
for statistic in ("fisher", "row-fisher"):
    values = after[statistic + "/w.untied"]
    assert (values == before[statistic + "/w"][rows]).all(), (statistic, values)
assert (after["hessian/w.untied"] == before["hessian/w"]).all()
