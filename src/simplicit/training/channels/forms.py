r"""The forms in which a weight multiplies a state, each as z = W φ at every position.

A form says how the input x becomes features φ (columns of R), the result z becomes rows, and the weight becomes W:

    features(x) (g, d, n)        split(laid(z)) (g, r, n)        kernel(w) (g, r, d)

for g groups of r rows on d columns, at n positions. Positions are those of all samples, tokens and pixels: the rows are
tied over them. A linear map takes its columns from the last axis, a convolution from the patches that its kernel sees,
a transposed convolution from those that the turned kernel sees of the input with zeros between its values, and any
other contraction of a state with a weight from the axes that both have and the result has not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from simplicit.training.channels.patches import Geometry, channels_first, patches


@dataclass(frozen=True)
class Form(ABC):
    """One way to multiply by a weight.

    ``channel`` is the axis of the rows in what ``laid`` gives, from the end. Inputs and results can be taken in parts
    along their first axis where the form is ``sliced``.
    """

    @property
    def groups(self) -> int:
        """Parts of the rows that do not see each other's columns."""
        return 1

    @property
    def channel(self) -> int:
        return -1

    @property
    def sliced(self) -> bool:
        return True

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """R (g, d, n) of an input."""

    @abstractmethod
    def kernel(self, weight: Tensor) -> Tensor:
        """W (g, r, d) of a weight."""

    @abstractmethod
    def weight(self, kernel: Tensor, shape: Sequence[int]) -> Tensor:
        """The weight of that shape of which W is the kernel."""

    def laid(self, z: Tensor) -> Tensor:
        """A result with all its rows on one axis, and all its positions on others."""
        return z

    def split(self, laid: Tensor) -> Tensor:
        """What is laid out so, rows or something else for each group, as (g, r, n), in the order of the features."""
        return laid.reshape(-1, laid.shape[-1]).T.unsqueeze(0)

    def positions(self, laid: Tensor) -> Tensor:
        """The first channel of what is laid out so, (n,), in the order of the features."""
        return laid.movedim(self.channel, 0)[0].reshape(-1)

    def entries(self, x: Tensor, columns: int) -> int:
        """Entries of R, of which every group has so many columns."""
        return x.numel()

    @property
    def kernel_positions(self) -> int:
        """How many consecutive columns are one channel of the input at as many positions."""
        return 1


@dataclass(frozen=True)
class Linear(Form):
    """z = x Wᵀ on the last axis; the weight is W, or Wᵀ where it is ``turned``, as in x @ weight."""

    turned: bool = False

    def features(self, x: Tensor) -> Tensor:
        return patches(x, None)

    def kernel(self, weight: Tensor) -> Tensor:
        return (weight.T if self.turned else weight).unsqueeze(0)

    def weight(self, kernel: Tensor, shape: Sequence[int]) -> Tensor:
        return kernel[0].T if self.turned else kernel[0]


@dataclass(frozen=True)
class Convolution(Form):
    """A convolution, whose columns are patches."""

    geometry: Geometry

    @property
    def kernel_positions(self) -> int:
        return prod(self.geometry.kernel)

    @property
    def groups(self) -> int:
        return self.geometry.groups

    @property
    def channel(self) -> int:
        return -1 - len(self.geometry.kernel)

    def features(self, x: Tensor) -> Tensor:
        return patches(x, self.geometry)

    def kernel(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.groups, len(weight) // self.groups, -1)

    def weight(self, kernel: Tensor, shape: Sequence[int]) -> Tensor:
        return kernel.reshape(shape)

    def split(self, laid: Tensor) -> Tensor:
        return channels_first(laid, self.geometry)

    def entries(self, x: Tensor, columns: int) -> int:
        return len(x) * prod(self.geometry.positions(x.shape[2:])) * self.groups * columns


@dataclass(frozen=True)
class Transposed(Convolution):
    """A transposed convolution of some ``stride``: that of ``geometry``, whose stride is 1, on a stretched input.

    What the weight (channels in, channels out of a group, *kernel) makes of one value is added up where results
    overlap. So a result is the product of the turned kernel with the values around it, and zeros between them.
    """

    stride: tuple[int, ...]

    @classmethod
    def of(
        cls,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        outer: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> Transposed:
        """From the arguments of a transposed convolution; ``outer`` is its output padding."""
        reach = [d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True)]
        pairs = tuple((before, before + more) for before, more in zip(reach, outer, strict=True))
        ones = (1,) * len(kernel)
        return cls(Geometry(tuple(kernel), ones, pairs, tuple(dilation), groups), tuple(stride))

    def features(self, x: Tensor) -> Tensor:
        return patches(self._stretched(x), self.geometry)

    def _stretched(self, x: Tensor) -> Tensor:
        wide = x.new_zeros(*x.shape[:2], *self._sizes(x))
        wide[(slice(None), slice(None), *(slice(None, None, step) for step in self.stride))] = x
        return wide

    def _sizes(self, x: Tensor) -> list[int]:
        return [(size - 1) * step + 1 for size, step in zip(x.shape[2:], self.stride, strict=True)]

    def kernel(self, weight: Tensor) -> Tensor:
        turned = weight.flip(tuple(range(2, weight.ndim)))
        parts = turned.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2)
        return parts.reshape(self.groups, weight.shape[1], -1)

    def weight(self, kernel: Tensor, shape: Sequence[int]) -> Tensor:
        parts = kernel.reshape(self.groups, shape[1], -1, *shape[2:]).transpose(1, 2)
        return parts.reshape(tuple(shape)).flip(tuple(range(2, len(shape))))

    def entries(self, x: Tensor, columns: int) -> int:
        return len(x) * prod(self.geometry.positions(self._sizes(x))) * self.groups * columns


