# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Statistics behind layers that are quantized already, one group of linears after
another (true-sequential GPTQ; the asymmetric objective of GPTAQ,
arXiv:2504.02692).

Two streams go through the model, that of the original x and that of the weights
quantized so far, y. For every group of linears with one input its Hessian
E[y^T y] and drift E[(x - y)^T y] are measured, and where their outputs are added
to something, u and v, E[(u - v)^T y]; the group is quantized with them, and the
stream y goes on through what that made of it.
"""

import contextlib
import dataclasses
import json
import os

import numpy as np
import torch

from .. import _quant_llm, run_pipeline
from .._calibrate import ATTENTION, ATTENTION_ENERGY
from .._errors import QuantLLMError
from ._driver import _PIPELINE, _Enough, _Run, _precise_products
from ._file import write_tensors
from ._parameters import Parameters
from ._residuals import FindResiduals, TakeSums
from ._runner import Runner, can_be_recorded
from ._source import translate
from ._statistics import InputStatistics


def calibrate_behind(model, tokens, output, *, token_weights=None, dtype="float32", device=None, restart=False, reuse=False, progress=None):
    """Runs `model`, what quant_llm.model.quantize_directory() gives to `behind`, on
    `tokens` and writes the calibration file `output` with the statistics `hessian`
    and `drift` of every weight that is to be quantized, and if the recipe follows it
    `residual-drift` of those whose outputs are added to something. The other arguments are those of
    calibrate(), of whose weights of tokens those by attention cannot be had. With "energy"
    the original model says how large a token is, by the inputs, or with `residual-drift` by what
    the outputs are added to.

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
        return run.run(restart, reuse)


class _Spool:
    """Tensors of a part, on a GPU as far as they fit into half of what is free
    there, others in a file: together they are several times as large as the values
    between parts."""

    def __init__(self, path, device):
        self.path, self.device, self.places, self.end, self.left = path, device, {}, 0, 0
        if device.type == "cuda":
            cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            self.left = (torch.cuda.mem_get_info(device)[0] + cached) // 2

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
        if tensor.nbytes <= self.left:
            self.left -= tensor.nbytes
            self.places[key] = tensor.clone()
            return
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
        if isinstance(self.places[key], torch.Tensor):
            return self.places[key]
        begin, size, shape, dtype = self.places[key]
        data = torch.empty(size, dtype=torch.uint8)
        self.file.seek(begin)
        if self.file.readinto(data.numpy()) != size:
            raise QuantLLMError(f"cannot read '{self.path}': it ends too early")
        return data.view(dtype).reshape(shape).to(self.device)


@dataclasses.dataclass
class _Group:
    """Linears with one input: the weight of the `first` of them, and the `names` of those
    that are planned. If the outputs of all of these are added to the same values, `residual`
    is (number of the sum, argument) of TakeSums, and `places` says where they are there."""

    first: str
    names: list
    residual: tuple | None = None
    places: dict | None = None


