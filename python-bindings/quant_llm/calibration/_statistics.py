# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""What is known of the input of a linear, token by token."""

import torch
import torch.distributed

from .._errors import QuantLLMError

# A histogram of magnitudes: 32 bins for each power of two from 2^-24 to 2^24.
_STEPS, _LOWEST, _OCTAVES = 32, -24, 48
_BINS = _STEPS * _OCTAVES


class InputStatistics:
    """Accumulates the chosen statistics over inputs [tokens, K], and `residual-drift` with
    a `width`, of the values that the outputs are added to. With `by_energy` tokens are first
    made equally large for the Hessian, and for `drift` and `residual-drift`: what is measured
    beside those of calibrate() by who has the values of the original model, too, which say
    then how large tokens are."""

    def __init__(self, channels, chosen, device, by_energy=False, width=0):
        self.channels = channels
        self.width = width
        self.chosen = (*chosen, "residual-drift") if width else tuple(chosen)
        self.by_energy = by_energy
        full = lambda value, *shape, dtype=torch.float32: torch.full(shape, value, dtype=dtype, device=device)
        # Only what is asked for: on a CPU a pass over the inputs is no small part of the
        # work. The largest magnitude also tells whether all are finite.
        self.largest = full(0.0, channels)
        self.minimum = full(float("inf"), channels) if "min" in chosen else None
        self.maximum = full(float("-inf"), channels) if "max" in chosen else None
        # Means in double precision, so that the order of the samples hardly matters.
        self.sum = full(0.0, channels, dtype=torch.float64) if "mean" in chosen else None
        self.magnitudes = full(0.0, channels, dtype=torch.float64) if "absmean" in chosen else None
        self.weight = full(0.0, dtype=torch.float64)
        self.hessian = full(0.0, channels, channels) if "hessian" in chosen else None
        self.drift = full(0.0, channels, channels) if "drift" in chosen else None
        self.residual = full(0.0, width, channels) if width else None
        self.histogram = full(0, channels * _BINS, dtype=torch.int64) if "quantiles" in chosen else None
        self.rows = {}

    def update(self, x, weights=None, picked=(), original=None, residuals=None):
        """`original` is the input in the original model, for `drift`; `residuals` are what the
        outputs are added to, in the original model and in this one, for `residual-drift`;
        `picked` are pairs (number of a row of statistic inputs, token). Returns
        whether all inputs are finite, a tensor on the device."""
        x = x.detach().reshape(-1, self.channels).float()
        magnitude = x.abs()
        largest = magnitude.amax(0)
        self.largest = torch.maximum(self.largest, largest)
        if self.minimum is not None:
            self.minimum = torch.minimum(self.minimum, x.amin(0))
        if self.maximum is not None:
            self.maximum = torch.maximum(self.maximum, x.amax(0))
        for row, token in picked:
            self.rows[row] = x[token].to("cpu", copy=True)
        if self.histogram is not None:
            # Exponent and first bits of the fraction of a float32 are its logarithm.
            index = (magnitude.view(torch.int32) >> 18) - ((_LOWEST + 127) << 5)
            index = index.clamp(0, _BINS - 1).to(torch.int64)
            index += torch.arange(self.channels, device=x.device) * _BINS
            self.histogram += torch.bincount(index.flatten(), minlength=self.channels * _BINS)
        if weights is None:
            self.weight += x.shape[0]
            weighted = x
        else:
            weights = weights.to(device=x.device, dtype=torch.float32)[:, None]
            self.weight += weights.sum(dtype=torch.float64)
            weighted = x * weights
            magnitude = magnitude * weights
        if self.sum is not None:
            self.sum += weighted.sum(0, dtype=torch.float64)
        if self.magnitudes is not None:
            self.magnitudes += magnitude.sum(0, dtype=torch.float64)
        if self.hessian is not None:
            original = x if original is None else original.reshape(x.shape).float()
            size = original
            if residuals is not None:
                size, behind = (values.reshape(-1, self.width).float() for values in residuals)
            if self.by_energy:
                energy = size.square().mean(1, keepdim=True)
                weighted = torch.where(energy > 0, weighted / energy, 0.0)
            self.hessian.addmm_(weighted.T, x)
            if self.drift is not None:
                self.drift.addmm_((original - x).T, weighted)
            if self.residual is not None:
                self.residual.addmm_((size - behind).T, weighted)
        return torch.isfinite(largest).all()

    def reduce(self):
        """Joins the statistics of all processes."""
        operations = torch.distributed.ReduceOp
        for tensor, operation in (
            (self.largest, operations.MAX), (self.minimum, operations.MIN), (self.maximum, operations.MAX),
            (self.sum, operations.SUM), (self.magnitudes, operations.SUM), (self.weight, operations.SUM),
            (self.hessian, operations.SUM), (self.drift, operations.SUM), (self.residual, operations.SUM), (self.histogram, operations.SUM),
        ):
            if tensor is not None:
                torch.distributed.all_reduce(tensor, operation)
        if "inputs" in self.chosen:
            gathered = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, self.rows)
            self.rows = {row: x for rows in gathered for row, x in rows.items()}

    def finish(self, fractions):
        """{statistic: float32 array}"""
        if not float(self.weight) > 0:
            raise QuantLLMError("expected tokens with weights above 0 but there are none")
        values = {
            "absmax": lambda: self.largest,
            "absmean": lambda: self.magnitudes / self.weight,
            "mean": lambda: self.sum / self.weight,
            "min": lambda: self.minimum,
            "max": lambda: self.maximum,
            "quantiles": lambda: self._quantiles(fractions),
            "hessian": self._hessian,
            "drift": lambda: self.drift / self.weight.float(),
            "residual-drift": lambda: self.residual / self.weight.float(),
            "inputs": lambda: torch.stack([self.rows[row] for row in sorted(self.rows)]),
        }
        return {name: value().float().cpu().numpy() for name, value in values.items() if name in self.chosen}

    def _hessian(self):
        # The sum is symmetric but for its rounding.
        hessian = self.hessian / self.weight.float()
        return (hessian + hessian.T) / 2

    def _quantiles(self, fractions):
        counts = self.histogram.reshape(self.channels, _BINS).cumsum(1)
        total = counts[:, -1:].clone()
        results = []
        for fraction in fractions:
            wanted = (total * fraction).ceil().clamp(min=1).to(torch.int64)
            index = torch.searchsorted(counts, wanted)[:, 0]
            # The middle of the bin; the first one holds zeros and what is nearly 0.
            middle = ((index + ((_LOWEST + 127) << 5)) << 18).to(torch.int32) + (1 << 17)
            value = torch.where(index == 0, 0.0, middle.view(torch.float32))
            results.append(torch.minimum(value, self.largest))
        return torch.stack(results)
