r"""Operations that only move elements: view, permute, slice, cat, pad and their like, by one mechanism.

Such an operation f puts at every place of its result one element of its operands, or a fixed number. Which one, f says
itself: it is run once on tensors that hold, instead of values, *identifiers* of elements,

    1 + j + b·N    for element j of sample b, with N elements per sample over all operands;
    0              for the number zero, so that operations that fill up with zeros need no care;
    -1, -2, …      for the constants among the operands.

The identifiers that come out are the selection map. They also show whether f keeps samples apart: row b of the result
must hold what row 0 holds, shifted by b·N. Where sizes depend on the number of samples, two numbers are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from simplicit.baseline.affine import Affine, Indices, NotAffineError, Shape, Vector, as_vector

__all__ = ["PROBES", "BatchSize", "at_probe", "contains", "move"]

# Consecutive, so that no arithmetic with a size gives the same for both unless it does not depend on the size; above
# 1, because torch.export takes the number of samples to be at least 2.
PROBES = (3, 4)

# Arguments that say where elements go; tensors in all other arguments hold elements.
_PLACES = frozenset({"condition", "index", "indices", "mask", "repeats", "tensor_indices_or_sections"})


@dataclass(frozen=True)
class BatchSize:
    """A number that depends on the number of samples: its value at each number of :data:`PROBES`."""

    at: tuple[Any, ...]


def contains(kinds: type | tuple[type, ...], arguments: Any) -> bool:
    """Whether an instance of ``kinds`` occurs anywhere in ``arguments``."""
    return any(isinstance(leaf, kinds) for leaf in tree_leaves(arguments))


def at_probe(arguments: Any, probe: int) -> Any:
    """``arguments`` with every :class:`BatchSize` at its value for ``PROBES[probe]`` samples."""
    return tree_map(lambda leaf: leaf.at[probe] if isinstance(leaf, BatchSize) else leaf, arguments)


def move(operation: Callable[..., Any], arguments: Mapping[str, Any], numbers: Collection[str] = ()) -> Any:
    """The affine value (or the list of them) that ``operation`` makes by moving elements.

    Parameters
    ----------
    operation : callable
        The torch operation, called with keywords only.
    arguments : mapping from the names of its schema
        Affine values, constant tensors, numbers, sizes, lists of these.
    numbers : names of those arguments in which a plain number is an element, not a place

    Raises
    ------
    NotAffineError
        Samples are mixed, the batch dimension moves, or places depend on the input or on the number of samples.
    """
    if any(contains(Affine, value) for name, value in arguments.items() if name in _PLACES):
        raise NotAffineError("where its elements go depends on the input or on the number of samples")
    identifiers, found = _run(operation, arguments, numbers, 0)
    if contains(BatchSize, arguments):
        _, again = _run(operation, arguments, numbers, 1)
        one, other = tree_leaves(found), tree_leaves(again)
        if len(one) != len(other) or not all(a.equals(b) for a, b in zip(one, other, strict=True)):
            raise NotAffineError("its result depends on the number of samples")
    return tree_map(identifiers.value, found)


def _run(
    operation: Callable[..., Any], arguments: Mapping[str, Any], numbers: Collection[str], probe: int
) -> tuple[_Identifiers, Any]:
    width = sum(leaf.size for leaf in tree_leaves(dict(arguments)) if isinstance(leaf, Affine))
    identifiers = _Identifiers(PROBES[probe], width)
    numbered = {
        name: value if name in _PLACES else tree_map(lambda leaf, n=name in numbers: identifiers.of(leaf, n), value)
        for name, value in arguments.items()
    }
    return identifiers, tree_map(identifiers.read, operation(**at_probe(numbered, probe)))


@dataclass(frozen=True, eq=False)
class _Found:
    """The identifiers in sample 0 of a result, flat, and the shape of that sample."""

    identifiers: Indices
    shape: Shape

    def equals(self, other: _Found) -> bool:
        return self.shape == other.shape and np.array_equal(self.identifiers, other.identifiers)


class _Identifiers:
    """Gives identifiers to the operands of one run, and reads them in its result."""

    def __init__(self, samples: int, width: int) -> None:
        self._samples = samples
        self._width = width
        self._next = 1
        self._operands: list[tuple[int, Affine]] = []
        self._constants: list[Vector] = [np.zeros(1)]

    def of(self, leaf: Any, number_is_element: bool) -> Any:
        """What stands for an argument's leaf in the run; leaves that are no elements stand for themselves."""
        if isinstance(leaf, Affine):
            return self._of_affine(leaf)
        if isinstance(leaf, Tensor):
            return self._of_constant(leaf)
        if number_is_element and isinstance(leaf, int | float):
            return self._of_constant(torch.tensor(leaf, dtype=torch.float64)).item()
        return leaf

    def _of_affine(self, operand: Affine) -> Tensor:
        first = self._next
        self._next += operand.size
        self._operands.append((first, operand))
        # Identifiers are float64, because some operations (reflection padding) are not there for integers.
        sample = torch.arange(first, self._next, dtype=torch.float64)
        samples = sample + self._width * torch.arange(self._samples)[:, None]
        return samples.reshape(self._samples, *operand.shape)

    def _of_constant(self, values: Tensor) -> Tensor:
        first = sum(known.size for known in self._constants)
        self._constants.append(as_vector(values))
        return -torch.arange(first, first + values.numel(), dtype=torch.float64).reshape(values.shape)

    def read(self, result: Tensor) -> _Found:
        if result.ndim == 0 or result.shape[0] != self._samples:
            raise NotAffineError("it moves or reshapes the batch dimension, which must stay the first one")
        rows = result.reshape(self._samples, -1).to(torch.int64).numpy()
        unshifted = rows - np.where(rows > 0, self._width * np.arange(self._samples)[:, None], 0)
        if (unshifted != rows[0]).any() or (rows[0] > self._width).any():
            raise NotAffineError("it mixes the samples of a batch")
        return _Found(rows[0], tuple(result.shape[1:]))

    def value(self, found: _Found) -> Affine:
        constants = np.concatenate(self._constants)
        moved = Affine(found.shape, {}, constants[np.maximum(-found.identifiers, 0)])
        for first, operand in self._operands:
            own = found.identifiers - first
            outside = (own < 0) | (own >= operand.size)
            if not outside.all():
                moved = moved.plus(operand.selected(np.where(outside, -1, own), found.shape))
        return moved
