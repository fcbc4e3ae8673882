# Part of the quant-llm project, under the Apache License v2.0 with LLVM
# Exceptions. See LICENSE for license information.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""The same launches for one sample after another."""

import functools
import re

import torch

# Lengths of samples for which a run is recorded.
_MOST_RECORDS = 4


def can_be_recorded(part):
    """Checks of data, and tables that are copied to the device, wait for the host."""
    return not re.search(r"\bassert\b|torch\.tensor\(", part.source)


def _is_expanded(tensor):
    """Of one element, as a cache of zeros is, which is the same for every sample."""
    return tensor.dim() > 0 and not any(tensor.stride())


@functools.cache
def _get_stream(device):
    """One for all records: libraries keep memory for every stream that they see."""
    return torch.cuda.Stream(device)


class Runner:
    """`function(arguments)`, tensors and numbers to tensors, for one sample after
    another. Where that `can_be_recorded`, the launches for a sample on a GPU are recorded and
    replayed for others of the same shapes: in small models they take longer than
    what they do. Results are there until the next call."""

    def __init__(self, function, device, can_be_recorded):
        self.function, self.records = function, {}
        self.stream = _get_stream(device) if can_be_recorded and device.type == "cuda" else None

    def __call__(self, arguments):
        if self.stream is None:
            return self.function(arguments)
        key = tuple((a.shape, a.stride(), a.dtype) if isinstance(a, torch.Tensor) else a for a in arguments)
        if key not in self.records:
            # Libraries set themselves up in a first run, which cannot be recorded; and every
            # record has memory of its own.
            if len(self.records) < _MOST_RECORDS:
                self.records[key] = None
            return self.function(arguments)
        try:
            self.records[key] = graph, places, results = self.records[key] or self.record(arguments)
        except RuntimeError:
            # Out of memory, or something that cannot be recorded.
            self.stream = None
            self.records.clear()
            return self.function(arguments)
        for place, argument in zip(places, arguments):
            if isinstance(place, torch.Tensor) and not _is_expanded(place):
                place.copy_(argument, non_blocking=True)
        graph.replay()
        return results

    def record(self, arguments):
        places = [a.clone() if isinstance(a, torch.Tensor) and not _is_expanded(a) else a for a in arguments]
        graph = torch.cuda.CUDAGraph()
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                results = self.function(places)
            finally:
                graph.capture_end()
        return graph, places, results
