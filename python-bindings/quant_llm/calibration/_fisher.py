# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The squares of gradients, part by part from the last to the first.

Every part is run again with the values that it had on the way forward, this time
with gradients, which are multiplied with those of its results.
"""

import os

import torch
import torch.distributed
import torch.nn.functional as F

from .._errors import QuantLLMError
from ._file import write_tensors


def run_fisher(run, done, mine, total):
    """`done` parts of the way back are done."""
    parts = run.parts
    if _find_logits(parts[-1]) is None:
        raise QuantLLMError("expected a function that returns logits, [tokens, vocabulary], for the gradients of their loss")
    gradients = {sample: {} for sample in mine}
    if done:
        gradients = _load(run, done)
    for at in reversed(range(len(parts) - done)):
        back = len(parts) - at
        part = parts[at]
        squares = _run_part(run, at, gradients, total, back)
        if run.world > 1:
            for tensor in squares.values():
                torch.distributed.all_reduce(tensor)
        _save(run, back, gradients)
        if run.rank == 0:
            tensors = {f"fisher/{weight}": (tensor / len(run.tokens)).cpu().numpy() for weight, tensor in squares.items()}
            write_tensors(run.file(f"fisher-{at}.safetensors"), tensors)
        run.barrier()
        if run.rank == 0:
            run.write_progress(len(parts) + back)
        run.barrier()
        for path in (run.state_file(at + 1), _file(run, back - 1)):
            if os.path.exists(path):
                os.remove(path)


def _find_logits(part):
    """Which of the results of the last part are the logits."""
    for i, value in reversed(list(enumerate(part.outputs))):
        if value["dtype"] == "float" and value["shape"] is not None and len(value["shape"]) in (2, 3):
            return i
    return None


def _run_part(run, at, gradients, total, back):
    part = run.parts[at]
    if at == 0 and not part.linears:
        return {}
    parameters = run.parameters.load(part.parameters, device=run.device, dtype=run.dtype)
    weights = {w: parameters[w].requires_grad_() for w in dict.fromkeys(part.linears) if w in parameters}
    squares = {w: torch.zeros(tuple(p.shape), device=run.device) for w, p in weights.items()}
    for number, (sample, values) in enumerate(run.load_values(at).items()):
        run.report(len(run.parts) + back - 1, total, number, len(gradients), f"gradients of {run.names[at]}")
        arguments = run.move(part, values)
        wanted = {}
        if at > 0:
            for value, argument in zip(part.inputs, arguments):
                if value["slots"] is None and value["dtype"] == "float" and value["shape"] is not None:
                    wanted[value["id"]] = argument.requires_grad_()
        with torch.enable_grad():
            results = part(*arguments, parameters=parameters, dtype=run.dtype, tap=lambda weight, x: x)
            outputs, seeds = [], []
            if at == len(run.parts) - 1:
                tokens = torch.from_numpy(run.tokens[sample]).to(run.device)
                logits = results[_find_logits(part)]
                logits = logits.reshape(-1, logits.shape[-1]).float()
                outputs, seeds = [F.cross_entropy(logits[:-1], tokens[1:])], [None]
            for value, result in zip(part.outputs, results):
                seed = gradients[sample].pop(value["id"], None)
                if seed is not None and result.requires_grad:
                    outputs.append(result)
                    seeds.append(seed.to(run.device))
            leaves = list(weights.values()) + list(wanted.values())
            found = torch.autograd.grad(outputs, leaves, seeds, allow_unused=True) if outputs and leaves else [None] * len(leaves)
        for weight, gradient in zip(weights, found):
            if gradient is not None:
                if not torch.isfinite(gradient).all():
                    raise QuantLLMError(f"{run.names[at]}, sample {sample}: the gradient of '{weight}' has infinities or NaN; take another dtype (now {run.dtype_name})")
                squares[weight] += gradient.float().square()
        for key, gradient in zip(wanted, found[len(weights):]):
            if gradient is not None:
                before = gradients[sample].get(key)
                gradients[sample][key] = gradient.cpu() if before is None else before + gradient.cpu()
    return squares


def _file(run, back):
    return run.file(f"values-gradients{back}-{run.rank}.safetensors")


def _save(run, back, gradients):
    run.save_values(f"gradients{back}", gradients)


def _load(run, back):
    return run.load_values(f"gradients{back}")
