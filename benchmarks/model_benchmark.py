#!/usr/bin/env python3
# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Speed of whole models beside Hugging Face Transformers in fp32, in one process
and in turns, so that both see the same machine in the same state.

  model_benchmark.py MODEL.gguf|HF_DIR [NAME=DIR ...] [--threads 2] [--json FILE]

MODEL is what Transformers loads; it is also imported and run by us. NAME=DIR are
further models for us, such as int4=quickstart-out/int4. Measured are the prefill
of --prefill tokens, and the decode of --decode tokens one by one after a prompt
of --prompt tokens. Every repetition measures all models, one after the other;
the ratio to Transformers is taken within a repetition. Reported are medians with
the lowest and the highest.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("ours", nargs="*", metavar="NAME=DIR")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--decode", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json")
    return parser.parse_args()


class Transformers:
    """Greedy decoding with the model's own cache, without generate()'s overhead."""

    def __init__(self, path, threads):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        options = {"dtype": torch.float32}
        if os.path.isfile(path):
            options["gguf_file"] = os.path.basename(path)
            path = os.path.dirname(os.path.abspath(path))
        self.model = AutoModelForCausalLM.from_pretrained(path, **options).eval()
        self.version = f"transformers, torch {torch.__version__}"

    def run(self, tokens, decode):
        torch = self.torch
        with torch.inference_mode():
            start = time.perf_counter()
            out = self.model(input_ids=torch.tensor([tokens]), use_cache=True)
            token = int(out.logits[0, -1].argmax())
            middle = time.perf_counter()
            for _ in range(decode):
                out = self.model(input_ids=torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
                token = int(out.logits[0, -1].argmax())
        return middle - start, time.perf_counter() - middle


class Ours:
    def __init__(self, path, threads):
        from quant_llm.model import Model

        self.model = Model.load(path, threads=threads)

    def run(self, tokens, decode):
        import numpy as np

        cache = self.model.new_cache(len(tokens) + decode)
        start = time.perf_counter()
        token = int(np.argmax(self.model.forward(tokens, cache)[-1]))
        middle = time.perf_counter()
        for _ in range(decode):
            token = int(np.argmax(self.model.forward([token], cache)[-1]))
        return middle - start, time.perf_counter() - middle


def summary(values):
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def show(values, digits=1):
    return f"{values['median']:.{digits}f} ({values['low']:.{digits}f} to {values['high']:.{digits}f})"


def cpu():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def main():
    arguments = parse()
    # Idle threads of one OpenMP runtime must not spin while the other measures.
    os.environ.setdefault("KMP_BLOCKTIME", "50")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    models = {"transformers fp32": Transformers(arguments.model, arguments.threads), "ours, original": Ours(arguments.model, arguments.threads)}
    for item in arguments.ours:
        name, equals, path = item.partition("=")
        if not equals:
            sys.exit(f"model_benchmark.py: error: expected NAME=DIR but got '{item}'")
        models[f"ours, {name}"] = Ours(path, arguments.threads)

    tokens = [1000 + 7 * i % 20000 for i in range(max(arguments.prefill, arguments.prompt))]
    vocabulary = models["ours, original"].model.vocabulary_size
    tokens = [t % vocabulary for t in tokens]
    seconds = {name: {"prefill": [], "decode": []} for name in models}
    for repetition in range(arguments.repeat + 1):  # the first one warms up
        for name, model in models.items():
            time.sleep(0.2)
            prefill, _ = model.run(tokens[: arguments.prefill], 0)
            _, decode = model.run(tokens[: arguments.prompt], arguments.decode)
            if repetition:
                seconds[name]["prefill"].append(prefill)
                seconds[name]["decode"].append(decode)

    base = seconds["transformers fp32"]
    count = {"prefill": arguments.prefill, "decode": arguments.decode}
    result = {
        "cpu": cpu(), "threads": arguments.threads, "baseline": models["transformers fp32"].version, "repeat": arguments.repeat,
        "prefill": arguments.prefill, "prompt": arguments.prompt, "decode": arguments.decode, "models": {},
    }
    for name in models:
        result["models"][name] = {
            phase: {
                "tokens_per_second": summary([count[phase] / s for s in seconds[name][phase]]),
                "ratio": summary([b / s for b, s in zip(base[phase], seconds[name][phase])]),
            }
            for phase in ("prefill", "decode")
        }
    print(f"{result['cpu']}, {arguments.threads} threads; {result['baseline']}; {arguments.repeat} repetitions, median (lowest to highest)")
    print(f"prefill of {arguments.prefill} tokens; decode of {arguments.decode} tokens after {arguments.prompt}")
    for name, phases in result["models"].items():
        for phase, values in phases.items():
            print(f"{name:18} {phase:8} {show(values['tokens_per_second']):32} tokens/s   {show(values['ratio'], 2):24} times Transformers")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(result, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
