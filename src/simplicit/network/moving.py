r"""Operations that only move elements: view, permute, slice, cat, pad and their like, by one mechanism.

Such an operation f puts at every place of its result one element of its operands, or a fixed number. Which one, f says
itself: it is run once on tensors that hold, instead of values, *identifiers* of elements,

    1 + j + b·N    for element j of sample b, with N elements per sample over all operands;
    0              for the number zero, so that operations that fill up with zeros need no care;
    -1, -2, …      for the elements of the constants among the operands.

For instance ``where(mask, u, c)`` with mask (true, false, true), u of N = 3 elements per sample and a constant
c = (7, 8, 9) is run on

    u → [[1, 2, 3], [4, 5, 6]]   and   c → [-1, -2, -3],   and gives   [[1, -2, 3], [4, -2, 6]].

Row 0 says what the result holds: element 0 of u, the constant 8, element 2 of u. Row b must say the same with its
positive identifiers shifted by b·N, else f mixes samples. Two numbers of samples are tried, so that what depends on
that number shows; operations that could touch only samples beyond those tried are kept from the batch dimension by
:class:`~simplicit.network.rules.Moving`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicit.implicit import GatherMap, LinearMap
from simplicit.network.affine import Affine, Indices, MixingError, NotAffineError, Shape, Vector, as_vector
from simplicit.network.layouts import Layout, canonical, possible
from simplicit.network.trees import contains, leaves, mapped

# Numbers of samples at which operations are run; above 1, because torch.export takes that number to be at least 2.
PROBES = (11, 12)

_NUMBER_MATTERS = "its result depends on the number of samples"

# Arguments that say where elements go; tensors in all other arguments hold elements.
_PLACES = frozenset({"condition", "index", "indices", "mask", "repeats", "tensor_indices_or_sections"})

# Arguments in which the number of samples is the length of the batch dimension.
_SIZES = frozenset({"size", "shape", "repeats", "dims"})


@dataclass(frozen=True)
class BatchSize:
    """An integer that depends on the number of samples, by its values at those of :data:`NUMBER_OF_SAMPLES`."""

    at: tuple[Any, ...]

    @staticmethod
    def combined(operation: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """What ``operation`` makes of arguments with such integers: one of them again, or a plain integer.

        NotAffineError is raised where that is no linear function of the number of samples, of which two values would
        say little of the others.
        """
        values = tuple(operation(*at_probe(args, probe)) for probe in range(len(NUMBER_OF_SAMPLES.at)))
        (m, n, far), (at_m, at_n, at_far) = NUMBER_OF_SAMPLES.at, values
        if (at_n - at_m) * (far - n) != (at_far - at_n) * (n - m):
            raise NotAffineError("its result depends on the number of samples")
        return at_m if at_m == at_n else BatchSize(values)

    @staticmethod
    def of(size: Any) -> Any:
        """A size of torch.export's, which depends on nothing but the number of samples."""
        if not isinstance(size, torch.SymInt):
            return size
        symbols = [*size.node.expr.free_symbols]
        if depends_on_values(size) or len(symbols) != 1:
            raise NotAffineError("how many numbers it gives depends on the input; write torch.where(mask, x, y)")
        return BatchSize(tuple(int(size.node.expr.subs(symbols[0], number)) for number in NUMBER_OF_SAMPLES.at))


def depends_on_values(result: Any) -> bool:
    """Whether sizes among what torch.export found depend on the values of the input."""
    # Here, since it imports SymPy: a second that only a capture needs, not every start of a command or a worker.
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return bool(free_unbacked_symbols(result))


# The third is only for arithmetic; nothing is run on so many samples.
NUMBER_OF_SAMPLES = BatchSize((*PROBES, 1_000_003))


def at_probe(arguments: Any, probe: int) -> Any:
    """The ``arguments`` with every :class:`BatchSize` at its value number ``probe``."""
    return mapped(lambda leaf: leaf.at[probe] if isinstance(leaf, BatchSize) else leaf, arguments)


def move(operation: Callable[..., Any], arguments: Mapping[str, Any], numbers: Collection[str] = ()) -> Any:
    """The affine value, or the list of them, that an operation of torch makes by moving elements.

    ``arguments`` by the names of its schema are affine values, constant tensors, numbers, sizes and lists of these;
    ``numbers`` names those in which a plain number is an element, not a place. NotAffineError is raised where samples
    are mixed, the batch dimension moves, or places depend on the input or on the number of samples.
    """
    for name, value in arguments.items():
        if name in _PLACES and contains(Affine, value):
            raise NotAffineError("where its elements go depends on the input or on the number of samples")
        if name not in _SIZES and contains(BatchSize, value):
            raise NotAffineError("its result depends on the number of samples")
    given = dict(arguments)
    operands = [leaf for leaf in leaves(given) if isinstance(leaf, Affine)]
    kinds = mapped(lambda leaf: _Operand(leaf.shape, leaf.layout) if isinstance(leaf, Affine) else leaf, given)
    small = sum(operand.size for operand in operands) <= _REMEMBERED and not contains(Tensor, kinds)
    find = _found_before if small else _found
    recipes = find(operation, tuple((name, _frozen(kind)) for name, kind in kinds.items()), tuple(numbers))
    return mapped(lambda recipe: recipe.of(operands), recipes)


# Numbers in the operands of operations whose results are remembered: a few megabytes for all of them.
_REMEMBERED = 2**12


@dataclass(frozen=True)
class _Operand:
    """All that counts of an affine value, but for what it is."""

    shape: Shape
    layout: Layout | None

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, tuple | list) else value