class _BehindRun(_Run):
    """Values of samples, as of _Run, are those of y; those of x have the number
    -1 - sample."""

    def follow(self, model):
        self.model = model
        self.metadata |= model.identity
        self.configuration |= model.identity

    def run_part(self, at, values, total):
        part = self.parts[at]
        if at == 0:
            values |= {-1 - sample: dict(entry) for sample, entry in values.items()}
        original = self.parameters.load(part.parameters, device=self.device, dtype=self.dtype)
        quantized, common = dict(original), self.find_common(values)
        samples = [sample for sample in values if sample >= 0]
        groups = self._find_groups(part, values[samples[0]], original, common)
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
            run = self._make_runner(part, original, common, groups)
            for sample in each_sample() if groups or not is_last else ():
                outputs, *reached = run(values[-1 - sample])
                for kind, tensors in enumerate(reached):
                    for first, tensor in tensors.items():
                        spool.write((sample, kind, first), tensor)
                after[-1 - sample] = self.keep(at, values[-1 - sample], outputs, shared)
            for group in groups:
                moments = None
                run = self._make_runner(part, quantized, common, [group], outputs=False)
                for sample in each_sample():
                    _, inputs, residuals = run(values[sample])
                    y, v = inputs[group.first], residuals.get(group.first)
                    moments = moments or InputStatistics(y.shape[-1], ("hessian", "drift"), self.device, self.by_energy, 0 if v is None else v.shape[-1])
                    weights = None if self.weights is None else torch.from_numpy(self.weights[sample])
                    x = spool.read((sample, 0, group.first))
                    moments.update(y, weights, original=x, residuals=None if v is None else (spool.read((sample, 1, group.first)), v))
                found = moments.finish(())
                for statistic, array in found.items():
                    if not np.isfinite(array).all():
                        self.refuse_infinite(at, f"the {statistic} of '{group.names[0]}'", (at, *range(max(at - 1, 0), at)))
                owner = group.names[0]
                tensors = {f"{statistic}/{owner}": array for statistic, array in found.items() if statistic != "residual-drift"}
                if group.residual is not None:
                    tensors |= {f"residual-drift/{name}": found["residual-drift"][places] for name, places in group.places.items()}
                results |= tensors
                aliases |= {name: owner for name in group.names[1:]}
                quantized |= self._quantize(group.names, tensors)
        run = self._make_runner(part, quantized, common, ())
        for sample in each_sample() if not is_last else ():
            outputs, _, _ = run(values[sample])
            after[sample] = self.keep(at, values[sample], outputs, shared)
        for sample, entry in values.items():
            after.setdefault(sample, self.keep(at, entry, None, shared))
        write_tensors(self.file(f"part-{at}.safetensors"), results, {"aliases": json.dumps(aliases)})
        self.wait()
        return after

    def _make_runner(self, part, parameters, common, groups, outputs=True):
        """A function of the values of a sample: the results of a part, the inputs of
        the `groups`, by the weights that are their first, and what their outputs are
        added to; without `outputs` no further than these."""
        parameters = dict(parameters)
        wanted = [group.first for group in groups]
        sums = {group.first: group.residual for group in groups if group.residual is not None}

        def function(arguments):
            inputs, results = {}, None

            def reached():
                if not outputs and len(inputs) == len(wanted) and len(watch.found) == len(sums):
                    raise _Enough

            def tap(weight, x):
                if weight in wanted:
                    inputs[weight] = x
                    reached()
                return x

            watch = TakeSums(sums, reached)
            with torch.no_grad(), contextlib.suppress(_Enough), watch:
                results = part(*arguments, parameters=parameters, dtype=self.dtype, tap=tap)
            return results, inputs, watch.found

        runner = Runner(function, self.device, can_be_recorded(part))

        def run(entry):
            results, inputs, residuals = runner(self.move(part, entry, common))
            if missing := [weight for weight in wanted if weight not in inputs or (weight in sums and weight not in residuals)]:
                raise QuantLLMError(f"the linear of '{missing[0]}' is not run on every sample")
            return results, inputs, residuals

        return run

    def _find_groups(self, part, entry, parameters, common):
        """The groups with planned weights, in the order in which they are used."""
        inputs, groups, owners = [], [], {}
        watch = FindResiduals()

        def tap(weight, x):
            at = next((i for i, other in enumerate(inputs) if other is x), None)
            if at is None:
                at = len(inputs)
                inputs.append(x)
                groups.append(_Group(weight, []))
            if owners.setdefault(weight, at) != at and weight in self.model.planned:
                raise QuantLLMError(f"the linears of '{weight}' have several inputs")
            if weight in self.model.planned and weight not in groups[at].names:
                groups[at].names.append(weight)
            return watch.tap(weight, x)

        with torch.no_grad(), watch if self.model.follows_residual else contextlib.nullcontext():
            part(*self.move(part, entry, common), parameters=parameters, dtype=self.dtype, tap=tap)
        for group in groups:
            sums = {watch.found[name][:2] if name in watch.found else None for name in group.names}
            if len(sums) == 1 and None not in sums:
                (group.residual,) = sums
                group.places = {name: watch.found[name][2].cpu().numpy() for name in group.names}
        return [group for group in groups if group.names]

    def _quantize(self, names, tensors):
        """{weight: what the quantized weight is}"""
        path, module = self.file("group.safetensors"), self.model.select(names)
        fingerprint = _quant_llm.fingerprint_model(module.encode(), self.model.path).decode()
        metadata = {**self.metadata, "model": fingerprint, "aliases": json.dumps({name: names[0] for name in names[1:]})}
        write_tensors(path, tensors, metadata)
        text = self.model.quantize(module, path)
        part, parameters = translate(text), Parameters(text)
        with torch.no_grad():
            weights = part(parameters=parameters.load(part.parameters, device=self.device), dtype=self.dtype)
        return dict(zip(names, weights))
