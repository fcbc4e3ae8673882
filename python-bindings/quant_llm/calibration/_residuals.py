# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What the outputs of linears are added to: the residual stream, or whatever
takes its place in a model.

A part is a straight line of calls, so that a sum is known by its number among
all sums of two tensors, in every run.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

_SUMS = ("add", "__add__", "__radd__")
# Whose results are nothing but elements of their arguments.
_MOVES = (
    "cat", "clone", "contiguous", "expand", "flatten", "__getitem__", "index_select", "narrow", "permute", "reshape", "squeeze",
    "transpose", "unflatten", "unsqueeze", "view",
)


def _is_sum(function, args, kwargs):
    return function.__name__ in _SUMS and len(args) == 2 and not kwargs and all(isinstance(a, torch.Tensor) for a in args)


class _Sums(TorchFunctionMode):
    """Calls take_sum() with the number and the two arguments of every sum of two
    tensors."""

    def __init__(self):
        super().__init__()
        self.number = -1

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if _is_sum(function, args, kwargs):
            self.number += 1
            self.take_sum(self.number, args)
        return function(*args, **(kwargs or {}))


class TakeSums(_Sums):
    """Keeps in `found` the arguments that are `wanted`, {key: (number of a sum,
    argument)}, and calls `done` after each."""

    def __init__(self, wanted, done):
        super().__init__()
        self.wanted, self.done, self.found = wanted, done, {}

    def take_sum(self, number, args):
        for key, (wanted, argument) in self.wanted.items():
            if wanted == number:
                self.found[key] = args[argument]
                self.done()


class FindResiduals(_Sums):
    """While it is active, finds for linears whose inputs pass through `tap` what
    their outputs are added to, if nothing but copies and biases is between:
    `found` is {weight: (number of the sum, argument, where each output is among the
    channels there)}. What depends on the outputs itself is none, as in x + x^3."""

    def __init__(self):
        super().__init__()
        self.found = {}
        self._waiting = None
        # (weight, the number of its first output, how many it has), all outputs of the part
        # being numbered.
        self._linears = []
        # Of tensors that are still there: the weights that they depend on, and the numbers of
        # the outputs that their elements are copies of, else None.
        self._known = WeakTensorKeyDictionary()

    def tap(self, weight, x):
        self._waiting = (weight, x)
        return x

    def take_sum(self, number, args):
        if args[0].shape != args[1].shape:
            return
        for argument, residual in enumerate(args):
            outputs = self._get_outputs(args[1 - argument])
            if outputs is None or not outputs.numel() or self._get_outputs(residual) is not None or self._is_bias(residual, args[1 - argument]):
                continue
            rows = outputs.reshape(-1, outputs.shape[-1])
            if not (rows == rows[0]).all():
                continue
            for weight, first, count in self._linears:
                places = ((rows[0] >= first) & (rows[0] < first + count)).nonzero()[:, 0]
                order = rows[0][places].argsort()
                if len(places) == count and len(rows[0][places].unique()) == count and weight not in self._get_weights([residual]):
                    self.found.setdefault(weight, (number, argument, places[order]))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = super().__torch_function__(function, types, args, kwargs)
        weights, outputs = self._get_weights((*args, *kwargs.values())), None
        if function is F.linear and self._waiting is not None and args[0] is self._waiting[1]:
            weight, size = self._waiting[0], result.shape[-1]
            first = sum(self._linears[-1][1:]) if self._linears else 0
            self._linears.append((weight, first, size))
            self._waiting = None
            weights |= {weight}
            outputs = torch.arange(first, first + size, device=result.device).expand(result.shape)
        elif weights and isinstance(result, torch.Tensor):
            outputs = self._move(function, args, kwargs, result)
        if weights:
            for value in result if isinstance(result, (list, tuple)) else [result]:
                if isinstance(value, torch.Tensor):
                    self._known[value] = (weights, outputs)
            # Of what is written to, and of what shares its elements, nothing is known any more.
            if function.__name__ == "__setitem__":
                self._known[args[0]] = (weights, None)
                memory = args[0].untyped_storage().data_ptr()
                for other, (known, _) in list(self._known.items()):
                    if other.untyped_storage().data_ptr() == memory:
                        self._known[other] = (known | weights, None)
        return result

    def _move(self, function, args, kwargs, result):
        """The numbers of the outputs that `result` has copies of, or None."""
        name = function.__name__
        if _is_sum(function, args, kwargs):
            known = next((a for a in args if self._get_outputs(a) is not None), None)
            other = args[1] if args[0] is known else args[0]
            return self._get_outputs(known) if known is not None and self._is_bias(other, known) else None
        if name == "to":
            return self._get_outputs(args[0])
        if name not in _MOVES:
            return None
        moved = list(args[0]) if name == "cat" else [args[0]]
        numbers = [self._get_outputs(value) for value in moved]
        if any(value is None for value in numbers):
            return None
        moved = function(numbers if name == "cat" else numbers[0], *args[1:], **kwargs)
        return moved if moved.shape == result.shape else None

    def _is_bias(self, value, like):
        """Whether this is added to all tokens alike."""
        if self._get_weights([value]):
            return False
        try:
            spread = value.expand(like.shape)
        except RuntimeError:
            return False
        leading = [stride for size, stride in zip(like.shape[:-1], spread.stride()[:-1]) if size > 1]
        # The same shape may be that of another stream of one token.
        return not any(leading) and (bool(leading) or value.shape != like.shape)

    def _get_outputs(self, value):
        return self._known[value][1] if isinstance(value, torch.Tensor) and value in self._known else None

    def _get_weights(self, values):
        found = frozenset()
        for value in values:
            if isinstance(value, (list, tuple)):
                found |= self._get_weights(value)
            elif isinstance(value, torch.Tensor) and value in self._known:
                found |= self._known[value][0]
        return found
