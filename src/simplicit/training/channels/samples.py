"""The samples of a fit, batch by batch: as they were given, or read once into a store.

A batch has :data:`BATCH` samples, whatever came together, so that sums round alike; only the last may have fewer. None
has a single one, for graphs are traced for two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from simplicit.errors import InputError
from simplicit.executors import Parts
from simplicit.implicit.inputs import first_array, is_array
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.store import Store

#: Samples at a time, which decides no more than the rounding: what a layer makes of them should stay near the cache.
BATCH = 50


def samples_of(graph: NetworkGraph, inputs: Any) -> Tensor:
    """The inputs as U, (m, *input_shape), in the network's dtype; InputError where they do not fit."""
    return graph.batch(inputs).reshape(-1, *graph.input_shape)


def batches_of(inputs: Tensor, batch_size: int) -> list[Tensor]:
    """Samples in batches of at least two, for which the graph was traced; a single sample counts twice."""
    if len(inputs) == 1:
        return [inputs.expand(2, *inputs.shape[1:])]
    size = max(2, batch_size)
    starts = list(range(0, len(inputs), size))
    if len(starts) > 1 and len(inputs) - starts[-1] < 2:
        starts.pop()
    return [inputs[a:b] for a, b in zip(starts, [*starts[1:], len(inputs)], strict=True)]


@dataclass(frozen=True, eq=False)
class Samples:
    """So many samples, ``count``, in ``batches`` (b, *input_shape), and the ``store`` for what is made of them."""

    count: int
    batches: Sequence[Tensor]
    store: Store = field(default_factory=Store)

    def __len__(self) -> int:
        return self.count

    @classmethod
    def of(cls, graph: NetworkGraph, inputs: Any, store: Store | None = None) -> Samples:
        """Samples that are in memory, as inputs of any form or as they are here; InputError where they do not fit."""
        if isinstance(inputs, Samples):
            return inputs
        samples = samples_of(graph, inputs)
        return cls(len(samples), batches_of(samples, BATCH), Store() if store is None else store)

    @classmethod
    def read(cls, graph: NetworkGraph, parts: Iterable[Any], store: Store) -> Samples:
        """Samples that come a few at a time, each part once, into a store; InputError where a part does not fit."""
        count, batches = 0, store.values("inputs")
        waiting = torch.empty(0, *graph.input_shape, dtype=graph.example.dtype)
        for part in parts:
            try:
                found = samples_of(graph, part)
            except InputError as error:
                if not count:
                    raise
                raise InputError(f"{error}, counted from sample {count}", argument=error.argument) from error
            count += len(found)
            waiting = torch.cat([waiting, found])
            while len(waiting) >= BATCH + 2:  # what is left is a batch too
                batches.append(waiting[:BATCH].clone())
                waiting = waiting[BATCH:]
        batches.append(batches_of(waiting, BATCH + 2)[0].contiguous())
        return cls(count, batches, store)

    @property
    def parts(self) -> Parts:
        """The samples as one array that is never whole, to be hashed."""
        first = self.batches[0]
        shape = (self.count, *first.shape[1:])
        return Parts(first.numpy().dtype, shape, lambda: (one[: self.count].numpy() for one in self.batches))


def in_slices(inputs: Any) -> Iterator[Any]:
    """Arrays of any form, a batch of samples at a time, with the constants among them."""

    def cut(value: Any, first: int) -> Any:
        return value[first : first + BATCH] if is_array(value) else value

    for first in range(0, len(first_array(inputs)), BATCH):
        if isinstance(inputs, Mapping):
            yield {name: cut(value, first) for name, value in inputs.items()}
        elif isinstance(inputs, tuple | list):
            yield tuple(cut(value, first) for value in inputs)
        else:
            yield cut(inputs, first)
