r"""Convolutions, batch norm and pooling on affine values (see :mod:`~simplicit.network.affine`).

A convolution stays a convolution (:class:`~simplicit.implicit.ConvMap`), and batch norm in evaluation mode a factor and
a constant for each channel. Averages are linear too: what one does to a channel, torch says itself on unit vectors.
Maxima are ReLU states (:mod:`~simplicit.network.pooling`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional

from simplicit.implicit import ConvMap, CsrMap, LinearMap, RepeatedMap, TransposedMap
from simplicit.network.affine import Affine, NotAffineError, as_vector
from simplicit.network.linear import Operand, add, by_unit_vectors, constant, matrix_of, variable, weight_of
from simplicit.network.pooling import Numbers, each

# What is done to a channel is kept as a matrix up to so many entries, in compressed sparse rows for all channels above.
_LARGEST_PLANE = 2**18


def convolution_of(rank: int) -> Callable[..., Affine]:
    """conv1d, conv2d or conv3d of affine values."""

    def convolve(
        input: Operand,  # noqa: A002
        weight: Operand,
        bias: Operand | None = None,
        stride: Numbers = 1,
        padding: Numbers | str = 0,
        dilation: Numbers = 1,
        groups: int = 1,
    ) -> Affine:
        value, kernel = variable(input), weight_of(weight)
        if len(value.shape) != rank + 1:
            raise NotAffineError(f"its input has {len(value.shape)} dimensions beside the samples, not {rank + 1}")
        strides, spacing = each(stride, rank), each(dilation, rank)
        if isinstance(padding, str):
            value, padding = _padded(value, padding, kernel.shape[2:], spacing)
        geometry: dict[str, Any] = {"stride": strides, "padding": each(padding, rank), "dilation": spacing}
        linear = ConvMap(kernel, value.shape, groups=groups, copy=False, **geometry)
        return _with_bias(value.through(linear, linear.output_shape), bias)

    return convolve


def convolution(
    input: Operand,  # noqa: A002
    weight: Operand,
    bias: Operand | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Affine:
    if transposed:
        return convolution_transposed(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution_of(len(variable(input).shape) - 1)(input, weight, bias, stride, padding, dilation, groups)


def convolution_transposed(
    input: Operand,  # noqa: A002
    weight: Operand,
    bias: Operand | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> Affine:
    value, kernel = variable(input), constant(weight)
    rank, channels = len(value.shape) - 1, kernel.shape[1] * groups
    numbers = [each(one, rank) for one in (stride, padding, output_padding, dilation)]
    sizes = [
        (n - 1) * s - 2 * p + d * (k - 1) + o + 1
        for n, k, s, p, o, d in zip(value.shape[1:], kernel.shape[2:], *numbers, strict=True)
    ]
    if 1 <= rank <= 3 and all(o < s for s, o in zip(numbers[0], numbers[2], strict=True)) and min(sizes) > 0:
        geometry: dict[str, Any] = {"stride": numbers[0], "padding": numbers[1], "dilation": numbers[3]}
        core = ConvMap(weight_of(weight), (channels, *sizes), groups=groups, copy=False, **geometry)
        return _with_bias(value.through(TransposedMap(core), core.input_shape), bias)
    transposed = _of_rank("conv_transpose", len(value.shape) - 1)
    rest = (kernel, None, stride, padding, output_padding, groups, dilation)
    return _with_bias(by_unit_vectors(lambda units: transposed(units, *rest), value), bias)


def _of_rank(name: str, rank: int) -> Callable[..., Tensor]:
    """torch's function of that name for one, two or three dimensions."""
    function: Callable[..., Tensor] = getattr(functional, f"{name}{rank}d")
    return function


def _with_bias(value: Affine, bias: Operand | None) -> Affine:
    return value if bias is None else add(value, constant(bias).reshape(-1, *(1 for _ in value.shape[1:])))


