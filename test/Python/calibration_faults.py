# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# REQUIRES: python
# RUN: %pytest %s
"""Calibration files that say too little or are damaged, from the file to the
quantized model: a message, and nothing is written or lost."""

import os
import sys

import numpy as np
import pytest

HERE = os.path.dirname(__file__)
sys.path.insert(0, os.path.join(HERE, "..", "Import", "Inputs"))
from oracle import edit_tensors, make_model
from quant_llm import QuantLLMError, model, recipe
from quant_llm._safetensors import read_header
from quant_llm.calibration import CalibrationFile, calibrate

TOKENS = np.random.default_rng(3).integers(0, 61, (4, 16))
NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def file(directory, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "c.safetensors"
    calibrate(directory, TOKENS, path, statistics=["absmax", "absmean", "hessian"], device="cpu")
    return path


def quantize(directory, output, name, calibration, **options):
    remarks = []
    report = model.quantize_directory(
        directory, output, recipe=recipe.load(name), options={"group": 16, **options}, calibration=str(calibration), diagnostic=lambda d: remarks.append(d.message)
    )
    return report, remarks


@pytest.mark.parametrize("name, options", [("gptq", {}), ("gptq", {"damping": 0.0, "act_order": False}), ("quantease", {"sweeps": 2}), ("awq", {})])
def test_singular_hessians(directory, tmp_path, name, options):
    """Two tokens: of no Hessian there is an inverse."""
    few = tmp_path / "few.safetensors"
    calibrate(directory, TOKENS[:1, :2], few, statistics=["absmax", "absmean", "hessian"], device="cpu")
    hessian = CalibrationFile(few).read("hessian", NAME)
    assert np.linalg.matrix_rank(hessian.astype(np.float64), tol=1e-6 * np.abs(hessian).max()) <= 2 < len(hessian)
    report, _ = quantize(directory, tmp_path / "q", name, few, **options)
    assert len(report["weights"]) == 14
    assert all(0 < weight["relative_frobenius"] < 1 for weight in report["weights"])


@pytest.mark.parametrize("name", ["gptq", "quantease", "awq"])
def test_dead_channels(tmp_path, name):
    """Inputs that are always 0 say nothing about their columns, which are quantized all the same."""
    dead = make_model(str(tmp_path / "dead"), "llama", num_hidden_layers=1)

    def edit(tensors):
        tensors["model.layers.0.input_layernorm.weight"][[3, 5]] = 0
        tensors["model.layers.0.post_attention_layernorm.weight"][:] = 0

    edit_tensors(dead, edit)
    report = calibrate(dead, TOKENS, tmp_path / "c.safetensors", statistics=["absmax", "absmean", "hessian"], device="cpu")
    assert report["dead"]["model.layers.0.self_attn.q_proj.weight"] == 2
    report, _ = quantize(dead, tmp_path / "q", name, tmp_path / "c.safetensors")
    assert len(report["weights"]) == 7 and all(np.isfinite(weight["relative_frobenius"]) and weight["relative_frobenius"] < 1 for weight in report["weights"])


def damage(file, copy, change):
    data = bytearray(file.read_bytes())
    change(data)
    copy.write_bytes(data)


def test_damaged_files(directory, file, tmp_path):
    entries, _ = read_header(str(file))
    entry = entries[f"hessian/{CalibrationFile(file).aliases.get(NAME, NAME)}"]
    broken = tmp_path / "broken.safetensors"

    def cut(data):
        del data[-100:]

    def poison(data):
        data[entry.begin : entry.begin + 4] = np.float32(np.nan).tobytes()

    for change, message in ((cut, "broken.safetensors"), (poison, "finite|NaN|infinit")):
        damage(file, broken, change)
        before = broken.read_bytes()
        with pytest.raises(QuantLLMError, match=message):
            quantize(directory, tmp_path / "q", "gptq", broken)
        assert os.listdir(tmp_path) == ["broken.safetensors"] and broken.read_bytes() == before