@dataclass(frozen=True, eq=False)
class _Recipe:
    """How a result is made: a constant, and what is gathered from operands, by their numbers; None for all of one."""

    shape: Shape
    layout: Layout | None
    constant: Vector
    parts: tuple[tuple[int, GatherMap | None], ...]

    def of(self, operands: Sequence[Affine]) -> Affine:
        """The result for operands."""
        moved = Affine(self.shape, {}, self.constant)
        for number, gather in self.parts:
            operand = operands[number]
            part = operand if gather is None else operand.through(gather, self.shape)
            terms = {source: block for source, block in part.terms.items() if not _is_nothing(block)}
            moved = moved.plus(Affine(self.shape, terms, part.constant))
        return moved.laid_out(self.layout)


def _is_nothing(block: LinearMap) -> bool:
    """Whether none of what a map takes is picked; it is not asked of those where that is dear to say."""
    return block.is_written and not block.nnz


def _found(operation: Callable[..., Any], arguments: tuple[tuple[str, Any], ...], numbers: Collection[str]) -> Any:
    """The recipes of an operation's results; ``arguments`` are pairs of a name and what it stands for."""
    run, again = (_Run(samples, dict(arguments), numbers) for samples in PROBES)
    result = operation(**at_probe(run.arguments, 0))
    ours = [run.read(one) for one in leaves(result)]
    theirs = [again.read(one) for one in leaves(operation(**at_probe(again.arguments, 1)))]
    if len(ours) != len(theirs):
        raise NotAffineError(_NUMBER_MATTERS)
    recipes = iter([run.recipe(_common(a, b)) for a, b in zip(ours, theirs, strict=True)])
    return mapped(lambda _: next(recipes), result)


_found_before = lru_cache(maxsize=256)(_found)


@dataclass(frozen=True, eq=False)
class _Sample:
    """What sample 0 of a result holds: its identifiers, flat, and its shape."""

    identifiers: Indices
    shape: Shape
    layout: Layout | None

    def equals(self, other: _Sample) -> bool:
        same = self.shape == other.shape and self.layout == other.layout
        return same and np.array_equal(self.identifiers, other.identifiers)


def _common(ours: tuple[_Sample, ...], theirs: tuple[_Sample, ...]) -> _Sample:
    """The reading that two numbers of samples agree on."""
    for one in ours:
        if any(one.equals(other) for other in theirs):
            return one
    raise NotAffineError(_NUMBER_MATTERS)


class _Run:
    """One run on a number of samples, which makes the arguments with identifiers as elements and reads the result."""

    def __init__(self, samples: int, arguments: Mapping[str, Any], numbers: Collection[str]) -> None:
        self._samples = samples
        self._width = sum(leaf.size for leaf in leaves(dict(arguments)) if isinstance(leaf, _Operand))
        # Operands with their first identifiers; constants under -identifier.
        self._operands: list[tuple[int, _Operand]] = []
        self._constants: list[float] = [0.0]
        self.arguments = {name: self._named(name, value, numbers) for name, value in arguments.items()}

    def _named(self, name: str, value: Any, numbers: Collection[str]) -> Any:
        """An argument with identifiers in place of its elements."""
        if name in _PLACES:
            return value

        def stand_in(leaf: Any) -> Any:
            if isinstance(leaf, _Operand):
                return self._of_operand(leaf)
            if isinstance(leaf, Tensor):
                return self._of_constant(leaf)
            if name in numbers and isinstance(leaf, int | float):
                return self._of_constant(torch.tensor(leaf, dtype=torch.float64)).item()
            return leaf

        return mapped(stand_in, value)

    def _of_operand(self, operand: _Operand) -> Tensor:
        first = 1 + sum(known.size for _, known in self._operands)
        self._operands.append((first, operand))
        # Identifiers are float64, because some operations (reflection padding) are not there for integers.
        sample = torch.arange(first, first + operand.size, dtype=torch.float64)
        samples = sample + self._width * torch.arange(self._samples)[:, None]
        shaped = samples.reshape(self._samples, *operand.shape)
        return shaped if operand.layout is None else operand.layout.arranged(shaped)

    def _of_constant(self, values: Tensor) -> Tensor:
        first = len(self._constants)
        self._constants.extend(as_vector(values).tolist())
        return -torch.arange(first, len(self._constants), dtype=torch.float64).reshape(values.shape)

    def read(self, result: Tensor) -> tuple[_Sample, ...]:
        """What the result holds, by each of the layouts that it may have; the usual one alone, if it may be that."""
        found: list[_Sample] = []
        for layout in possible(tuple(result.shape), self._samples):
            samples = canonical(result, self._samples, layout)
            if not self._agree(rows := samples.reshape(self._samples, -1)):
                continue
            found.append(_Sample(rows[0].to(torch.int64).numpy(), tuple(samples.shape[1:]), layout))
            if layout is None:
                break
        if not found:
            raise MixingError("it mixes the samples of a batch")
        return tuple(found)

    def _agree(self, rows: Tensor) -> bool:
        """Whether all samples hold the same elements, of their own."""
        first = rows[0]
        if bool((first > self._width).any()):
            return False
        step = self._width * (first > 0).to(rows.dtype)
        return all(torch.equal(row, first + step * number) for number, row in enumerate(rows))

    def recipe(self, sample: _Sample) -> _Recipe:
        """How a value is made whose elements are those that ``sample`` identifies."""
        constant = np.array(self._constants)[np.maximum(-sample.identifiers, 0)]
        parts: list[tuple[int, GatherMap | None]] = []
        for number, (first, operand) in enumerate(self._operands):
            own = sample.identifiers - first
            outside = (own < 0) | (own >= operand.size)
            if not outside.all():
                whole = np.array_equal(own, np.arange(operand.size))
                parts.append((number, None if whole else GatherMap(np.where(outside, -1, own), operand.size)))
        return _Recipe(sample.shape, sample.layout, constant, tuple(parts))
