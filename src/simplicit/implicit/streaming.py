r"""Outputs without states: a model with an order of substitution, group after group, each forgotten after its last use.

:meth:`~simplicit.implicit.plan.Plan.substitute_` computes the same numbers and keeps them all, (m, n). A stream keeps
those of the groups that later ones or the output still read, which is what the network itself keeps, so that as many
samples fit into the processor's caches at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.implicit.batch import CHUNK_NUMBERS, check_range, chunks
from simplicit.implicit.groups import INPUT, OUTPUT, Activation, Block, StateGroup, pre_slices_of
from simplicit.implicit.maps import GatheredMap, GatherMap, LinearMap
from simplicit.implicit.maps.weighted import WeightedMap
from simplicit.implicit.ordering import dependency_order

Blocks = Mapping[tuple[str, str], LinearMap]

# So many samples are computed at once also where they are too large for the caches, while they take no more numbers
# than this: large weights are read once for all of them.
_TOGETHER, _MOST_NUMBERS = 8, 2**24


@dataclass(frozen=True, eq=False)
class _Run:
    """A term that takes some ``columns`` of its source, or of what a map makes of it, to the rows from ``first`` on."""

    source: str
    block: GatheredMap | None
    first: int
    columns: slice
    factors: NDArray[Any] | None

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.columns.stop - self.columns.start)


@dataclass(frozen=True, eq=False)
class _Joined:
    """Runs side by side: copied together at once, and then multiplied by ``factors`` (k,), None for ones.

    A network that joins all that it has made so far, layer after layer, has hundreds of them.
    """

    runs: tuple[_Run, ...]
    factors: Tensor | None

    @classmethod
    def of(cls, runs: Sequence[_Run], bias: Tensor) -> _Joined | None:
        """Runs in the order of their rows, for results like ``bias``; None where they do not fill them."""
        if sum(run.rows.stop - run.first for run in runs) < len(bias):
            return None
        factors = bias.new_ones(len(bias))
        for run in runs:
            if run.factors is not None:
                factors[run.rows] = torch.from_numpy(run.factors[run.rows])
        return cls(tuple(runs), None if bool((factors == 1).all()) else factors)

    def apply(self, values: Mapping[str, Tensor], bias: Tensor) -> Tensor:
        """The bias and the runs, as a new tensor (m, k)."""
        found = []
        for run in self.runs:
            x = values[run.source]
            found.append((x if run.block is None else run.block.core_of(x))[:, run.columns])
        z = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        into = None if len(found) == 1 else z
        return torch.add(bias, z, out=into) if self.factors is None else torch.addcmul(bias, z, self.factors, out=into)


@dataclass(frozen=True)
class _Step:
    """One group: x = φ(bias + Σ of the terms), after which the values of ``last`` are not read any more."""

    name: str
    activation: Activation | Block
    bias: Tensor
    terms: tuple[tuple[str, LinearMap], ...]
    output: LinearMap | None
    last: tuple[str, ...]

    @cached_property
    def side_by_side(self) -> bool:
        """Whether each row has an entry of one term, which puts slices there."""
        gathers = [_gather_of(block) for _, block in self.terms]
        sliced = [gather for gather in gathers if gather is not None and gather.is_sliced]
        if not gathers or len(sliced) < len(gathers):
            return False
        filled = sum((gather.row_counts() for gather in sliced), np.zeros(len(self.bias), np.int64))
        return bool((filled == 1).all())

    @cached_property
    def joined(self) -> _Joined | None:
        """The terms as runs that stand one after another and fill all rows, if they are."""
        found = []
        for source, block in self.terms if self.side_by_side else ():
            gather = _gather_of(block)
            if gather is None or gather.run is None:
                return None
            found.append(_Run(source, block if isinstance(block, GatheredMap) else None, *gather.run, gather.factors))
        found.sort(key=lambda run: run.first)
        return _Joined.of(found, self.bias) if found else None

    def states(self, values: Mapping[str, Tensor]) -> Tensor:
        """The states, (m, size), for the values of what it reads."""
        if self.joined is not None:
            z = self.joined.apply(values, self.bias)
        else:
            terms = [(values[source], block) for source, block in self.terms]
            z = (_written if self.side_by_side else _sum)(self.bias, terms, len(values[INPUT]))
        if isinstance(self.activation, Activation) and self.activation.name in _IN_PLACE:
            return _IN_PLACE[self.activation.name](z)
        return self.activation(z)


#: Activations that may overwrite their argument.
_IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "identity": lambda z: z}


class Stream:
    """The outputs Y = C X + D U + d of a model whose groups have an order of substitution.

    ``width`` is how many numbers of one sample are there at a time, at most. Arguments are those of
    :class:`~simplicit.implicit.ImplicitModel`, checked.
    """

    def __init__(
        self, groups: Sequence[StateGroup], blocks: Blocks, bias: NDArray[Any], output_bias: NDArray[Any], n_inputs: int
    ) -> None:
        known, at = {group.name: group for group in groups}, pre_slices_of(groups)
        terms = _terms(groups, blocks)
        order = dependency_order(_sources(terms))
        assert order is not None
        last_use = {name: name for name in order} | {source: name for name in order for source, _ in terms[name]}
        over: dict[str, list[str]] = {name: [] for name in order}
        for source, user in last_use.items():
            if source != INPUT:
                over[user].append(source)
        self._steps = [
            _Step(
                name,
                known[name].activation,
                torch.tensor(bias[at[name]]),
                tuple(terms[name]),
                blocks.get((OUTPUT, name)),
                tuple(over[name]),
            )
            for name in order
        ]
        self._outputs = [c for (r, c) in blocks if r == OUTPUT]
        self._direct, self._output_bias = blocks.get((OUTPUT, INPUT)), torch.tensor(output_bias)
        self.width = self._widest(known, n_inputs)

    def _widest(self, known: Mapping[str, StateGroup], n_inputs: int) -> int:
        there, widest = n_inputs, n_inputs + len(self._output_bias)
        for step in self._steps:
            there += known[step.name].size
            widest = max(widest, there + known[step.name].pre_size)
            there -= sum(known[name].size for name in step.last)
        return widest

    def chunks(self, samples: int) -> Iterator[slice]:
        """Cut so many samples into those that are computed at once."""
        return chunks(samples, self.width, min(_MOST_NUMBERS, max(CHUNK_NUMBERS, _TOGETHER * self.width)))

    def outputs(self, U: Tensor, first: int = 0) -> Tensor:
        """Return Y (m, q) for a checked batch U (m, p).

        InputError is raised where states or outputs leave the range of the dtype; it counts samples from ``first``.
        """
        values, found = {INPUT: U}, dict[str, Tensor]()
        for step in self._steps:
            values[step.name] = x = step.states(values)
            check_range(x, "states", first)
            if step.output is not None:
                found[step.name] = step.output.apply(x)
            for name in step.last:
                del values[name]
        if self._direct is not None:
            found[INPUT] = self._direct.apply(U)
        Y = self._output_bias.repeat(len(U), 1)
        for name in self._outputs:
            Y += found[name]
        check_range(Y, "outputs", first)
        return Y


def stream(
    groups: Sequence[StateGroup], blocks: Blocks, bias: NDArray[Any], output_bias: NDArray[Any], n_inputs: int
) -> Stream | None:
    """The stream of a model; None where its groups have no order of substitution."""
    ordered = dependency_order(_sources(_terms(groups, blocks))) is not None
    return Stream(groups, blocks, bias, output_bias, n_inputs) if ordered else None


_Terms = dict[str, list[tuple[str, LinearMap]]]


def _terms(groups: Sequence[StateGroup], blocks: Blocks) -> _Terms:
    """What each group reads, the input first, in the order in which it is added up."""
    found: _Terms = {group.name: [] for group in groups}
    for (row, column), block in sorted(blocks.items(), key=lambda item: item[0][1] != INPUT):
        if row != OUTPUT:
            found[row].append((column, block))
    return found


def _sources(terms: _Terms) -> dict[str, list[str]]:
    """The groups that each group reads."""
    return {name: [column for column, _ in read if column != INPUT] for name, read in terms.items()}


def _sum(bias: Tensor, terms: Sequence[tuple[Tensor, LinearMap]], m: int) -> Tensor:
    """The bias and the sum of the terms, as a new tensor (m, k)."""
    rest = [*terms]
    if rest and _fills(rest[0][1]):  # one pass less: a + b is b + a
        x, block = rest.pop(0)
        z = block.apply(x).add_(bias)
    else:
        z = bias.repeat(m, 1)
    for x, block in rest:
        block.add_to_(z, x)
    return z


def _written(bias: Tensor, terms: Sequence[tuple[Tensor, LinearMap]], m: int) -> Tensor:
    """As :func:`_sum`, for terms that stand side by side."""
    z = bias.new_empty(m, len(bias))
    for x, block in terms:
        assert isinstance(block, GatherMap | GatheredMap)
        block.write_(z, x, bias)
    return z


def _gather_of(block: LinearMap) -> GatherMap | None:
    """What moves the results of a map, or the map itself if it does no more."""
    found = block.after if isinstance(block, GatheredMap) else block
    return found if isinstance(found, GatherMap) else None


def _fills(block: LinearMap) -> bool:
    """Whether products are new tensors in C order that computed every number."""
    return isinstance(block, WeightedMap) or (isinstance(block, GatheredMap) and block.after.is_identity)
