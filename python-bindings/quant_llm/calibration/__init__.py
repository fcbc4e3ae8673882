# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Models run on text in PyTorch, for the methods that need that.

    tokens = sample_tokens(tokenizer.encode(text), samples=128, length=512, seed=0)
    calibrate("model", tokens, "calibration.safetensors")

writes statistics of the inputs of every linear (docs/Calibration.md), which the
passes in C++ read. The model is translated to PyTorch block by block
(translate()), and one block at a time is on the device, so that its size does
not matter. Needs the package torch.
"""

from ._behind import calibrate_behind
from ._driver import STATISTICS, calibrate
from ._file import CalibrationFile
from ._parameters import Parameters
from ._source import Part, translate
from ._tokens import random_tokens, sample_tokens

__all__ = ["STATISTICS", "CalibrationFile", "Parameters", "Part", "calibrate", "calibrate_behind", "random_tokens", "sample_tokens", "translate"]
