# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

from typing import Any, NamedTuple, Sequence

from . import Path
from ._errors import QuantLLMError

Buffer = tuple[int, int]

class GPUError(QuantLLMError):
    kind: str
    def __init__(self, message: str, kind: str) -> None: ...

class Operand(NamedTuple):
    type: str
    per_element: bool

class Variant(NamedTuple):
    min_tokens: int
    max_tokens: int
    kernel: str

class Linear(NamedTuple):
    index: int  # type: ignore[assignment]  # a field, not tuple.index
    name: str
    n: int
    k: int
    scheme: str
    activation: str
    output: str
    num_weights: int
    epilogue: tuple[Operand, ...]
    variants: tuple[Variant, ...]
    weight_bytes: tuple[int, int, int]
    num_experts: int
    offsets: str

class Weight(NamedTuple):
    packed: Buffer
    packed_scales: Buffer
    packed_zeros: Buffer
    output_scale: float

def load_library(path: Path | None = None) -> Any: ...

class Artifact:
    path: str
    chip: str
    weight_bytes: int
    linears: tuple[Linear, ...]
    def __init__(self, path: Path, archive: Path | None = None, *, library: Any = None) -> None: ...
    def find(self, name: str) -> Linear: ...

class Plan:
    linear: Linear
    m: int
    kernel: str | None
    grid: tuple[int, int, int]
    threads: int
    cluster: int
    shared_bytes: int
    x_bytes: int
    y_bytes: int
    workspace_bytes: int
    def __init__(self, linear: Linear, raw: Any) -> None: ...

class Module:
    artifact: Artifact
    device: int
    def __init__(self, artifact: Artifact, device: int = 0, *, driver: Path | None = None, weight_memory: Buffer | None = None, without_weights: bool = False) -> None: ...
    @property
    def device_name(self) -> str: ...
    def plan(self, linear: Linear | str, m: int) -> Plan: ...
    def launch(self, plan: Plan, x: Buffer, y: Buffer, *, stream: int = 0, workspace: Buffer = (0, 0), epilogue: Sequence[Buffer] = (), weights: Sequence[Weight] | None = None, offsets: Buffer | None = None, plain: bool = False, constant_weights: bool = False) -> None: ...
    def close(self) -> None: ...
