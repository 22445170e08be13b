"""Softmax, and normalisations by means and variances."""

from __future__ import annotations

import math

import torch

from simplicit.runtime.onnx.operations.calls import Call, Held
from simplicit.runtime.onnx.operations.reductions import moments, reduced
from simplicit.runtime.onnx.operations.registry import Entry, alike


def safe_softmax(call: Call, x: str, axis: int) -> str:
    """Write a softmax that is 0 where all numbers are -∞, as torch has it for attention."""
    none = call.node("Equal", reduced(call, "ReduceMax", x, [axis], keep=True), -math.inf)
    return call.node("Where", none, 0.0, call.node("Softmax", x, axis=axis))


def _scaled_and_shifted(call: Call, x: str, weight: Held | None, bias: Held | None, sizes: tuple[int, ...] = ()) -> str:
    """x ∘ weight + bias, of which both are given other sizes first where there are any."""
    for operator, held in (("Mul", weight), ("Add", bias)):
        if held is not None:
            name = call.tensor(held, call.result.dtype)
            x = call.node(operator, x, call.reshape(name, sizes) if sizes else name)
    return x


def _root(call: Call, variance: str, eps: float) -> str:
    return call.node("Sqrt", call.node("Add", variance, float(eps)))


def _last(call: Call) -> list[int]:
    """The dimensions that ``normalized_shape`` stands for."""
    rank = call.first.rank
    return list(range(rank - len(call["normalized_shape"]), rank))


def _layer_norm(call: Call) -> str | list[str]:
    x, axes = call.x(), _last(call)
    if len(call.results) == 1 and call.result.dtype == torch.float32:  # epsilon is a float32 number there
        return _layer_norm_at_once(call, x, axes)
    mean, rest, variance = moments(call, x, axes)
    root = _root(call, variance, call["eps"])
    y = _scaled_and_shifted(call, call.node("Div", rest, root), call["weight"], call["bias"])
    return y if len(call.results) == 1 else [y, mean, call.node("Reciprocal", root)]


def _layer_norm_at_once(call: Call, x: str, axes: list[int]) -> str:
    dtype, shape = call.result.dtype, tuple(call["normalized_shape"])
    weight, bias = call["weight"], call["bias"]
    scale = Held(shape, dtype, constant=torch.ones(shape, dtype=dtype)) if weight is None else weight
    inputs = [call.tensor(scale, dtype), *([] if bias is None else [call.tensor(bias, dtype)])]
    return call.node("LayerNormalization", x, *inputs, axis=axes[0], epsilon=float(call["eps"]))


def _rms_norm(call: Call) -> str | list[str]:
    x, axes, eps = call.x(), _last(call), call["eps"]
    eps = torch.finfo(call.result.dtype).eps if eps is None else eps
    root = _root(call, reduced(call, "ReduceMean", call.node("Mul", x, x), axes, keep=True), eps)
    y = _scaled_and_shifted(call, call.node("Div", x, root), call["weight"], None)
    return y if len(call.results) == 1 else [y, call.node("Reciprocal", root)]


def _in_groups(call: Call, groups: int, with_moments: bool = False) -> str | list[str]:
    """Channels in groups, each normalised over itself and all places."""
    x, sizes = call.x(), call.first.sizes
    length = math.prod(call.first.length(axis) for axis in range(1, len(sizes))) // groups
    mean, rest, variance = moments(call, call.reshape(x, (sizes[0], groups, length)), [2])
    root = _root(call, variance, call["eps"])
    y = call.reshape(call.node("Div", rest, root), sizes)
    y = _scaled_and_shifted(call, y, call["weight"], call["bias"], _of_channels(call))
    if not with_moments:
        return y
    shape = (sizes[0], groups)
    return [y, call.reshape(mean, shape), call.reshape(call.node("Reciprocal", root), shape)]


def _of_channels(call: Call) -> tuple[int, ...]:
    """The sizes of one number per channel, ready to be broadcast."""
    return (call.first.length(1), *(1,) * (call.first.rank - 2))


def _group_norm(call: Call) -> str | list[str]:
    return _in_groups(call, call["num_groups"])


def _native_group_norm(call: Call) -> str | list[str]:
    return _in_groups(call, call["group"], with_moments=True)


def _instance_norm(call: Call) -> str | list[str]:
    call.refuse(not call["use_input_stats"], "takes kept statistics")
    return _in_groups(call, call.first.length(1))


def _batch_norm(call: Call) -> str | list[str]:
    call.refuse(bool(call["training"]), "takes the statistics of a batch")
    sizes, dtype = _of_channels(call), call.result.dtype
    mean, variance = (call.reshape(call.tensor(call[f"running_{name}"], dtype), sizes) for name in ("mean", "var"))
    y = call.node("Div", call.node("Sub", call.x(), mean), _root(call, variance, call["eps"]))
    y = _scaled_and_shifted(call, y, call["weight"], call["bias"], sizes)
    if len(call.results) == 1:
        return y
    nothing = call.tensor(Held((0,), dtype, constant=torch.zeros(0, dtype=dtype)))
    return [y, *(nothing for _ in call.results[1:])]


def _safe(call: Call) -> str:
    return safe_softmax(call, call.x(), call.dimension())


NORMS: dict[str, Entry] = {
    "softmax": lambda call: call.node("Softmax", call.x(), axis=call.dimension()),
    "_softmax": lambda call: call.node("Softmax", call.x(), axis=call.dimension()),
    "_safe_softmax": _safe,
    "log_softmax": lambda call: call.node("LogSoftmax", call.x(), axis=call.dimension()),
    "_log_softmax": lambda call: call.node("LogSoftmax", call.x(), axis=call.dimension()),
    "layer_norm": _layer_norm,
    "native_layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "_fused_rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "native_group_norm": _native_group_norm,
    "instance_norm": _instance_norm,
    **alike("batch_norm native_batch_norm _native_batch_norm_legit_no_training", _batch_norm),
}
