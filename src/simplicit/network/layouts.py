r"""Layouts: where the samples of a tensor are, when they are not its first dimension.

Networks fold samples into other dimensions and out again: all tokens of a batch become rows of one matrix, heads and
samples one dimension, or tokens stand first. With m samples such a tensor has the shape

    (left …, outer · m · inner, right …),

and sample i is at place (o·m + i)·inner + j of that dimension. One sample of it, in canonical order, has the shape
(left …, outer, inner, right …).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The dimension ``axis`` is outer · m · inner long; None stands for samples first, on their own."""

    axis: int
    outer: int
    inner: int

    def order(self, dimensions: int) -> list[int]:
        """The order of the dimensions of (m, left …, outer, inner, right …) in (left …, outer, m, inner, right …)."""
        rest = list(range(1, dimensions + 1))
        return [*rest[: self.axis + 1], 0, *rest[self.axis + 1 :]]

    def folded(self, shape: Shape) -> tuple[Shape, int, Shape]:
        """The lengths left, outer · inner, and right of a sample's canonical shape."""
        return shape[: self.axis], self.outer * self.inner, shape[self.axis + 2 :]

    def arranged(self, canonical: Tensor) -> Tensor:
        """The tensor as the network has it from (m, *shape)."""
        m, shape = canonical.shape[0], tuple(canonical.shape[1:])
        left, length, right = self.folded(shape)
        return canonical.permute(self.order(len(shape))).reshape(*left, length * m, *right)

    def canonical(self, tensor: Tensor, samples: int) -> Tensor:
        """Samples first, (m, left …, outer, inner, right …)."""
        left, right = tensor.shape[: self.axis], tensor.shape[self.axis + 1 :]
        return tensor.reshape(*left, self.outer, samples, self.inner, *right).movedim(self.axis + 1, 0)

    def right(self, shape: Shape) -> int:
        """How many dimensions follow the one with the samples."""
        return len(shape) - self.axis - 2


def canonical(tensor: Tensor, samples: int, layout: Layout | None) -> Tensor:
    """Samples first, in canonical order."""
    return tensor if layout is None else layout.canonical(tensor, samples)


def possible(shape: Shape, samples: int) -> Iterator[Layout | None]:
    """The layouts that a tensor of a shape may have, the usual one first."""
    if shape and shape[0] == samples:
        yield None
    for axis, length in enumerate(shape):
        if length and length % samples == 0:
            count = length // samples
            for outer in range(1, count + 1):
                if count % outer == 0 and (axis, count) != (0, 1):
                    yield Layout(axis, outer, count // outer)


