# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

from typing import Any, Mapping, TypeVar

import torch

from . import DiagnosticHandler, Path, Progress

Model = TypeVar("Model", bound=torch.nn.Module)

# The operators quant_llm::linear and quant_llm::dequantize.
linear: Any
dequantize: Any

class QuantLinear(torch.nn.Module):
    in_features: int
    out_features: int
    scheme: str
    output_scale: float
    artifact: str
    constant_weights: bool
    packed: torch.Tensor
    packed_scales: torch.Tensor
    packed_zeros: torch.Tensor | None
    bias: torch.nn.Parameter | None
    def __init__(self, packed: torch.Tensor, packed_scales: torch.Tensor, packed_zeros: torch.Tensor | None, output_scale: float, in_features: int, out_features: int, scheme: str, bias: torch.Tensor | None = None, artifact: str = "", constant_weights: bool = False) -> None: ...
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...
    def dequantize(self, dtype: torch.dtype = ...) -> torch.Tensor: ...
    def prepare(self, dtype: torch.dtype = ...) -> None: ...
    def get_extra_state(self) -> torch.Tensor: ...
    def set_extra_state(self, state: torch.Tensor) -> None: ...
    def extra_repr(self) -> str: ...

def set_kernel_cache(directory: Path | None = None, size: int | str | None = None) -> None: ...
def prepare_kernels(model: Model, dtype: torch.dtype = ...) -> Model: ...
def quantize_model_(model: Model, recipe: str = "int4", *, options: Mapping[str, Any] | None = None, include: str | None = None, exclude: str | None = None, constant_weights: bool = False, progress: Progress | None = None, diagnostic: DiagnosticHandler | None = None) -> Model: ...
def load_quantized(model: Model, path: Path, *, strict: bool = True, constant_weights: bool = False, progress: Progress | None = None, diagnostic: DiagnosticHandler | None = None) -> Model: ...
def build_artifact(source: Path, output: Path, *, chip: str = "sm_90a", activation: str = "f16", replace: bool = False, progress: Progress | None = None, diagnostic: DiagnosticHandler | None = None) -> None: ...
