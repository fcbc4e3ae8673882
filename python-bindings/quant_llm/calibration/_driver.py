# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Runs a model block by block and writes what was measured.

The function of the model is cut into parts: what is in front of the blocks, each
block, what is behind them. Of every sample the values between two parts (the
hidden state above all) are on the host; the parameters of one part at a time are
on the device. After a part its statistics are on disk and, unless that would cost more
than a small share of the time, these values, from where a run that was killed goes on.
"""

import collections
import contextlib
import functools
import hashlib
import json
import os
import re
import time

import numpy as np
import torch
import torch.distributed

from .. import __version__, _quant_llm, model as models, run_pipeline
from .._calibrate import ATTENTION, ATTENTION_ENERGY, DEFAULT_STATISTICS, DTYPES, ENERGY, OF_INPUTS, OF_WEIGHTS, STATISTICS, TOKEN_WEIGHTS
from .._errors import QuantLLMError
from .._safetensors import read_header
from ._attention import WatchAttention
from ._file import SCHEMA, UNSHARED, CalibrationFile, read_tensor, write_tensors
from ._parameters import Parameters
from ._runner import Runner, can_be_recorded
from ._source import translate
from ._statistics import InputStatistics
from ._tokens import check_token_weights, check_tokens

TYPES = {name: getattr(torch, name) for name in DTYPES}

_PIPELINE = "quant-llm-inline-blocks,convert-linalg-to-quant-llm,func.func(quant-llm-form-blocks{window=0})"


# The work between two states on disk takes at least this many times as long as
# writing one, so that a killed run loses little and others lose hardly anything.
_WORK_PER_SAVE = 10.0


class _Enough(Exception):
    """Nothing that is left of a part is wanted."""


def calibrate(
    model,
    tokens,
    output,
    *,
    statistics=DEFAULT_STATISTICS,
    token_weights=None,
    quantiles=(0.5, 0.9, 0.99, 0.999),
    inputs=512,
    seed=0,
    dtype="float32",
    device=None,
    restart=False,
    reuse=False,
    on_part=None,
    progress=None,
    diagnostic=None,
):
    """Runs `model` (a directory of ours, of Hugging Face, or a GGUF file) on
    `tokens`, an array [samples, length] or a list of arrays, or a function that
    makes them of the size of the vocabulary (None if the module does not say it), and writes the calibration file
    `output`.

    `statistics` are among STATISTICS. `token_weights`, of the shape of the
    tokens, say how much each token counts; with "energy" all count the same in
    every Hessian, however large the inputs are, with "attention" by the attention
    that they are paid in the same block, with "attention-energy" both. `quantiles` are the fractions of the
    statistic of this name, `inputs` how many rows the statistic `inputs` has,
    which are drawn with `seed`.

    Until it is complete, the work is in the directory `output`.partial; the same
    call goes on from there, unless `restart`. With `reuse` an output that the same call
    wrote before is left as it is, and any other is an error. With torch.distributed initialized,
    the samples are divided among the processes and the first one writes.

    `on_part(linears, statistics, parameters)` is called after each part with the
    weights of its linears, {weight: {statistic: array}} of their inputs and a
    function that reads a parameter; what it returns, {parameter: tensor}, takes
    the place of these parameters before the next part gets its input, as
    methods want that follow the error of what is quantized already. Not with the
    statistics fisher and row-fisher, whose way back needs the original parameters.
    `progress(done, total, part)` is called for every sample of every part.

    Returns a dict: "output", "parts", "samples", "tokens", "reused", "dead" {parameter:
    number of inputs that were always 0; empty for what is reused}. Raises QuantLLMError.
    """
    if reuse and on_part:
        raise QuantLLMError("expected no on_part with reuse: there are no parts of what is measured already")
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(models.open_directory(model, diagnostic=diagnostic))
        path = os.path.join(directory, "model.mlir")
        module = run_pipeline(models._read_module(directory), _PIPELINE, name=path)
        run = _Run(module, path, output)
        run.configure(tokens, statistics, token_weights, quantiles, inputs, seed, dtype, device)
        run.on_part, run.progress = on_part, progress
        if on_part and (back := [s for s in OF_WEIGHTS if s in run.statistics]):
            raise QuantLLMError(f"expected no on_part with the statistic {' and '.join(back)}: the way back needs the original parameters; measure that in a run of its own")
        _precise_products(stack)
        return run.run(restart, reuse)


def _precise_products(stack):
    """Sums of products in float32 are sums in float32, until `stack` is left."""
    stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    torch.set_float32_matmul_precision("highest")


class _Run:
    def __init__(self, module, path, output):
        self.module = module
        self.parameters = Parameters(module, name=path)
        self.fingerprint = _quant_llm.fingerprint_model(module.encode(), path).decode()
        self.output = os.path.abspath(os.fspath(output))
        self.partial = self.output + ".partial"
        directory = os.path.dirname(self.output)
        if not os.path.isdir(directory):
            raise QuantLLMError(f"cannot write '{output}': there is no directory '{directory}'")
        if os.path.isdir(self.output):
            raise QuantLLMError(f"expected a file to write but '{output}' is a directory")
        if os.path.lexists(self.output):
            try:
                CalibrationFile(self.output)
            except QuantLLMError:
                raise QuantLLMError(f"'{output}' exists and is no calibration file; choose another output") from None
        self.rank, self.world = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()

    # -----------------------------------------------------------------------
    # What is asked for
    # -----------------------------------------------------------------------

    def configure(self, tokens, statistics, token_weights, quantiles, inputs, seed, dtype, device):
        vocabulary = re.search(r"\bvocab_size = (\d+)", self.module)
        vocabulary = int(vocabulary[1]) if vocabulary else None
        if callable(tokens):
            tokens = tokens(vocabulary)
        self.tokens = check_tokens(tokens, vocabulary)
        rule = token_weights if isinstance(token_weights, str) else None
        if rule and rule not in TOKEN_WEIGHTS:
            raise QuantLLMError(f"expected weights of tokens, or one of {', '.join(map(repr, TOKEN_WEIGHTS))}, but got '{rule}'")
        self.by_energy = rule in (ENERGY, ATTENTION_ENERGY)
        self.by_attention = rule in (ATTENTION, ATTENTION_ENERGY)
        self.weights = check_token_weights(None if rule else token_weights, self.tokens)
        statistics = (statistics,) if isinstance(statistics, str) else statistics
        self.statistics = tuple(s for s in STATISTICS if s in statistics)
        if unknown := sorted(set(statistics) - set(STATISTICS)):
            raise QuantLLMError(f"expected statistics among {', '.join(STATISTICS)} but got {', '.join(unknown)}")
        if not self.statistics:
            raise QuantLLMError("expected at least one statistic but got none")
        if self.by_energy and "hessian" not in self.statistics:
            raise QuantLLMError(f"the weights '{rule}' are for the statistic hessian, which is not among {', '.join(self.statistics)}")
        dtype = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
        if dtype not in TYPES:
            raise QuantLLMError(f"expected a type among {', '.join(TYPES)} but got '{dtype}'")
        self.dtype_name, self.dtype = dtype, TYPES[dtype]
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise QuantLLMError(f"cannot use the device '{device}': {str(error).splitlines()[0]}") from None
        self.quantiles = sorted(set(map(float, quantiles)))
        if "quantiles" in self.statistics and not (self.quantiles and 0 <= self.quantiles[0] and self.quantiles[-1] <= 1):
            raise QuantLLMError(f"expected quantiles in [0, 1] but got {list(quantiles)}")
        self.seed = int(seed)
        if self.seed < 0 or inputs < 1:
            raise QuantLLMError("expected a seed from 0 and at least 1 row of inputs")
        total = sum(map(len, self.tokens))
        self.picked = [[] for _ in self.tokens]
        if "inputs" in self.statistics:
            starts = np.cumsum([0] + [len(row) for row in self.tokens])
            random = np.random.Generator(np.random.PCG64(self.seed))
            for row, token in enumerate(np.sort(random.permutation(total)[: int(inputs)])):
                sample = int(np.searchsorted(starts, token, side="right")) - 1
                self.picked[sample].append((row, int(token - starts[sample])))
        text = hashlib.sha256()
        for row in self.tokens:
            text.update(row.astype("<i8").tobytes())
        self.metadata = {
            "schema": SCHEMA,
            "model": self.fingerprint,
            "samples": str(len(self.tokens)),
            "tokens": str(total),
            "length": str(max(map(len, self.tokens))),
            "seed": str(self.seed),
            "text": text.hexdigest(),
            "token_weights": rule or ("none" if self.weights is None else "given"),
            "dtype": dtype,
            "writer": f"quant_llm {__version__}",
        }
        lengths = [len(row) for row in self.tokens]
        if len(set(lengths)) > 1:
            self.metadata["lengths"] = ",".join(map(str, lengths))
        if "inputs" in self.statistics:
            self.metadata["inputs"] = str(min(int(inputs), total))
        if "quantiles" in self.statistics:
            self.metadata["quantiles"] = ",".join(map(repr, self.quantiles))
        # What must be the same for a run to go on.
        weights = hashlib.sha256(b"".join(row.tobytes() for row in self.weights or ())).hexdigest()
        self.configuration = dict(
            self.metadata, statistics=list(self.statistics), processes=self.world, inputs=int(inputs), lengths=lengths, weights=weights
        )

    # -----------------------------------------------------------------------
    # The parts
    # -----------------------------------------------------------------------

    def translate(self):
        front = translate(self.module, part="front", tap=True)
        self.parts, self.names = [front], ["front"]
        for block in front.blocks:
            self.parts.append(translate(self.module, blocks=(block, block), tap=True))
            self.names.append(f"block {block}")
        if front.blocks:
            self.parts.append(translate(self.module, part="back", tap=True))
            self.names.append("back")
        self.needed = []
        later = set()
        for part in reversed(self.parts):
            self.needed.insert(0, later.copy())
            later |= {value["id"] for value in part.inputs if value["slots"] is None}

    def first_inputs(self, tokens):
        """The arguments of the front: tokens, and a cache that is only as large as
        the sample."""
        inputs, found = {}, False
        for value in self.parts[0].inputs:
            shape, kind = value["shape"], value["dtype"]
            if kind.startswith("int") and shape is None:
                inputs[value["id"]] = 0
            elif kind.startswith("int") and len(shape) in (1, 2) and not found:
                found = True
                row = torch.from_numpy(tokens)
                inputs[value["id"]] = row if len(shape) == 1 else row[None]
            elif kind == "float" and shape is not None and len(shape) == 4:
                inputs[value["id"]] = {"zeros": [len(tokens) if size < 0 else size for size in shape]}
            else:
                raise QuantLLMError(
                    "expected a function of tokens, and caches and a position at most, but it has the argument "
                    f"'{value['name']}' of type {kind}{'' if shape is None else shape}"
                )
        if not found:
            raise QuantLLMError("expected a function of tokens but no argument holds integers")
        return inputs

    def move(self, part, values, common=None):
        """The arguments of a part on the device. `common`, {id: [on the host, on the
        device or None]}, has those that several samples share."""
        arguments = []
        for value in part.inputs:
            if value["slots"] is not None:
                # A part has only its own entries of a cache, new for each sample.
                argument = {"zeros": [values["length"] if size < 0 else size for size in value["shape"]]}
            else:
                argument = values[value["id"]]
            if isinstance(argument, dict):
                # Of a cache as a whole, parts in front of the blocks want the shape.
                argument = torch.zeros((), dtype=self.dtype, device=self.device).expand(argument["zeros"])
            if isinstance(argument, torch.Tensor):
                pair = (common or {}).get(id(argument), [argument, None])
                if pair[1] is None:
                    pair[1] = argument.to(self.device, non_blocking=True)
                argument = pair[1]
            arguments.append(argument)
        return arguments

    @staticmethod
    def find_common(values):
        tensors = [value for entry in values.values() for value in entry.values() if isinstance(value, torch.Tensor)]
        counts = collections.Counter(map(id, tensors))
        return {id(tensor): [tensor, None] for tensor in tensors if counts[id(tensor)] > 1}

    # -----------------------------------------------------------------------
    # The work on disk
    # -----------------------------------------------------------------------

    def file(self, name):
        return os.path.join(self.partial, name)

    def resume(self, restart):
        """The number of parts that are done."""
        path = self.file("progress.json")
        if self.rank == 0 and restart and os.path.exists(path):
            self.remove_partial()
        self.barrier()
        done = 0
        if os.path.exists(path):
            try:
                with open(path, encoding="utf-8") as file:
                    state = json.load(file)
                before, done = state["configuration"], int(state["done"])
            except (OSError, ValueError, KeyError, TypeError):
                raise QuantLLMError(f"cannot read '{path}'; remove '{self.partial}' to begin anew") from None
            different = sorted(key for key in set(before) | set(self.configuration) if before.get(key) != self.configuration.get(key))
            if different:
                raise QuantLLMError(
                    f"'{self.partial}' is of an unfinished calibration with another {', '.join(different)}; finish that one, remove it to begin anew, or choose another output"
                )
        elif self.rank == 0:
            if os.path.exists(self.partial) and not all(map(self.is_ours, os.listdir(self.partial))):
                raise QuantLLMError(f"'{self.partial}' exists and is none of our work; remove it, or choose another output")
            try:
                os.makedirs(self.partial, exist_ok=True)
            except OSError as error:
                raise QuantLLMError(f"cannot create '{self.partial}': {error.strerror}") from None
            self.write_progress(0)
        self.barrier()
        return done

    def remove_partial(self):
        """Removes our own files, and their directory if there is nothing else. Whoever finds
        what a killed removal left begins anew."""
        self.write_progress(0)
        for name in sorted(os.listdir(self.partial), key=lambda name: name.endswith("progress.json")):
            if self.is_ours(name):
                os.remove(self.file(name))
        with contextlib.suppress(OSError):
            os.rmdir(self.partial)

    @staticmethod
    def is_ours(name):
        return re.fullmatch(r"\.?progress\.json|\.?((part|fisher|row-fisher|values)-[\w-]+|group)\.safetensors(\.\w+)?|inputs\.bin", name) is not None

    def write_progress(self, done):
        staging = self.file(".progress.json")
        with open(staging, "w", encoding="utf-8") as file:
            json.dump({"configuration": self.configuration, "done": done}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, self.file("progress.json"))

    def state_file(self, done):
        return self.file(f"values-{done}-{self.rank}.safetensors")

    def save_values(self, done, values):
        """Values between parts; what several samples share (tables of positions)
        is stored once."""
        tensors, index = {}, {}
        names = {}
        for sample, entry in values.items():
            index[sample] = {}
            for key, value in entry.items():
                if not isinstance(value, torch.Tensor):
                    index[sample][key] = value
                    continue
                if id(value) not in names:
                    names[id(value)] = f"t{len(names)}"
                    data = value.contiguous()
                    tensors[names[id(value)]] = (data.view(torch.uint16) if data.dtype == torch.bfloat16 else data).numpy()
                index[sample][key] = names[id(value)]
        write_tensors(self.state_file(done), tensors, {"values": json.dumps(index)})

    def load_values(self, done):
        path = self.state_file(done)
        entries, metadata = read_header(path)
        tensors = {}
        for name, entry in entries.items():
            tensor = torch.from_numpy(read_tensor(path, entry))
            tensors[name] = tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
        index = json.loads(metadata["values"])
        return {
            int(sample): {key if key == "length" else int(key): tensors[v] if isinstance(v, str) else v for key, v in entry.items()}
            for sample, entry in index.items()
        }

    def barrier(self):
        if self.world > 1:
            torch.distributed.barrier()

    def agree(self, answer):
        """The answer of the first process, in all."""
        if self.world == 1:
            return answer
        answers = [answer]
        torch.distributed.broadcast_object_list(answers, device=self.device)
        return answers[0]

    # -----------------------------------------------------------------------
    # The run
    # -----------------------------------------------------------------------

    def run(self, restart, reuse):
        self.translate()
        if reuse and os.path.lexists(self.output):
            return self.take_output()
        ways = [s for s in OF_WEIGHTS if s in self.statistics]
        for part in self.parts if ways else ():
            if quantized := [weight for weight in part.linears if f"{weight}.codes" in part.parameters]:
                raise QuantLLMError(f"expected dense weights for the statistic {' and '.join(ways)} but '{quantized[0]}' is quantized; take the original model")
        done = self.resume(restart)
        keeps = bool(ways)
        total = len(self.parts) * (1 + len(ways))
        mine = range(self.rank, len(self.tokens), self.world)
        values = {}
        self.report(done, total, 0, len(mine), "resumed" if done else "")
        if done == 0:
            for sample in mine:
                values[sample] = {**self.first_inputs(self.tokens[sample]), "length": len(self.tokens[sample])}
        elif done < len(self.parts):
            values = self.load_values(done)
        saved, ended, cost = done, time.monotonic(), 0.0
        for at in range(done, len(self.parts)):
            values = self.run_part(at, values, total)
            # The way back needs the values between all parts.
            is_last = at + 1 == len(self.parts)
            if not self.agree(keeps or is_last or time.monotonic() - ended >= _WORK_PER_SAVE * cost):
                continue
            begun = time.monotonic()
            self.save_values(at + 1, values)
            if keeps and at == 0:
                self.save_first(values)
            self.barrier()
            if self.rank == 0:
                self.write_progress(at + 1)
            self.barrier()
            if saved > 0 and not keeps and os.path.exists(self.state_file(saved)):
                os.remove(self.state_file(saved))
            saved, ended = at + 1, time.monotonic()
            cost = ended - begun
        for number, way in enumerate(ways):
            from ._fisher import run_fisher

            before = number * len(self.parts)
            already = max(done - len(self.parts) - before, 0)
            if already < len(self.parts):
                run_fisher(self, way, before, already, way == ways[-1], mine, total)
        self.report(total, total, 0, len(mine), "")
        return self.finish()

    def save_first(self, values):
        """The inputs of the front again, for the way back."""
        first = {s: {**self.first_inputs(self.tokens[s]), "length": len(self.tokens[s])} for s in values}
        self.save_values(0, first)

    def report(self, done, total, sample, samples, name):
        if self.progress and self.rank == 0:
            self.progress(done * samples + sample, total * samples, name)

    def run_part(self, at, values, total):
        part, name = self.parts[at], self.names[at]
        parameters = self.parameters.load(part.parameters, device=self.device, dtype=self.dtype)
        statistics, aliases = {}, {}
        wants = any(s in OF_INPUTS for s in self.statistics)
        # The matrix product of a head is not needed to know its input.
        is_last = at == len(self.parts) - 1 and not set(OF_WEIGHTS) & set(self.statistics)
        shared, common = {}, self.find_common(values)
        after = {}
        # Asked for behind all samples: until then a GPU need not wait for its host.
        finite = []
        samples = list(values)
        run = self.make_input_runner(part, parameters, is_last)
        for number, sample in enumerate(samples):
            # Without on_part these values are not needed again.
            entry = values[sample] if self.on_part else values.pop(sample)
            self.report(at, total, number, len(samples), name)
            results, inputs, watch = run([len(self.tokens[sample]), *self.move(part, entry, common)])
            weights = None if self.weights is None else torch.from_numpy(self.weights[sample])
            if self.by_attention and wants and inputs:
                weights = watch.finish()
                if weights is None and name.startswith("block "):
                    raise QuantLLMError(f"{name} has no attention by which tokens could be weighed; choose other weights of tokens")
            seen = {}
            for weight, x in inputs:
                owner = seen.setdefault(id(x), weight)
                if owner != weight and weight not in statistics:
                    if aliases.setdefault(weight, owner) != owner:
                        raise QuantLLMError(f"the linears of '{weight}' have different inputs in different samples")
                elif wants:
                    if weight in aliases:
                        raise QuantLLMError(f"the linears of '{weight}' have several inputs")
                    if weight not in statistics:
                        statistics[weight] = InputStatistics(x.shape[-1], self.statistics, self.device, self.by_energy)
                    finite.append((sample, weight, statistics[weight].update(x, weights, self.picked[sample])))
            after[sample] = self.keep(at, entry, results, shared)
        self.check_finite(at, finite)
        results = self.collect(part, statistics, aliases)
        if self.on_part:
            replaced = self.on_part(part.linears, self.expand(results, aliases), lambda key: parameters[key])
            if replaced:
                if unknown := sorted(set(replaced) - set(part.parameters)):
                    raise QuantLLMError(f"expected parameters of {name} but got {', '.join(unknown)}")
                for key, tensor in replaced.items():
                    if tensor.shape != parameters[key].shape:
                        raise QuantLLMError(f"expected the shape {list(parameters[key].shape)} of what takes the place of '{key}' but got {list(tensor.shape)}")
                    parameters[key] = tensor.to(device=self.device, dtype=self.dtype)
                for sample, entry in values.items():
                    with torch.no_grad():
                        outputs = part(*self.move(part, entry, common), parameters=parameters, dtype=self.dtype, tap=lambda weight, x: x)
                    after[sample] = self.keep(at, entry, outputs, shared)
        if self.rank == 0:
            tensors = {f"{s}/{weight}": array for weight, entry in results.items() for s, array in entry.items()}
            write_tensors(self.file(f"part-{at}.safetensors"), tensors, {"aliases": json.dumps(aliases)})
        self.wait()
        return after

    def make_input_runner(self, part, parameters, is_last):
        """A function of the number of tokens and the arguments of a part: its results,
        (weight, input) of its linears in their order, and what watched the attention.
        The last part goes no further than its linears."""

        def function(arguments):
            tokens, *arguments = arguments
            inputs, results = [], None

            def tap(weight, x):
                inputs.append((weight, x))
                if is_last and len(inputs) == len(part.linears):
                    raise _Enough
                return x

            watch = WatchAttention(tokens) if self.by_attention else contextlib.nullcontext()
            with torch.no_grad(), contextlib.suppress(_Enough), watch:
                results = part(*arguments, parameters=parameters, dtype=self.dtype, tap=tap)
            return results, inputs, watch

        return Runner(function, self.device, can_be_recorded(part))

    def check_finite(self, at, finite):
        if not finite or torch.stack([answer for _, _, answer in finite]).all():
            return
        sample, weight = next((sample, weight) for sample, weight, answer in finite if not answer)
        # What comes in may be the fault of the part before.
        self.refuse_infinite(at, f"sample {sample}: the input of '{weight}'", (at, *range(max(at - 1, 0), at)))

    def refuse_infinite(self, at, what, parts):
        """An error, of the first parameter of these parts that is not finite or else of
        `what` in part `at`."""
        self.check_parameters(parts)
        raise QuantLLMError(f"{self.names[at]}, {what} has infinities or NaN as {self.dtype_name}; take another dtype (recipes have it under [calibration])")

    def check_parameters(self, parts):
        """An error if one of the parameters of these parts is not finite."""
        for at in parts:
            for key in self.parts[at].parameters:
                tensor = self.parameters.read(key, dtype=self.dtype)
                if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
                    raise QuantLLMError(f"{self.names[at]}: the parameter '{key}' has infinities or NaN as {self.dtype_name}; take a model whose weights are finite, or another dtype")

    def wait(self):
        """Copies to the host are complete."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def to_host(self, tensor):
        """On the host, once wait() has returned."""
        if self.device.type != "cuda":
            return tensor.cpu()
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)

    def keep(self, at, entry, results, shared):
        """What later parts need of a sample, on the host."""
        kept = {key: value for key, value in entry.items() if key in self.needed[at] or key == "length"}
        if results is None:
            return kept
        for value, result in zip(self.parts[at].outputs, results):
            if value["slots"] is not None or value["id"] not in self.needed[at]:
                continue
            if isinstance(result, torch.Tensor):
                result = self.to_host(result)
                if at == 0:
                    # Tables of positions are those of every sample of this length.
                    self.wait()
                    digest = hashlib.sha256(result.contiguous().reshape(-1).view(torch.uint8).numpy()).digest()
                    result = shared.setdefault(digest, result)
            kept[value["id"]] = result
        return kept

    def collect(self, part, statistics, aliases):
        """{weight: {statistic: array}} of all processes."""
        if self.world > 1:
            owners = [None] * self.world
            torch.distributed.all_gather_object(owners, [list(statistics), aliases, {w: s.channels for w, s in statistics.items()}])
            everything = {}
            for _, others, channels in owners:
                for weight, owner in others.items():
                    if aliases.setdefault(weight, owner) != owner:
                        raise QuantLLMError(f"the linears of '{weight}' have different inputs in different samples")
                everything.update(channels)
            for weight in dict.fromkeys(part.linears):
                if weight in everything:
                    if weight not in statistics:
                        statistics[weight] = InputStatistics(everything[weight], self.statistics, self.device, self.by_energy)
                    statistics[weight].reduce()
        return {weight: entry.finish(self.quantiles) for weight, entry in statistics.items()}

    @staticmethod
    def expand(results, aliases):
        return {**results, **{weight: results[owner] for weight, owner in aliases.items() if owner in results}}

    def summarize(self, reused):
        return {"output": self.output, "parts": len(self.parts), "samples": len(self.tokens), "tokens": sum(map(len, self.tokens)), "reused": reused, "dead": {}}

    def take_output(self):
        """Of an earlier run, if it was the same as this one."""
        file = CalibrationFile(self.output)
        different = [key for key, value in self.metadata.items() if key != "writer" and file.metadata.get(key) != value]
        stored = {statistic for parameter in file.parameters for statistic in file.statistics(parameter)}
        if self.weights is not None and "token_weights" not in different:
            different.append("token_weights (of given ones a file does not tell which)")
        if missing := [name for name in self.statistics if name not in stored]:
            different.append(f"statistics (without {', '.join(missing)})")
        if different:
            raise QuantLLMError(f"'{self.output}' exists already, of a calibration with another {', '.join(different)}; take it as it is, or remove it")
        return self.summarize(reused=True)

    def finish(self):
        summary = self.summarize(reused=False)
        if self.rank == 0:
            summary["dead"] = self.join()
            self.remove_partial()
        self.barrier()
        return summary

    def join(self):
        """Writes the file from those of the parts; {weight: dead inputs}."""
        zeros, tensors, aliases = {"hessian": {}, "absmax": {}}, {}, {}

        def read(path, key, entry):
            array = read_tensor(path, entry)
            statistic, _, weight = key.partition("/")
            if statistic in zeros:
                zeros[statistic][weight] = int(((np.diagonal(array) if statistic == "hessian" else array) == 0).sum())
            return array

        for at in range(len(self.parts)):
            for path in (self.file(f"{name}-{at}.safetensors") for name in ("part", *(s for s in OF_WEIGHTS if s in self.statistics))):
                if not os.path.exists(path):
                    raise QuantLLMError(f"'{path}' is missing; remove '{self.partial}' to begin anew")
                entries, metadata = read_header(path)
                aliases.update(json.loads(metadata.get("aliases", "{}")))
                for key, entry in entries.items():
                    tensors[key] = (entry.dtype, entry.shape, functools.partial(read, path, key, entry))
        if not tensors:
            raise QuantLLMError("expected a model with linears whose weights are parameters but found none")
        metadata = dict(self.metadata)
        # An alias says nothing of what is not shared, which may be all that is stored.
        stored = {key.partition("/")[2] for key in tensors if key.partition("/")[0] not in UNSHARED}
        aliases = {weight: owner for weight, owner in aliases.items() if owner in stored}
        if aliases:
            metadata["aliases"] = json.dumps(aliases, sort_keys=True)
        write_tensors(self.output, tensors, metadata)
        # Squares of small numbers are 0, too, but magnitudes are also those of tokens that
        # do not count.
        all_count = self.weights is None or all((weights > 0).all() for weights in self.weights)
        order = ("hessian", "absmax") if all_count else ("absmax", "hessian")
        return {weight: count for weight, count in {**zeros[order[0]], **zeros[order[1]]}.items() if count}
