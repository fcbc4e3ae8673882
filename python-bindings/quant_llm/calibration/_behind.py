# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Statistics behind layers that are quantized already, one group of linears after
another (true-sequential GPTQ; the asymmetric objective of GPTAQ,
arXiv:2504.02692).

Two streams go through the model, that of the original x and that of the weights
quantized so far, y. For every group of linears with one input its Hessian
E[y^T y] and drift E[(x - y)^T y] are measured, the group is quantized with them,
and the stream y goes on through what that made of it.
"""

import contextlib
import hashlib
import json
import os

import numpy as np
import torch

from .. import run_pipeline
from .._calibrate import ATTENTION, ATTENTION_ENERGY
from .._errors import QuantLLMError
from ._driver import _PIPELINE, _Enough, _Run, _precise_products
from ._file import write_tensors
from ._parameters import Parameters
from ._source import translate
from ._statistics import InputStatistics


def calibrate_behind(model, tokens, output, *, token_weights=None, dtype="float32", device=None, restart=False, progress=None):
    """Runs `model`, what quant_llm.model.quantize_directory() gives to `behind`, on
    `tokens` and writes the calibration file `output` with the statistics `hessian`
    and `drift` of every weight that is to be quantized. The other arguments are those of
    calibrate(), of whose weights of tokens those by attention cannot be had. With "energy"
    the inputs of the original model say how large a token is.

    Until it is complete, the work is in the directory `output`.partial, from where
    the same call goes on. Returns a dict as calibrate(). Raises QuantLLMError."""
    if isinstance(token_weights, str) and token_weights in (ATTENTION, ATTENTION_ENERGY):
        raise QuantLLMError(f"expected token weights '{token_weights}' for calibrations of the original model only")
    module = run_pipeline(model.text, _PIPELINE, name=model.path)
    run = _BehindRun(module, model.path, output)
    if run.world > 1:
        raise QuantLLMError(f"expected one process behind quantized layers, whose weights wait for all samples, but there are {run.world}")
    run.configure(tokens, ("hessian",), token_weights, (), 1, 0, dtype, device)
    run.follow(model)
    run.progress = progress
    with contextlib.ExitStack() as stack:
        _precise_products(stack)
        return run.run(restart)


class _Spool:
    """Tensors in a file, while a part needs them: together they are several times
    as large as the values between parts."""

    def __init__(self, path, device):
        self.path, self.device, self.places, self.end = path, device, {}, 0

    def __enter__(self):
        try:
            self.file = open(self.path, "w+b")
        except OSError as error:
            raise QuantLLMError(f"cannot write '{self.path}': {error.strerror}") from None
        return self

    def __exit__(self, *_):
        # What could not be written is known already, and not needed any more.
        with contextlib.suppress(OSError):
            self.file.close()
        os.remove(self.path)

    def write(self, key, tensor):
        data = tensor.cpu().contiguous().view(torch.uint8).reshape(-1).numpy()
        try:
            self.file.seek(self.end)
            self.file.write(data)
            self.file.flush()
        except OSError as error:
            raise QuantLLMError(f"cannot write '{self.path}': {error.strerror}") from None
        self.places[key] = self.end, data.size, tensor.shape, tensor.dtype
        self.end += data.size

    def read(self, key):
        begin, size, shape, dtype = self.places[key]
        data = torch.empty(size, dtype=torch.uint8)
        self.file.seek(begin)
        if self.file.readinto(data.numpy()) != size:
            raise QuantLLMError(f"cannot read '{self.path}': it ends too early")
        return data.view(dtype).reshape(shape).to(self.device)


class _BehindRun(_Run):
    """Values of samples, as of _Run, are those of y; those of x have the number
    -1 - sample."""

    def follow(self, model):
        self.model = model
        method = hashlib.sha256(model.method.encode()).hexdigest()
        self.metadata["behind"] = self.configuration["behind"] = method
        self.configuration["schemes"] = hashlib.sha256(json.dumps(model.planned, sort_keys=True).encode()).hexdigest()

    def run_part(self, at, values, total):
        part = self.parts[at]
        if at == 0:
            values |= {-1 - sample: dict(entry) for sample, entry in values.items()}
        original = self.parameters.load(part.parameters, device=self.device, dtype=self.dtype)
        quantized, common = dict(original), self.find_common(values)
        samples = [sample for sample in values if sample >= 0]
        groups = [group for group in self._find_groups(part, values[samples[0]], original, common) if group[1]]
        # The last part has no outputs that anything needs.
        is_last = at == len(self.parts) - 1
        steps, step = len(groups) + 2, 0

        def each_sample():
            nonlocal step
            for count, sample in enumerate(samples):
                self.report(at, total, (step * len(samples) + count) // steps, len(samples), self.names[at])
                yield sample
            step += 1

        after, shared, results, aliases = {}, {}, {}, {}
        with _Spool(self.file("inputs.bin"), self.device) as spool:
            for sample in each_sample() if groups or not is_last else ():
                outputs, inputs = self._run(part, values[-1 - sample], original, common, [first for first, _ in groups])
                for weight, x in inputs.items():
                    spool.write((sample, weight), x)
                after[-1 - sample] = self.keep(at, values[-1 - sample], outputs, shared)
            for first, names in groups:
                moments = None
                for sample in each_sample():
                    _, inputs = self._run(part, values[sample], quantized, common, [first], outputs=False)
                    y = inputs[first]
                    moments = moments or InputStatistics(y.shape[-1], ("hessian", "drift"), self.device, self.by_energy)
                    weights = None if self.weights is None else torch.from_numpy(self.weights[sample])
                    moments.update(y, weights, original=spool.read((sample, first)))
                found = moments.finish(())
                for statistic, array in found.items():
                    if not np.isfinite(array).all():
                        raise QuantLLMError(f"{self.names[at]}: the {statistic} of '{names[0]}' has infinities or NaN; take another dtype (now {self.dtype_name})")
                results[names[0]] = found
                aliases |= {name: names[0] for name in names[1:]}
                quantized |= self._quantize(names, found)
        for sample in each_sample() if not is_last else ():
            outputs, _ = self._run(part, values[sample], quantized, common, ())
            after[sample] = self.keep(at, values[sample], outputs, shared)
        for sample, entry in values.items():
            after.setdefault(sample, self.keep(at, entry, None, shared))
        tensors = {f"{statistic}/{weight}": array for weight, entry in results.items() for statistic, array in entry.items()}
        write_tensors(self.file(f"part-{at}.safetensors"), tensors, {"aliases": json.dumps(aliases)})
        self.wait()
        return after

    def _run(self, part, entry, parameters, common, wanted, outputs=True):
        """The results of a part, and the inputs of the linears of the `wanted` weights;
        without `outputs` no further than these."""
        inputs = {}

        def tap(weight, x):
            if weight in wanted:
                inputs[weight] = x
                if not outputs and len(inputs) == len(wanted):
                    raise _Enough
            return x

        results = None
        with torch.no_grad(), contextlib.suppress(_Enough):
            results = part(*self.move(part, entry, common), parameters=parameters, dtype=self.dtype, tap=tap)
        if missing := [weight for weight in wanted if weight not in inputs]:
            raise QuantLLMError(f"the linear of '{missing[0]}' is not run on every sample")
        return results, inputs

    def _find_groups(self, part, entry, parameters, common):
        """(the weight whose linear is the first with an input, the planned weights
        of linears with this input), in the order in which they are used."""
        inputs, groups, owners = [], [], {}

        def tap(weight, x):
            at = next((i for i, other in enumerate(inputs) if other is x), None)
            if at is None:
                at = len(inputs)
                inputs.append(x)
                groups.append((weight, []))
            if owners.setdefault(weight, at) != at and weight in self.model.planned:
                raise QuantLLMError(f"the linears of '{weight}' have several inputs")
            if weight in self.model.planned and weight not in groups[at][1]:
                groups[at][1].append(weight)
            return x

        with torch.no_grad():
            part(*self.move(part, entry, common), parameters=parameters, dtype=self.dtype, tap=tap)
        return groups

    def _quantize(self, names, moments):
        """{weight: what the quantized weight is}"""
        path = self.file("group.safetensors")
        metadata = {**self.metadata, "aliases": json.dumps({name: names[0] for name in names[1:]})}
        write_tensors(path, {f"{statistic}/{names[0]}": array for statistic, array in moments.items()}, metadata)
        text = self.model.quantize(names, path)
        part, parameters = translate(text), Parameters(text)
        with torch.no_grad():
            weights = part(parameters=parameters.load(part.parameters, device=self.device), dtype=self.dtype)
        return dict(zip(names, weights))
