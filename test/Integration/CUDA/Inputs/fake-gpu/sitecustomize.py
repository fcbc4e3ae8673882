# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""With this directory in PYTHONPATH, check_linear.py finds a GPU that is the CPU (fake_gpu.py), also in its worker, and who asks torch for a GPU
is told that there is one."""

import os
import sys

if any(argument.endswith("check_linear.py") for argument in sys.orig_argv):
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
    import fake_gpu  # noqa: F401
elif any("cuda.is_available" in argument for argument in sys.orig_argv):
    import torch

    torch.cuda.is_available = lambda: True
