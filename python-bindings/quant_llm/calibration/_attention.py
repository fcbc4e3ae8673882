# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""How much attention is paid to every token, and weights of tokens made of it."""

import torch
from torch.overrides import TorchFunctionMode

# RSQ (arXiv:2503.01820) gives weights from 1 to 3. The first token, to which some
# heads turn when they have nothing to do, gets hundreds of times what others do,
# and no other would have a weight of its own: magnitudes above this quantile of a
# sample count as it.
_LEAST, _MOST, _QUANTILE = 1.0, 3.0, 0.95

_EXPONENTIALS = (torch.exp, torch.Tensor.exp)
_SOFTMAXES = (torch.softmax, torch.Tensor.softmax, torch.nn.functional.softmax)
_QUOTIENTS = (torch.Tensor.__truediv__, torch.Tensor.div, torch.div)
_PRODUCTS = (torch.Tensor.__matmul__, torch.Tensor.matmul, torch.matmul, torch.bmm, torch.Tensor.bmm)


class WatchAttention(TorchFunctionMode):
    """While it is active, adds up the attention that each of `tokens` tokens is paid
    by all tokens in all heads, of every product of exponentials with something:
    what attention is in any function that translate() writes."""

    def __init__(self, tokens):
        super().__init__()
        self.tokens = tokens
        self.received = None
        # The tensors themselves, so that no other gets the identity of one.
        self._powers = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        is_power = function in _EXPONENTIALS or function in _SOFTMAXES
        if is_power or (function in _QUOTIENTS and id(args[0]) in self._powers):
            self._powers[id(result)] = result
        elif function in _PRODUCTS and id(args[0]) in self._powers and args[0].shape[-1] == self.tokens:
            powers = args[0].detach().float()
            paid = (powers / powers.sum(-1, keepdim=True)).reshape(-1, self.tokens).sum(0)
            self.received = paid if self.received is None else self.received + paid
        return result

    def finish(self):
        """The weights of the tokens, or None if there was no attention."""
        self._powers.clear()
        if self.received is None:
            return None
        received = self.received.clamp(max=torch.quantile(self.received, _QUANTILE))
        low, high = received.min(), received.max()
        share = (received - low) / (high - low) if high > low else torch.zeros_like(received)
        return _LEAST + (_MOST - _LEAST) * share
