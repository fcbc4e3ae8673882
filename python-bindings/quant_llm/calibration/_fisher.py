# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The squares of gradients, part by part from the last to the first.

Every part is run again with the values that it had on the way forward, this time
with gradients, which are multiplied with those of its results.
"""

import os

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .._calibrate import FISHER, ROW_FISHER
from .._errors import QuantLLMError
from ._file import write_tensors

# Predictions of so many tokens at a time are summed up in double precision.
_TOKENS_AT_A_TIME = 64


class _WatchLinears(TorchFunctionMode):
    """While it is active, keeps weight, input and output of every linear whose
    input passes through `tap`."""

    def __init__(self):
        super().__init__()
        self.found = []
        self._waiting = None

    def tap(self, weight, x):
        self.finish()
        self._waiting = (weight, x)
        return x

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is F.linear and self._waiting is not None and args[0] is self._waiting[1]:
            self.found.append((*self._waiting, result))
            self._waiting = None
        return result

    def finish(self):
        if self._waiting is not None:
            raise QuantLLMError(f"expected the linear of '{self._waiting[0]}' to be computed by torch.nn.functional.linear")


class _OfWeights:
    """The statistic fisher: squares of the gradient of the sample's loss."""

    def __init__(self, run, weights):
        self.weights = weights
        self.sums = {w: torch.zeros(tuple(p.shape), device=run.device) for w, p in weights.items()}
        self.count = len(run.tokens)

    def find_loss(self, run, sample, logits):
        """Of `logits`, [tokens, vocabulary]."""
        tokens = torch.from_numpy(run.tokens[sample]).to(run.device)
        return F.cross_entropy(logits[:-1], tokens[1:])

    def find_leaves(self, linears):
        """Triples of a weight, the input of its linear, and the tensor by which is
        differentiated; `linears` are those of _WatchLinears."""
        return [(weight, None, parameter) for weight, parameter in self.weights.items()]

    def add(self, weight, x, gradient):
        self.sums[weight] += gradient.float().square()


class _OfRows:
    """The statistic row-fisher: squares token by token, of tokens drawn from the
    predictions of the model, each times the squared length of the input."""

    def __init__(self, run, weights):
        self.sums = {w: torch.zeros(p.shape[0], dtype=torch.float64, device=run.device) for w, p in weights.items()}
        self.count = sum(map(len, run.tokens))

    def find_loss(self, run, sample, logits):
        # The same draws wherever the sample is run.
        draws = np.random.Generator(np.random.PCG64([run.seed, sample])).random(len(logits))
        draws = torch.from_numpy(draws).to(run.device)
        tokens = []
        with torch.no_grad():
            for rows, draw in zip(logits.split(_TOKENS_AT_A_TIME), draws.split(_TOKENS_AT_A_TIME)):
                sums = F.softmax(rows.double(), -1).cumsum(-1)
                tokens.append(torch.searchsorted(sums, draw[:, None] * sums[:, -1:], right=True)[:, 0])
        return F.cross_entropy(logits, torch.cat(tokens).clamp(max=logits.shape[-1] - 1), reduction="sum")

    def find_leaves(self, linears):
        return [entry for entry in linears if entry[0] in self.sums and entry[2].requires_grad]

    def add(self, weight, x, gradient):
        gradient = gradient.reshape(-1, gradient.shape[-1]).float()
        energy = x.detach().reshape(-1, x.shape[-1]).float().square().sum(1)
        self.sums[weight] += (gradient.square() * energy[:, None]).sum(0, dtype=torch.float64)


_WAYS = {FISHER: _OfWeights, ROW_FISHER: _OfRows}


def run_fisher(run, statistic, before, done, is_last, mine, total):
    """Goes back for a statistic: `done` parts are done, and `before` in other ways
    back. With `is_last` none comes after it, so that values of parts can go."""
    parts = run.parts
    if _find_logits(parts[-1]) is None:
        raise QuantLLMError("expected a function that returns logits, [tokens, vocabulary], for the gradients of their loss")
    gradients = {sample: {} for sample in mine}
    if done:
        gradients = run.load_values(_name(before + done))
    for at in reversed(range(len(parts) - done)):
        back = before + len(parts) - at
        sums, count = _run_part(run, statistic, at, gradients, total, back)
        if run.world > 1:
            for tensor in sums.values():
                torch.distributed.all_reduce(tensor)
        run.save_values(_name(back), gradients)
        if run.rank == 0:
            tensors = {f"{statistic}/{weight}": (tensor / count).float().cpu().numpy() for weight, tensor in sums.items()}
            write_tensors(run.file(f"{statistic}-{at}.safetensors"), tensors)
        run.barrier()
        if run.rank == 0:
            run.write_progress(len(parts) + back)
        run.barrier()
        for path in ([run.state_file(at + 1)] if is_last else []) + [run.state_file(_name(back - 1))]:
            if os.path.exists(path):
                os.remove(path)


def _find_logits(part):
    """Which of the results of the last part are the logits."""
    for i, value in reversed(list(enumerate(part.outputs))):
        if value["dtype"] == "float" and value["shape"] is not None and len(value["shape"]) in (2, 3):
            return i
    return None


def _run_part(run, statistic, at, gradients, total, back):
    """Sums of squares of all linears of a part, and by what they are divided."""
    part = run.parts[at]
    if at == 0 and not part.linears:
        return {}, 1
    parameters = run.parameters.load(part.parameters, device=run.device, dtype=run.dtype)
    way = _WAYS[statistic](run, {w: parameters[w].requires_grad_() for w in dict.fromkeys(part.linears) if w in parameters})
    for number, (sample, values) in enumerate(run.load_values(at).items()):
        run.report(len(run.parts) + back - 1, total, number, len(gradients), f"gradients of {run.names[at]}")
        arguments = run.move(part, values)
        wanted = {}
        if at > 0:
            for value, argument in zip(part.inputs, arguments):
                if value["slots"] is None and value["dtype"] == "float" and value["shape"] is not None:
                    wanted[value["id"]] = argument.requires_grad_()
        watch = _WatchLinears()
        with torch.enable_grad():
            with watch:
                results = part(*arguments, parameters=parameters, dtype=run.dtype, tap=watch.tap)
            watch.finish()
            outputs, seeds = [], []
            if at == len(run.parts) - 1:
                logits = results[_find_logits(part)]
                outputs, seeds = [way.find_loss(run, sample, logits.reshape(-1, logits.shape[-1]).float())], [None]
            for value, result in zip(part.outputs, results):
                seed = gradients[sample].pop(value["id"], None)
                if seed is not None and result.requires_grad:
                    outputs.append(result)
                    seeds.append(seed.to(run.device))
            linears = way.find_leaves(watch.found)
            leaves = [leaf for _, _, leaf in linears] + list(wanted.values())
            found = torch.autograd.grad(outputs, leaves, seeds, allow_unused=True) if outputs and leaves else [None] * len(leaves)
        for (weight, x, _), gradient in zip(linears, found):
            if gradient is not None:
                if not torch.isfinite(gradient).all():
                    run.refuse_infinite(at, f"sample {sample}: the gradient of '{weight}'", reversed(range(len(run.parts))))
                way.add(weight, x, gradient)
        for key, gradient in zip(wanted, found[len(linears):]):
            if gradient is not None:
                before = gradients[sample].get(key)
                gradients[sample][key] = gradient.cpu() if before is None else before + gradient.cpu()
        # Logits and all outputs of the part, which the next sample should find room for.
        del results, outputs, seeds, linears, leaves, found, watch
    return way.sums, way.count


def _name(back):
    return f"gradients{back}"