def _padded(value: Affine, mode: str, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[Affine, Numbers]:
    """The value and the padding that do what ``padding="same"`` or ``"valid"`` says."""
    if mode == "valid":
        return value, 0
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if all(width % 2 == 0 for width in total):
        return value, [width // 2 for width in total]
    # torch puts the odd place at the end.
    widths = [side for width in reversed(total) for side in (width // 2, width - width // 2)]
    places = torch.arange(1, value.size + 1, dtype=torch.float64).reshape(value.shape)
    padded = functional.pad(places, widths)
    return value.selected(padded.ravel().to(torch.int64).numpy() - 1, tuple(padded.shape)), 0


def batch_norm(
    input: Operand,  # noqa: A002
    weight: Operand | None,
    bias: Operand | None,
    running_mean: Operand,
    running_var: Operand,
    momentum: float,
    eps: float,
) -> tuple[Affine]:
    """Batch norm with running statistics, as a tuple: torch's operation has other results, which nobody uses."""
    value = variable(input)
    scale = 1.0 / np.sqrt(as_vector(constant(running_var)) + eps)
    if weight is not None:
        scale = scale * as_vector(constant(weight))
    shift = -scale * as_vector(constant(running_mean))
    if bias is not None:
        shift = shift + as_vector(constant(bias))
    places = math.prod(value.shape[1:])
    scaled = value.scaled(np.repeat(scale, places))
    return (scaled.plus(Affine(value.shape, {}, np.repeat(shift, places))),)


def avg_pool(rank: int) -> Callable[..., Affine]:
    """avg_pool1d, 2d or 3d of affine values, with all that torch knows of borders."""

    def pooled(
        self: Operand,
        kernel_size: Numbers,
        stride: Numbers = (),
        padding: Numbers = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Affine:
        value, sizes, pads = variable(self), each(kernel_size, rank), each(padding, rank)
        strides = each(stride, rank) or sizes
        if (not any(pads) or count_include_pad) and not ceil_mode:
            share = 1.0 / (divisor_override or math.prod(sizes))
            weight = np.full((value.shape[0], 1, *sizes), share)
            linear = ConvMap(weight, value.shape, stride=strides, padding=pads, groups=value.shape[0])
            return value.through(linear, linear.output_shape)
        pool, how = _of_rank("avg_pool", rank), (sizes, strides, pads, ceil_mode, count_include_pad)
        rest = {} if divisor_override is None else {"divisor_override": divisor_override}
        return _channel_by_channel(lambda units: pool(units, *how, **rest), value)

    return pooled


def adaptive_avg_pool(rank: int) -> Callable[..., Affine]:
    """adaptive_avg_pool1d, 2d or 3d of affine values."""
    pool = _of_rank("adaptive_avg_pool", rank)

    def pooled(self: Operand, output_size: Numbers) -> Affine:
        return _channel_by_channel(lambda units: pool(units, output_size), variable(self))

    return pooled


def upsample(mode: str) -> Callable[..., Affine]:
    """The interpolation of affine values in a ``mode`` that is linear in the image."""

    def upsampled(
        self: Operand,
        output_size: Sequence[int] | None,
        align_corners: bool = False,
        scale_factors: Any = None,
        *more: Any,
    ) -> Affine:
        if more:
            raise NotAffineError("this form of it is not known")
        factors = {"scale_factor": scale_factors} if output_size is None else {"size": tuple(output_size)}
        return _channel_by_channel(
            lambda units: functional.interpolate(units, mode=mode, align_corners=align_corners, **factors),
            variable(self),
        )

    return upsampled


def _channel_by_channel(operation: Callable[[Tensor], Tensor], value: Affine) -> Affine:
    """A linear ``operation``, which does the same to every channel, of an affine value."""
    channels, *sizes = value.shape
    one, (_, *out_sizes) = matrix_of(operation, (1, *sizes))
    if math.prod(one.shape) <= _LARGEST_PLANE:
        linear: LinearMap = RepeatedMap(one.toarray(), channels, copy=False)
    else:
        linear = CsrMap(sp.kron(sp.eye_array(channels), one, format="csr"))
    return value.through(linear, (channels, *out_sizes))
