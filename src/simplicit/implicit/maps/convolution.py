r"""Convolutions as linear maps, whose entries are never written down.

The map of a convolution takes x (I, *sizes) to y (O, *out sizes), both flattened in C order,

    y[o, p] = l[o, p] · Σ over c, t   W[o, c, t] · r[c', q] x[c', q],      q = stride·p − padding + dilation·t,

c over the channels of o's group and t over the kernel's taps; what lies outside of x counts as zero. The factors l and
r are one per element; those that are equal over a channel go into W.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from simplicit.errors import InputError
from simplicit.implicit.maps.base import as_factors
from simplicit.implicit.maps.files import Arrays, Entry, Stored
from simplicit.implicit.maps.sparse import Csr
from simplicit.implicit.maps.weighted import LARGEST_WEIGHT, WeightedMap

_FORWARD = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)

_GEOMETRY = ("stride", "padding", "dilation")
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


class ConvMap(WeightedMap, kind="convolution"):
    """A convolution on inputs of one size, in one to three dimensions.

    Parameters
    ----------
    weight : array, shape (O, I / groups, *kernel)
        W.
    input_shape : tuple of int
        (I, *sizes).
    stride, padding, dilation : tuple of int
        One number per dimension; padding with zeros, the same on both sides.
    groups : int
        Into so many groups channels are cut, as in torch.
    left, right : array, shapes (O · product of out sizes,) and (I · product of sizes,), optional
        l and r, flattened; ones if None.
    copy : bool
        As of every :class:`~simplicit.implicit.maps.weighted.WeightedMap`, and so are errors.
    """

    _what = "a convolution"

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
        copy: bool = True,
    ) -> None:
        self._take_weight(weight, copy=copy)
        self.input_shape: Sizes = tuple(int(size) for size in input_shape)
        rank = len(self.input_shape) - 1
        self.stride, self.dilation = tuple(stride or (1,) * rank), tuple(dilation or (1,) * rank)
        self.padding, self.groups = tuple(padding or (0,) * rank), groups
        self._check(rank)
        self.output_shape: Sizes = (self.weight.shape[0], *(axis.outputs for axis in self._axes))
        if min(self.output_shape) < 1:
            raise InputError(f"the kernel {self.kernel} is larger than the padded input {self.input_shape}")
        self.shape = math.prod(self.output_shape), math.prod(self.input_shape)
        self._take_factors(left, right)

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

    def _folded(self, factors: NDArray[Any], side: str) -> NDArray[np.float64] | None:
        shape = self.output_shape if side == "left" else self.input_shape
        given = as_factors(factors, math.prod(shape), side)
        channels = given.reshape(shape[0], -1)
        if (channels != channels[:, :1]).any():
            return given
        per_channel = channels[:, 0]
        if side == "right":
            out = self.weight.shape[0] // self.groups
            per_channel = np.repeat(per_channel.reshape(self.groups, -1), out, axis=0)
        trailing = (1,) * (self.weight.ndim - per_channel.ndim)
        self._scale_weight_(per_channel.reshape(*per_channel.shape, *trailing))
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
    def left_over(self) -> Sizes:
        """How many places at the end of each dimension no tap reaches."""
        return tuple(axis.left_over for axis in self._axes)

    @property
    def pointwise(self) -> bool:
        """Whether every output depends on one place of the input only, its own."""
        return not any(self.padding) and all(k == 1 for k in self.kernel) and all(s == 1 for s in self.stride)

    def with_weight(self, weight: NDArray[Any], **changes: Any) -> ConvMap:
        kept = {name: getattr(self, name) for name in ("input_shape", *_GEOMETRY, "groups", "left", "right")}
        return ConvMap(weight, **(kept | changes), copy=False)

    @property
    def is_zero(self) -> bool:
        if not self.plain:
            return super().is_zero
        used = np.argwhere(self.weight.any(axis=(0, 1)))
        return not any(len(self._places(tuple(tap))[0]) for tap in used.tolist())

    @property
    def work(self) -> int:
        return self.weight.size * math.prod(self.output_shape[1:])

    def _multiplied(self, x: Tensor, weight: Tensor) -> Tensor:
        images = x.reshape(x.shape[0], *self.input_shape)
        convolve = _FORWARD[len(self.kernel) - 1]
        return convolve(images, weight, None, self.stride, self.padding, self.dilation, self.groups).flatten(1)

    def _multiplied_back(self, y: Tensor, weight: Tensor) -> Tensor:
        images = y.reshape(y.shape[0], *self.output_shape)
        back = _TRANSPOSED[len(self.kernel) - 1]
        return back(
            images, weight, None, self.stride, self.padding, self.left_over, self.groups, self.dilation
        ).flatten(1)

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
        return self._times_factors(matrix)

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

    def to_stored(self) -> tuple[Entry, Arrays]:
        geometry: dict[str, Any] = {name: list(getattr(self, name)) for name in _GEOMETRY}
        return self._stored_as("convolution", input_shape=list(self.input_shape), groups=self.groups, **geometry)

    @classmethod
    def from_stored(cls, stored: Stored) -> ConvMap:
        weight_shape, input_shape = stored.counts("weight_shape"), stored.counts("input_shape")
        columns = stored.shape[1]
        if len(weight_shape) < 3 or math.prod(weight_shape) > LARGEST_WEIGHT or math.prod(input_shape) != columns:
            raise InputError(
                f"{stored.name}: weight {weight_shape} and input {input_shape} do not fit {columns} columns"
            )
        weight = stored.csr((weight_shape[0], math.prod(weight_shape[1:]))).toarray().reshape(weight_shape)
        geometry: dict[str, Any] = {name: stored.counts(name) for name in _GEOMETRY}
        plain = cls(weight, input_shape, groups=int(stored.entry["groups"]), **geometry, copy=False)
        return plain._with_stored_factors(stored)
