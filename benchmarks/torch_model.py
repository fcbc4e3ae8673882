# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""A Llama model under quant_llm.torch beside the same model with dense weights: perplexity, and tokens per second in CUDA graphs.

Needs no compiler: the artifact is that of quant_llm.torch.build_artifact for a directory that `quant-llm quantize` wrote. Of that directory only
config.json is read, and dense tensors (embedding, norms) from --dense, by default its model.safetensors. --tokens is a file of
int32 token ids. Perplexity is that of `quant-llm eval`: windows that do not overlap.

    torch_model.py --model DIR --artifact DIR --tokens FILE --windows 8 [--json FILE]

The dense model has the dequantized weights in f16. Both models run the same code: batch 1, a static cache, one graph per measurement.
"""

import argparse
import json
import math
import os
import statistics
import sys

import torch
import transformers

import quant_llm.torch as ql

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_model(options):
    """(quantized, dense)."""
    config = transformers.AutoConfig.from_pretrained(options.model)
    models = []
    for _ in range(2):
        with torch.device(DEVICE):
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()
        archive = ql._Archive(options.dense or os.path.join(options.model, "model.safetensors"))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in archive.entries:
                    parameter.copy_(archive.tensor(name))
        model.requires_grad_(False)
        models.append(ql.load_quantized(model, options.artifact))
    dense = models[1]
    for name, module in list(dense.named_modules()):
        if isinstance(module, ql.QuantLinear):
            linear = torch.nn.Linear(module.in_features, module.out_features, bias=False, device=DEVICE, dtype=torch.float16)
            linear.weight.data.copy_(module.dequantize())
            ql._replace(dense, name, linear.requires_grad_(False))
    return models


def perplexity(model, tokens, window, windows):
    total, count = 0.0, 0
    for i in range(windows):
        ids = tokens[i * window : (i + 1) * window].to(DEVICE)
        logits = model(ids[None], use_cache=False).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
        count += window - 1
    return math.exp(total / count)


class Decoder:
    """The layers of a Llama model on a static cache."""

    def __init__(self, model, length):
        self.model, self.config = model, model.config
        heads, width = self.config.num_key_value_heads, self.config.head_dim
        shape = (self.config.num_hidden_layers, 1, heads, length, width)
        self.keys, self.values = (torch.zeros(shape, dtype=torch.float16, device=DEVICE) for _ in range(2))
        self.columns = torch.arange(length, device=DEVICE)

    def __call__(self, ids, positions):
        """Logits of the last token."""
        inner, count = self.model.model, ids.shape[1]
        hidden = inner.embed_tokens(ids)
        cos, sin = inner.rotary_emb(hidden, positions[None])
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        mask = self.columns <= positions[:, None]

        def split(x):
            return x.view(1, count, -1, self.config.head_dim).transpose(1, 2)

        def rotate(x):
            low, high = x.chunk(2, -1)
            return x * cos + torch.cat((-high, low), -1) * sin

        for i, layer in enumerate(inner.layers):
            x = layer.input_layernorm(hidden)
            attention = layer.self_attn
            query, key, value = rotate(split(attention.q_proj(x))), rotate(split(attention.k_proj(x))), split(attention.v_proj(x))
            self.keys[i].index_copy_(2, positions, key)
            self.values[i].index_copy_(2, positions, value)
            x = torch.nn.functional.scaled_dot_product_attention(query, self.keys[i], self.values[i], attn_mask=mask, enable_gqa=True)
            hidden = hidden + attention.o_proj(x.transpose(1, 2).reshape(1, count, -1))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.model.lm_head(inner.norm(hidden[:, -1:]))


def time_graph(run, replays):
    """Median, smallest and largest seconds of a replay, and what the run returns."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    for _ in range(5):
        graph.replay()
    times = []
    for _ in range(replays):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times), min(times), max(times), result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--dense", help="safetensors file with the tensors that are not quantized")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--prompts", default="16,128,1024", help="lengths of prompts to time (default: %(default)s)")
    parser.add_argument("--context", type=int, default=512, help="tokens before the one that is decoded (default: 512)")
    parser.add_argument("--compile", action="store_true", help="also time decoding under torch.compile")
    parser.add_argument("--json")
    options = parser.parse_args()
    with open(options.tokens, "rb") as file:
        tokens = torch.frombuffer(bytearray(file.read()), dtype=torch.int32).long()
    quantized, dense = make_model(options)
    record = {"torch": torch.__version__, "transformers": transformers.__version__, "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"}
    with torch.no_grad():
        for name, model in (("quantized", quantized), ("dense", dense)):
            entry = record[name] = {"perplexity": perplexity(model, tokens, options.window, options.windows)}
            print(name, entry, flush=True)
            length = options.context + 64
            decoder = Decoder(model, max(length, options.window))
            prompt = tokens[: options.context].to(DEVICE)
            logits = decoder(prompt[None], torch.arange(options.context, device=DEVICE))
            expected = model(prompt[None], use_cache=False).logits[:, -1:]
            entry["decoder_error"] = float((logits - expected).float().norm() / expected.float().norm())
            if DEVICE != "cuda":
                continue
            position = torch.tensor([options.context], device=DEVICE)
            following = tokens[options.context : options.context + 1].to(DEVICE)[None]
            median, low, high, _ = time_graph(lambda: decoder(following, position), 200)
            entry["decode"] = {"us": median * 1e6, "us_min": low * 1e6, "us_max": high * 1e6, "tokens_per_s": 1 / median}
            print(name, "decode", entry["decode"], flush=True)
            if options.compile:
                compiled = torch.compile(decoder, fullgraph=True)
                median, low, high, _ = time_graph(lambda: compiled(following, position), 200)
                entry["decode_compiled"] = {"us": median * 1e6, "us_min": low * 1e6, "us_max": high * 1e6, "tokens_per_s": 1 / median}
                print(name, "decode, torch.compile", entry["decode_compiled"], flush=True)
            for count in map(int, options.prompts.split(",")):
                ids, positions = tokens[:count].to(DEVICE)[None], torch.arange(count, device=DEVICE)
                median, low, high, _ = time_graph(lambda: decoder(ids, positions), 30)
                entry[f"prefill_{count}"] = {"us": median * 1e6, "us_min": low * 1e6, "us_max": high * 1e6, "tokens_per_s": count / median}
                print(name, count, entry[f"prefill_{count}"], flush=True)
    print(json.dumps(record))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(record, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
