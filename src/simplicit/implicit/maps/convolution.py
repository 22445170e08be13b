r"""Convolutions as linear maps, whose entries are never written down.

The map of a convolution takes x (I, *sizes) to y (O, *out sizes), both flattened in C order,

    y[o, p] = l[o, p] · Σ over c, t   W[o, c, t] · r[c', q] x[c', q],      q = stride·p − padding + dilation·t,

c over the channels of o's group and t over the kernel's taps; what lies outside of x counts as zero. The factors l and
r, one per element, are what rescaling makes of it (Theorem 2.4: S A S⁻¹ is no convolution any more). Factors that are
equal over a channel go into W.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from simplicit.checks import as_array
from simplicit.errors import InputError
from simplicit.implicit.maps.base import LinearMap, Product, as_factors, rounded
from simplicit.implicit.maps.files import Arrays, Entry, Stored, csr_arrays
from simplicit.implicit.maps.sparse import Csr, float_for

_FORWARD = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)

_GEOMETRY = ("stride", "padding", "dilation")
#: Numbers in one kernel that a file may ask for: 16 GB in float64.
_LARGEST_WEIGHT = 2**31

Sizes = tuple[int, ...]


class _Axis(NamedTuple):
    """The geometry of a convolution in one dimension."""

    inputs: int
    taps: int
    stride: int
    padding: int
    dilation: int

    @property
    def outputs(self) -> int:
        """How many places the results have."""
        return (self.inputs + 2 * self.padding - self.dilation * (self.taps - 1) - 1) // self.stride + 1

    @property
    def left_over(self) -> int:
        """How many places at the end no tap reaches."""
        reach = (self.outputs - 1) * self.stride - 2 * self.padding + self.dilation * (self.taps - 1) + 1
        return self.inputs - reach


class ConvMap(LinearMap, kind="convolution"):
    """A convolution on inputs of one size, in one to three dimensions.

    Its values are the weights that are not zero, each for all its places; factors stay as they are.

    Parameters
    ----------
    weight : array, shape (O, I / groups, *kernel)
        W; it is copied. float32 for itself and float16, float64 for other real numbers.
    input_shape : tuple of int
        (I, *sizes).
    stride, padding, dilation : tuple of int
        One number per dimension; padding with zeros, the same on both sides.
    groups : int
        Into so many groups channels are cut, as in torch.
    left, right : array, shapes (O · product of out sizes,) and (I · product of sizes,), optional
        l and r, flattened; ones if None.

    Raises
    ------
    InputError
        Shapes do not fit, or entries are not finite.
    """

    def __init__(
        self,
        weight: ArrayLike,
        input_shape: Sequence[int],
        *,
        stride: Sequence[int] | None = None,
        padding: Sequence[int] | None = None,
        dilation: Sequence[int] | None = None,
        groups: int = 1,
        left: NDArray[Any] | None = None,
        right: NDArray[Any] | None = None,
    ) -> None:
        given = as_array("weight", weight)
        self.weight: NDArray[Any] = np.array(given, dtype=float_for(given.dtype), order="C")
        self.input_shape: Sizes = tuple(int(size) for size in input_shape)
        rank = len(self.input_shape) - 1
        self.stride, self.dilation = tuple(stride or (1,) * rank), tuple(dilation or (1,) * rank)
        self.padding, self.groups = tuple(padding or (0,) * rank), groups
        self._check(rank)
        self.output_shape: Sizes = (self.weight.shape[0], *(axis.outputs for axis in self._axes))
        if min(self.output_shape) < 1:
            raise InputError(f"the kernel {self.kernel} is larger than the padded input {self.input_shape}")
        self.shape = math.prod(self.output_shape), math.prod(self.input_shape)
        self.dtype = self.weight.dtype
        self.left = None if left is None else self._folded(left, self.output_shape, "left")
        self.right = None if right is None else self._folded(right, self.input_shape, "right")
        parts = [part for part in (self.weight, self.left, self.right) if part is not None]
        with np.errstate(over="ignore", invalid="ignore"):
            sizes = [float(np.abs(part).max(initial=0.0)) for part in parts]
        if not max(*sizes, math.prod(sizes)) <= float(np.finfo(self.dtype).max):
            raise InputError(f"the entries of a convolution must be finite in {self.dtype}")

    def _check(self, rank: int) -> None:
        if self.weight.ndim != rank + 2 or not 1 <= rank <= 3:
            misfit = f"{self.weight.shape} does not fit inputs of shape {self.input_shape}"
            raise InputError(f"weight {misfit}", argument="weight")
        for name in _GEOMETRY:
            if len(getattr(self, name)) != rank:
                numbers = f"{rank} numbers, one per dimension"
                raise InputError(f"{name} must have {numbers}, got {getattr(self, name)}", argument=name)
        if min(*self.stride, *self.dilation, self.groups) < 1 or min(self.padding) < 0:
            raise InputError("stride, dilation and groups of a convolution must be at least 1, padding at least 0")
        channels = self.weight.shape[1] * self.groups
        if channels != self.input_shape[0] or self.weight.shape[0] % self.groups:
            misfit = f"{self.weight.shape} in {self.groups} groups takes {channels} channels, got {self.input_shape}"
            raise InputError(f"weight {misfit}", argument="weight")

    def _folded(self, factors: NDArray[Any], shape: Sizes, side: str) -> NDArray[np.float64] | None:
        """Factors, one per element; None if they are equal over each channel, and now part of the weight."""
        given = as_factors(factors, math.prod(shape), side)
        channels = given.reshape(shape[0], -1)
        if (channels != channels[:, :1]).any():
            return given
        per_channel = channels[:, 0]
        if side == "right":
            out = self.weight.shape[0] // self.groups
            per_channel = np.repeat(per_channel.reshape(self.groups, -1), out, axis=0)
        trailing = (1,) * (self.weight.ndim - per_channel.ndim)
        with np.errstate(over="ignore"):  # refused as infinite
            self.weight = (self.weight * per_channel.reshape(*per_channel.shape, *trailing)).astype(self.weight.dtype)
        return None

    def __repr__(self) -> str:
        return (
            f"ConvMap(shape={self.shape}, weight={self.weight.shape}, stride={self.stride}, padding={self.padding}, "
            f"groups={self.groups}, dtype={self.dtype})"
        )

    @property
    def kernel(self) -> Sizes:
        """How many taps there are in each dimension."""
        return tuple(self.weight.shape[2:])

    @cached_property
    def _axes(self) -> tuple[_Axis, ...]:
        sizes = (self.input_shape[1:], self.kernel, self.stride, self.padding, self.dilation)
        return tuple(_Axis(*numbers) for numbers in zip(*sizes, strict=True))

    @property
    def pointwise(self) -> bool:
        """Whether every output depends on one place of the input only, its own."""
        return not any(self.padding) and all(k == 1 for k in self.kernel) and all(s == 1 for s in self.stride)

    @property
    def plain(self) -> bool:
        """Whether it is a convolution, without factors on single elements."""
        return self.left is None and self.right is None

    def row_counts(self) -> NDArray[np.int64]:
        return self.pattern().row_sums().astype(np.int64)

    def with_weight(self, weight: NDArray[Any], **changes: Any) -> ConvMap:
        """The same geometry with another weight; other parameters of the class change it too."""
        kept = {name: getattr(self, name) for name in ("input_shape", *_GEOMETRY, "groups", "left", "right")}
        return ConvMap(weight, **(kept | changes))

    @cached_property
    def _tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """W, l and r in the dtype of the map."""
        left, right = (None if f is None else torch.from_numpy(f.astype(self.dtype)) for f in (self.left, self.right))
        return torch.from_numpy(self.weight), left, right

    def apply(self, x: Tensor) -> Tensor:
        return self._convolved(x, self._tensors[0])

    def _convolved(self, x: Tensor, weight: Tensor) -> Tensor:
        """X Mᵀ with a weight of the same shape."""
        _, left, right = self._tensors
        x = x if right is None else x * right.to(x.dtype)
        images = x.reshape(x.shape[0], *self.input_shape)
        convolve = _FORWARD[len(self.kernel) - 1]
        y = convolve(images, weight, None, self.stride, self.padding, self.dilation, self.groups).flatten(1)
        return y if left is None else y.mul_(left)

    def apply_transpose(self, y: Tensor) -> Tensor:
        weight, left, right = self._tensors
        y = y if left is None else y * left
        images = y.reshape(y.shape[0], *self.output_shape)
        left_over = tuple(axis.left_over for axis in self._axes)
        back = _TRANSPOSED[len(self.kernel) - 1]
        x = back(images, weight, None, self.stride, self.padding, left_over, self.groups, self.dilation).flatten(1)
        return x if right is None else x.mul_(right)

    def absolute(self) -> ConvMap:
        return self._entrywise(np.abs)

    def pattern(self) -> ConvMap:
        """The map with ones in float64 where M is not zero."""
        return self._entrywise(lambda numbers: (numbers != 0).astype(np.float64))

    def _entrywise(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> ConvMap:
        left, right = (None if factors is None else function(factors) for factors in (self.left, self.right))
        return self.with_weight(function(self.weight), left=left, right=right)

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> ConvMap:
        with np.errstate(over="ignore"):  # refused as infinite
            both = _times(self.left, left, self.shape[0]), _times(self.right, right, self.shape[1])
            return self.with_weight(self.weight, left=both[0], right=both[1])

    def astype(self, dtype: Any) -> ConvMap:
        return self if self.dtype == np.dtype(dtype) else self.with_weight(rounded(self.weight, dtype))

    def ungrouped(self) -> ConvMap:
        """The same map with one group, its weights filled up with zeros."""
        if self.groups == 1:
            return self
        out, within = self.weight.shape[0] // self.groups, self.weight.shape[1]
        full = np.zeros((self.weight.shape[0], self.input_shape[0], *self.kernel), dtype=self.dtype)
        for group in range(self.groups):
            rows = slice(group * out, (group + 1) * out)
            full[rows, group * within : (group + 1) * within] = self.weight[rows]
        return self.with_weight(full, groups=1)

    def to_csr(self) -> Csr:
        places, inner = math.prod(self.output_shape[1:]), math.prod(self.input_shape[1:])
        out, within = self.weight.shape[0] // self.groups, self.weight.shape[1]
        taps = self.weight.reshape(*self.weight.shape[:2], -1)
        met = [self._places(tap) for tap in itertools.product(*map(range, self.kernel))]
        total = sum(np.count_nonzero(taps[:, :, t]) * len(outputs) for t, (outputs, _) in enumerate(met))
        index = np.int32 if max(total, *self.shape) < 2**31 else np.int64
        rows, columns, values = np.empty(total, index), np.empty(total, index), np.empty(total, self.dtype)
        filled = 0
        for t, (outputs, inputs) in enumerate(met):
            o, c = np.nonzero(taps[:, :, t])
            part = slice(filled, filled := filled + len(o) * len(outputs))
            rows[part] = (o[:, None] * places + outputs).ravel()
            columns[part] = ((o // out * within + c)[:, None] * inner + inputs).ravel()
            values[part] = np.repeat(taps[o, c, t], len(outputs))
        matrix = sp.csr_array((values, (rows, columns)), shape=self.shape, dtype=self.dtype)
        matrix.sort_indices()
        if self.left is not None:
            matrix.data *= np.repeat(self.left, np.diff(matrix.indptr)).astype(self.dtype)
        if self.right is not None:
            matrix.data *= self.right[matrix.indices].astype(self.dtype)
        matrix.eliminate_zeros()
        return matrix

    def _places(self, tap: Sizes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The flat places of outputs and inputs, without channels, that a tap connects."""
        outputs, inputs = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for t, axis in zip(tap, self._axes, strict=True):
            place = np.arange(axis.outputs)
            source = place * axis.stride - axis.padding + axis.dilation * t
            inside = (source >= 0) & (source < axis.inputs)
            outputs = (outputs[:, None] * axis.outputs + place[inside]).ravel()
            inputs = (inputs[:, None] * axis.inputs + source[inside]).ravel()
        return outputs, inputs

    @cached_property
    def _taps(self) -> Tensor:
        """Where the weight is not zero."""
        return torch.from_numpy(self.weight != 0)

    @property
    def values(self) -> Tensor:
        return torch.from_numpy(self.weight)[self._taps]

    def _weight_of(self, values: Tensor) -> Tensor:
        return values.new_zeros(self._taps.shape).masked_scatter(self._taps, values)

    def with_values(self, values: Tensor) -> ConvMap:
        return self.with_weight(self._weight_of(values.detach()).numpy())

    def product(self, values: Tensor | None = None) -> Product:
        weight = self._tensors[0] if values is None else self._weight_of(values)
        return lambda x: self._convolved(x, weight)

    def to_stored(self) -> tuple[Entry, Arrays]:
        factors = {side: values for side in ("left", "right") if (values := getattr(self, side)) is not None}
        entry = {
            "kind": "convolution",
            "weight_shape": list(self.weight.shape),
            "input_shape": list(self.input_shape),
            "groups": self.groups,
            "factors": list(factors),
            **{name: list(getattr(self, name)) for name in _GEOMETRY},
        }
        return entry, csr_arrays(sp.csr_array(self.weight.reshape(len(self.weight), -1))) | factors

    @classmethod
    def from_stored(cls, stored: Stored) -> ConvMap:
        weight_shape, input_shape = stored.counts("weight_shape"), stored.counts("input_shape")
        columns = stored.shape[1]
        if len(weight_shape) < 3 or math.prod(weight_shape) > _LARGEST_WEIGHT or math.prod(input_shape) != columns:
            raise InputError(
                f"{stored.name}: weight {weight_shape} and input {input_shape} do not fit {columns} columns"
            )
        weight = stored.csr((weight_shape[0], math.prod(weight_shape[1:]))).toarray().reshape(weight_shape)
        geometry: dict[str, Any] = {name: stored.counts(name) for name in _GEOMETRY}
        plain = cls(weight, input_shape, groups=int(stored.entry["groups"]), **geometry)
        sizes, wide = dict(zip(("left", "right"), plain.shape, strict=True)), np.dtype(np.float64)
        factors = {side: stored.floats(side, sizes[side], wide) for side in stored.entry["factors"]}
        return plain.with_weight(plain.weight, **factors) if factors else plain


def _times(own: NDArray[np.float64] | None, more: NDArray[Any] | None, size: int) -> NDArray[np.float64] | None:
    if more is None:
        return own
    factors = as_factors(more, size, "factors")
    return factors if own is None else own * factors
