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
from simplicit.implicit.maps import CsrMap, GatheredMap, GatherMap, LinearMap
from simplicit.implicit.maps.weighted import WeightedMap
from simplicit.implicit.ordering import dependency_order

Blocks = Mapping[tuple[str, str], LinearMap]

# So many samples are computed at once also where they are too large for the caches, while they take no more numbers
# than this: large weights are read once for all of them.
_TOGETHER, _MOST_NUMBERS = 8, 2**24
# Of so many inputs the size is looked at, and states not, where it says that they are in range: a look at the states
# takes less time than one at many inputs, and more than one at a few. Their 2-norm is several times faster than the
# largest of them, and not smaller.
_MOST_LOOKED_AT = 2**14
# What is sure to be in range: rounding grows sums by far less than what is left of it.
_SHARE_OF_RANGE = 1e-6


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

    @cached_property
    def written(self) -> tuple[str, CsrMap] | None:
        """The only term, if there is one alone and it is a written matrix: all steps of a perceptron."""
        source, block = self.terms[0] if len(self.terms) == 1 else ("", None)
        return (source, block) if isinstance(block, CsrMap) and self.joined is None else None

    @cached_property
    def in_place(self) -> Callable[[Tensor], Tensor]:
        """φ, which may overwrite its argument."""
        name = self.activation.name if isinstance(self.activation, Activation) else ""
        return _IN_PLACE.get(name, self.activation)

    def states(self, values: Mapping[str, Tensor]) -> Tensor:
        """The states, (m, size), for the values of what it reads."""
        if self.written is not None:
            source, block = self.written
            return self.in_place(block.affine(self.bias, values[source]))
        if self.joined is not None:
            z = self.joined.apply(values, self.bias)
        else:
            terms = [(values[source], block) for source, block in self.terms]
            z = (_written if self.side_by_side else _sum)(self.bias, terms, len(values[INPUT]))
        return self.in_place(z)


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
        # The map of the only group that the output reads, if there is one and it reads nothing else.
        self._only = None if self._direct is not None or len(self._outputs) != 1 else blocks[OUTPUT, self._outputs[0]]
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
        in_range = U.numel() <= _MOST_LOOKED_AT and float(torch.linalg.vector_norm(U)) <= self._safe_size
        for step in self._steps:
            values[step.name] = x = step.states(values)
            if not in_range:
                check_range(x, "states", first)
            if self._only is not None and step.output is self._only:
                Y = self._only.affine(self._output_bias, x)
            elif step.output is not None:
                found[step.name] = step.output.apply(x)
            for name in step.last:
                del values[name]
        if self._direct is not None:
            found[INPUT] = self._direct.apply(U)
        if self._only is None:
            Y = self._output_bias.repeat(len(U), 1)
            for name in self._outputs:
                Y += found[name]
        if not in_range:
            check_range(Y, "outputs", first)
        return Y

    @cached_property
    def _safe_size(self) -> float:
        """All states and outputs are in range where no input is larger than this; -1 where nothing is known.

        With |u| <= r each |x| is at most a r + c, where a and c go from group to group as ‖W‖∞ and slopes say. It is
        found for models of written matrices with elementwise activations, where it costs no more than a sample.
        """
        blocks = [block for step in self._steps for _, block in step.terms]
        blocks += [one for one in (self._direct, *(step.output for step in self._steps)) if one is not None]
        phis = [step.activation for step in self._steps]
        if not all(isinstance(block, CsrMap) for block in blocks) or any(isinstance(phi, Block) for phi in phis):
            return -1.0
        sizes, largest, last = {INPUT: (1.0, 0.0)}, [(1.0, 0.0)], (0.0, _size(self._output_bias))
        for step in self._steps:
            assert isinstance(step.activation, Activation)
            z = (0.0, _size(step.bias))
            for source, block in step.terms:
                z = _grown(z, sizes[source], block)
            phi = step.activation
            at_zero = _size(phi(torch.zeros(1, dtype=torch.float64)))
            sizes[step.name] = (phi.slope * z[0], phi.slope * z[1] + at_zero + phi.jump)
            largest += [z, sizes[step.name]]
            last = last if step.output is None else _grown(last, sizes[step.name], step.output)
        largest.append(last if self._direct is None else _grown(last, sizes[INPUT], self._direct))
        allowed = _SHARE_OF_RANGE * torch.finfo(self._output_bias.dtype).max
        return min((allowed - c) / a if a > 0 else allowed if c <= allowed else -1.0 for a, c in largest)


def _size(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _grown(size: tuple[float, float], of: tuple[float, float], block: LinearMap) -> tuple[float, float]:
    """A bound a r + c and what a map makes of another, added up."""
    norm = float(block.row_sums().max(initial=0.0))
    return size[0] + norm * of[0], size[1] + norm * of[1]


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
    elif rest:
        x, block = rest.pop(0)
        z = block.affine(bias, x)
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
