#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Perplexity of a quantized model in PyTorch, in float32.

  quality_judge.py MODEL [--weights WEIGHTS.safetensors] --tokens NAME=TOKENS.npy:WINDOWS... [--width 1024] [--device cpu|cuda]

MODEL is anything that quant-llm reads, which is run through the PyTorch source that the project prints of it. With
--transformers it is a Hugging Face directory and Transformers runs it; what is in WEIGHTS.safetensors takes the place of
the parameters of these names. TOKENS.npy is a text, tokenized once; the perplexity is that of all predictions in
the first WINDOWS windows of --width tokens that do not overlap. Prints one line of JSON.
"""

import argparse
import json
import math

import numpy as np
import torch


def run_ours(path, device):
    """A function from tokens to logits."""
    import os

    from quant_llm import model as models
    from quant_llm.calibration import Parameters, translate

    with models.open_directory(path) as directory:
        name = os.path.join(directory, "model.mlir")
        with open(name, encoding="utf-8") as file:
            text = file.read()
        part = translate(text, name=name)
        parameters = Parameters(text, name=name).load(part.parameters, device=device, dtype=torch.float32)

    def run(tokens):
        values, found = [], False
        for value in part.inputs:
            shape = value["shape"]
            if value["dtype"].startswith("int"):
                # The tokens, and a position.
                values.append(0 if shape is None or found else tokens[None] if len(shape) == 2 else tokens)
                found = found or shape is not None
            else:  # caches
                values.append(torch.zeros((), device=device).expand([len(tokens) if size < 0 else size for size in shape]))
        logits = part(*values, parameters=parameters, dtype=torch.float32)[0]
        return logits.float().reshape(len(tokens), -1)

    return run


def run_transformers(path, weights, device):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    if weights:
        from safetensors.torch import load_file

        values = load_file(weights)
        unknown = sorted(set(values) - set(dict(model.named_parameters())))
        if unknown:
            raise SystemExit(f"quality_judge.py: the model has no parameter '{unknown[0]}'")
        for name, value in values.items():
            model.get_parameter(name).data.copy_(value)
    model.to(device)
    return lambda tokens: model(input_ids=tokens[None], use_cache=False).logits[0].float()


@torch.no_grad()
def perplexity(run, tokens, windows, width):
    total, count = 0.0, 0
    for begin in range(0, min(windows, len(tokens) // width) * width, width):
        window = tokens[begin : begin + width]
        logits = run(window)[:-1]
        total += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").double().item()
        count += width - 1
    if not count:
        raise SystemExit(f"quality_judge.py: expected at least one window of {width} tokens but the text has {len(tokens)}")
    return math.exp(total / count) if total / count < 700 else math.inf, count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--weights", metavar="WEIGHTS.safetensors")
    parser.add_argument("--tokens", required=True, nargs="+", metavar="NAME=TOKENS.npy:WINDOWS")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    run = run_transformers(arguments.model, arguments.weights, arguments.device) if arguments.transformers else run_ours(arguments.model, arguments.device)
    record = {"perplexity": {}, "tokens": {}}
    for text in arguments.tokens:
        name, _, rest = text.partition("=")
        path, _, windows = rest.rpartition(":")
        tokens = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.int64)).to(arguments.device)
        record["perplexity"][name], record["tokens"][name] = perplexity(run, tokens, int(windows), arguments.width)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