@dataclass(frozen=True)
class Contraction(Form):
    """Any sum of products of a state and a weight, by the labels of the axes of x, of the weight and of z.

    Labels that all three have are groups, those of x and weight alone columns, of weight and z rows, of x and z
    positions; ``count`` is the number of groups. InputError is not raised here: :meth:`fits` says which labels are of
    this kind.
    """

    x: str
    w: str
    z: str
    count: int = 1

    @staticmethod
    def fits(x: str, w: str, z: str) -> bool:
        """Whether every label is once in an operand and at least in two, and some are rows and columns."""
        once = all(len(set(labels)) == len(labels) for labels in (x, w, z))
        every = all(sum(label in labels for labels in (x, w, z)) >= 2 for label in x + w + z)
        return once and every and bool(set(w) - set(x)) and bool(set(w) - set(z))

    @property
    def groups(self) -> int:
        return self.count

    @property
    def sliced(self) -> bool:
        return False

    def _parts(self, labels: str) -> tuple[list[int], list[int], list[int], list[int]]:
        """Axes of an operand that are groups, rows, columns and positions, each in one order for all operands."""
        x, w, z = self.x, self.w, self.z
        kinds = (
            [one for one in w if one in x and one in z],
            [one for one in w if one not in x],
            [one for one in w if one not in z],
            [one for one in x if one not in w],
        )
        groups, rows, columns, places = ([labels.index(one) for one in kind if one in labels] for kind in kinds)
        return groups, rows, columns, places

    def features(self, x: Tensor) -> Tensor:
        groups, _, columns, places = self._parts(self.x)
        d = prod(x.shape[axis] for axis in columns)
        return x.permute(*groups, *columns, *places).reshape(self.count, d, -1)

    def kernel(self, weight: Tensor) -> Tensor:
        groups, rows, columns, _ = self._parts(self.w)
        r = prod(weight.shape[axis] for axis in rows)
        return weight.permute(*groups, *rows, *columns).reshape(self.count, r, -1)

    def weight(self, kernel: Tensor, shape: Sequence[int]) -> Tensor:
        groups, rows, columns, _ = self._parts(self.w)
        order = [*groups, *rows, *columns]
        inverse = [order.index(axis) for axis in range(len(order))]
        return kernel.reshape([shape[axis] for axis in order]).permute(inverse)

    def laid(self, z: Tensor) -> Tensor:
        groups, rows, _, places = self._parts(self.z)
        channels = prod(z.shape[axis] for axis in (*groups, *rows))
        return z.permute(*places, *groups, *rows).reshape(-1, channels)

    def split(self, laid: Tensor) -> Tensor:
        return laid.T.reshape(self.count, laid.shape[-1] // self.count, -1)


def same_rows(one: tuple[Form, tuple[int, ...]], other: tuple[Form, tuple[int, ...]], shape: Sequence[int]) -> bool:
    """Whether two forms, each of a weight with its axes in an order of its own, have the same rows and columns."""
    numbers = torch.arange(prod(shape)).reshape(tuple(shape))
    first, second = (form.kernel(numbers.permute(order)) for form, order in (one, other))
    return torch.equal(first, second)
