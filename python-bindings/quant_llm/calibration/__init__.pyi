# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .._errors import Diagnostic
from ..model import PreparedModel

STATISTICS: tuple[str, ...]

class Part:
    source: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    parameters: list[str]
    linears: list[str]
    blocks: list[int]
    function: Callable[..., Any]
    def __init__(self, description: dict[str, Any]) -> None: ...
    def __call__(self, *inputs: Any, parameters: Mapping[str, torch.Tensor], dtype: torch.dtype = ..., **others: Any) -> tuple[Any, ...]: ...

def translate(
    module: str | bytes, *, name: str | None = None, function: str | None = None, part: str = "whole", blocks: tuple[int, int] | None = None, tap: bool = False
) -> Part: ...

class Parameters:
    def __init__(self, module: str | bytes, *, name: str | None = None) -> None: ...
    def __contains__(self, key: str) -> bool: ...
    def read(self, key: str, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> torch.Tensor: ...
    def load(self, keys: Sequence[str], *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]: ...

class CalibrationFile:
    path: str
    metadata: dict[str, str]
    aliases: dict[str, str]
    def __init__(self, path: str | os.PathLike[str]) -> None: ...
    @property
    def parameters(self) -> list[str]: ...
    def statistics(self, parameter: str) -> list[str]: ...
    def read(self, statistic: str, parameter: str) -> np.ndarray: ...

def sample_tokens(tokens: Sequence[int] | np.ndarray, *, samples: int, length: int, seed: int = 0) -> np.ndarray: ...
def random_tokens(vocabulary_size: int, *, samples: int, length: int, seed: int = 0) -> np.ndarray: ...
def calibrate(
    model: str | os.PathLike[str],
    tokens: np.ndarray | Sequence[np.ndarray] | Callable[[int], np.ndarray],
    output: str | os.PathLike[str],
    *,
    statistics: Sequence[str] = ...,
    token_weights: np.ndarray | Sequence[np.ndarray] | str | None = None,
    quantiles: Sequence[float] = ...,
    inputs: int = 512,
    seed: int = 0,
    dtype: str = "float32",
    device: torch.device | str | None = None,
    restart: bool = False,
    reuse: bool = False,
    on_part: Callable[[list[str], dict[str, dict[str, np.ndarray]], Callable[[str], torch.Tensor]], Mapping[str, torch.Tensor] | None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    diagnostic: Callable[[Diagnostic], None] | None = None,
) -> dict[str, Any]: ...
def calibrate_behind(
    model: PreparedModel,
    tokens: np.ndarray | Sequence[np.ndarray] | Callable[[int], np.ndarray],
    output: str | os.PathLike[str],
    *,
    token_weights: np.ndarray | Sequence[np.ndarray] | str | None = None,
    dtype: str = "float32",
    device: torch.device | str | None = None,
    restart: bool = False,
    reuse: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]: ...
