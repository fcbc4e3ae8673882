#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""An independent check: round-to-nearest quantization and perplexity in PyTorch and Transformers alone.

  uniform_reference.py MODEL --text FILE [--windows 16] [--device cpu|cuda] [--json FILE] SETTING...

MODEL is a Hugging Face directory or a GGUF file, whose matrices are rounded to f16 as quant-import does. A SETTING is `fp`, or BITS:GROUP[:asym], where GROUP is a number or `channel`. Nothing here uses quant-llm: the
formulas of docs/Spec.md (rules absmax and minmax, f16 scales, half-to-even) are written again in PyTorch.
Perplexity: the text tokenized once without special tokens, non-overlapping windows of 1024 tokens.
"""

import argparse
import json
import math
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def round_to_nearest(weight, bits, group, asymmetric):
    """Quantizes and dequantizes a [N, K] matrix in f32 with one f16 scale per `group` inputs."""
    rows, columns = weight.shape
    group = columns if group is None else group
    padding = -columns % group
    padded = torch.nn.functional.pad(weight.float(), (0, padding))
    # A ragged last group may hold padding: zeros change neither |w| nor a range that includes 0.
    cells = padded.view(rows, -1, group)
    if asymmetric:
        low = cells.amin(2, keepdim=True).clamp(max=0)
        high = cells.amax(2, keepdim=True).clamp(min=0)
        scale = ((high - low) / (2**bits - 1)).half().float()
        scale[scale == 0] = 1
        zero = torch.round(-low / scale).clamp(0, 2**bits - 1)
        codes = torch.round(cells / scale + zero).clamp(0, 2**bits - 1)
        values = scale * (codes - zero)
    else:
        scale = (cells.abs().amax(2, keepdim=True) / (2 ** (bits - 1) - 1)).half().float()
        scale[scale == 0] = 1
        codes = torch.round(cells / scale).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        values = scale * codes
    return values.reshape(rows, -1)[:, :columns]


@torch.no_grad()
def perplexity(model, ids, windows, width=1024):
    total, tokens = 0.0, 0
    for start in range(0, min(windows, len(ids) // width) * width, width):
        window = ids[None, start : start + width].to(model.device)
        logits = model(input_ids=window, use_cache=False).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").double().item()
        tokens += width - 1
    return math.exp(total / tokens), tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("settings", nargs="+")
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()

    torch.backends.cuda.matmul.allow_tf32 = False
    directory, options = arguments.model, {}
    if arguments.model.is_file():
        directory, options = arguments.model.resolve().parent, {"gguf_file": arguments.model.name}
    tokenizer = AutoTokenizer.from_pretrained(directory, **options)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **options).eval().to(arguments.device)
    if options:
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.data = parameter.data.half().float()
    ids = tokenizer(arguments.text.read_text(encoding="utf-8"), return_tensors="pt", add_special_tokens=False).input_ids[0]
    original = {
        name: module.weight.detach().clone()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    results = {}
    for setting in arguments.settings:
        for name, weight in original.items():
            value = weight
            if setting != "fp":
                bits, group, *rest = setting.split(":")
                value = round_to_nearest(weight, int(bits), None if group == "channel" else int(group), rest == ["asym"])
            model.get_submodule(name).weight.data.copy_(value)
        value, tokens = perplexity(model, ids, arguments.windows)
        results[setting] = {"perplexity": value, "tokens": tokens}
        print(f"{setting:>16}  perplexity {value:9.4f}  ({tokens} predictions)", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
