#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Quantizes a model by the package of somebody else, with that package's own default settings.

  quality_peers.py METHOD MODEL --tokens TOKENS.npy --output WEIGHTS.safetensors [--bits 4] [--group 64] [--device cpu|cuda]

METHOD is gptq or awq (package llmcompressor), hqq (package hqq) or autoround (package auto-round); MODEL a Hugging Face
directory; TOKENS.npy the calibration sample, an array [samples, length]. Only the width and the group are set: asymmetric
integers, all linears but the head. The weights are written as the values that they stand for, under the names of
the parameters of the model, so that any program can judge them. Without --output nothing is written. Prints one
line of JSON. Nothing here uses quant-llm. Exit status 3 if the package is not installed.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time

NOT_INSTALLED = 3
PACKAGES = {"gptq": ("llmcompressor", "compressed-tensors"), "awq": ("llmcompressor", "compressed-tensors"), "hqq": ("hqq",), "autoround": ("auto-round",)}


def load(arguments):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    return model.to(arguments.device)


def read_tokens(path):
    import numpy as np
    import torch

    return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.int64))


def named_linears(model):
    import torch

    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"}


def with_llmcompressor(arguments):
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.cuda.is_available():
        # Version 0.14.0.1 pins memory for transfers, which fails where there is no accelerator.
        IntermediatesCache.pin_memory = lambda *_, **__: None
    weights = QuantizationArgs(num_bits=arguments.bits, type="int", symmetric=False, strategy="group", group_size=arguments.group)
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    if arguments.method == "gptq":
        steps = [GPTQModifier(config_groups=groups, ignore=["lm_head"])]
    else:
        steps = [AWQModifier(), QuantizationModifier(config_groups=groups, ignore=["lm_head"])]
    tokens = read_tokens(arguments.tokens).tolist()
    data = Dataset.from_dict({"input_ids": tokens, "attention_mask": [[1] * len(row) for row in tokens]})
    model = load(arguments)
    begin = time.perf_counter()
    model = oneshot(
        model=model, recipe=steps, dataset=data, num_calibration_samples=len(tokens), max_seq_length=len(tokens[0]), shuffle_calibration_samples=False, pipeline="sequential"
    )
    seconds = time.perf_counter() - begin
    values = {name: parameter.detach() for name, parameter in model.named_parameters() if "weight_" not in name}
    for name, module in named_linears(model).items():
        values[name + ".weight"] = fake_quantize(module.weight.detach(), module.weight_scale, module.weight_zero_point, module.quantization_scheme.weights)
    return values, seconds


def with_hqq(arguments):
    import torch
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    model = load(arguments)
    begin = time.perf_counter()
    values = {}
    for name, module in named_linears(model).items():
        settings = BaseQuantizeConfig(nbits=arguments.bits, group_size=arguments.group)
        layer = HQQLinear(module, settings, compute_dtype=torch.float16, device=arguments.device, del_orig=False)
        values[name + ".weight"] = layer.dequantize()
    return values, time.perf_counter() - begin


def with_autoround(arguments):
    import torch
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    tokens = read_tokens(arguments.tokens)
    model = load(arguments)
    begin = time.perf_counter()
    rows = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in tokens]
    method = AutoRound(
        model, AutoTokenizer.from_pretrained(arguments.model), bits=arguments.bits, group_size=arguments.group, sym=False,
        dataset=_batches(rows, 8), nsamples=len(rows), seqlen=tokens.shape[1], device_map=arguments.device,
    )
    model, _ = method.quantize()
    return {name + ".weight": module.weight.detach() for name, module in named_linears(model).items()}, time.perf_counter() - begin


def _batches(rows, size):
    """A loader of batches of exactly `size` samples, as auto-round wants."""
    import torch

    return torch.utils.data.DataLoader(rows, batch_size=size, drop_last=True, collate_fn=lambda batch: {key: torch.cat([row[key] for row in batch]) for key in batch[0]})


METHODS = {"gptq": with_llmcompressor, "awq": with_llmcompressor, "hqq": with_hqq, "autoround": with_autoround}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("model")
    parser.add_argument("--tokens", required=True, metavar="TOKENS.npy")
    parser.add_argument("--output", metavar="WEIGHTS.safetensors")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    try:
        versions = {name: importlib.metadata.version(name) for name in (*PACKAGES[arguments.method], "torch", "transformers")}
    except importlib.metadata.PackageNotFoundError as error:
        print(f"quality_peers.py: the package {error.name} is not installed", file=sys.stderr)
        return NOT_INSTALLED
    import torch

    # The results of the packages go to files, their messages to the standard error.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    values, seconds = METHODS[arguments.method](arguments)
    # Scales of 16 bits; zeros are integers of the weight's width, but of 16 bits where they are floats.
    zero = 16 if arguments.method == "hqq" else arguments.bits
    record = {
        "bits_per_weight": arguments.bits + (16 + zero) / arguments.group,
        "seconds": seconds,
        "device_peak_mib": torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None,
        "versions": versions,
    }
    if arguments.output:
        from safetensors.torch import save_file

        save_file({name: value.float().cpu().contiguous().clone() for name, value in values.items()}, arguments.output)
    print(json.dumps(record), file=out, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
