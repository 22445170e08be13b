"""Convolutions and pooling of what is no affine value."""

from __future__ import annotations

from typing import Any

from simplicit.runtime.onnx.operations.calls import Call, Held
from simplicit.runtime.onnx.operations.reductions import reduced
from simplicit.runtime.onnx.operations.registry import Entry, alike


def _per_axis(value: Any, axes: int) -> list[int]:
    """A setting for each spatial dimension, where one may stand for all."""
    values = list(value) if isinstance(value, tuple) else [value]
    return values * axes if len(values) == 1 else values


def _convolution(call: Call) -> str:
    weight: Held = call["weight"]
    axes = weight.rank - 2
    call.refuse(call.first.rank != weight.rank, "has an image without a number of samples")
    stride, dilation = (_per_axis(call[name], axes) for name in ("stride", "dilation"))
    kernel = [weight.length(axis) for axis in range(2, weight.rank)]
    sizes: dict[str, Any] = {"strides": stride, "dilations": dilation, "group": call["groups"], "kernel_shape": kernel}
    operands = [call.tensor(one, call.result.dtype) for one in (weight, call["bias"]) if one is not None]
    before, after = _around(call["padding"], kernel, dilation)
    sizes["pads"] = before + after
    if call["transposed"] or call.packet.startswith("conv_transpose"):
        sizes["output_padding"] = _per_axis(call["output_padding"], axes)
        return call.node("ConvTranspose", call.x(), *operands, **sizes)
    return call.node("Conv", call.x(), *operands, **sizes)


def _around(padding: Any, kernel: list[int], dilation: list[int]) -> tuple[list[int], list[int]]:
    """How much is put before and after an image; "same" puts what is odd after it."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        whole = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        before = [width // 2 for width in whole]
        return before, [width - left for width, left in zip(whole, before, strict=True)]
    widths = _per_axis(padding, len(kernel))
    return widths, list(widths)


def _pooled(operator: str) -> Entry:
    def written(call: Call) -> str:
        axes = int(call.packet[-2])
        call.refuse(call.first.rank != axes + 2, "has an image without a number of samples")
        kernel = _per_axis(call["kernel_size"], axes)
        stride = kernel if call["stride"] in (None, ()) else _per_axis(call["stride"], axes)
        padding = _per_axis(call["padding"], axes)
        sizes: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "ceil_mode": int(call["ceil_mode"])}
        if operator == "AveragePool":
            call.refuse(bool(call["ceil_mode"]), "rounds its size up")
            call.refuse(call["divisor_override"] is not None, "has a divisor of its own")
            sizes["count_include_pad"] = int(call["count_include_pad"])
        else:
            sizes["dilations"] = _per_axis(call["dilation"], axes)
        return call.node(operator, call.x(), pads=padding * 2, **sizes)

    return written


def _pooled_to(operator: str, reduction: str) -> Entry:
    """Pooling to a size that divides that of the image."""

    def written(call: Call) -> str:
        x, axes = call.x(), int(call.packet[-2])
        spatial = list(range(call.first.rank - axes, call.first.rank))
        old, new = ([held.length(axis) for axis in spatial] for held in (call.first, call.result))
        if all(size == 1 for size in new):
            return reduced(call, reduction, x, spatial, keep=True)
        call.refuse(any(a % b for a, b in zip(old, new, strict=True)), "gives a size that does not divide the image's")
        kernel = [a // b for a, b in zip(old, new, strict=True)]
        return call.node(operator, x, kernel_shape=kernel, strides=kernel)

    return written


CONVOLUTIONS: dict[str, Entry] = {
    **alike("convolution conv1d conv2d conv3d", _convolution),
    **alike("conv_transpose1d conv_transpose2d conv_transpose3d", _convolution),
    **alike("max_pool1d max_pool2d max_pool3d", _pooled("MaxPool")),
    **alike("avg_pool1d avg_pool2d avg_pool3d", _pooled("AveragePool")),
    **alike(
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d",
        _pooled_to("AveragePool", "ReduceMean"),
    ),
}
