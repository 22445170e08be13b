"""Activations as steps of programs, most of them by the formulas that groups of states have."""

from __future__ import annotations

import math

from simplicit.runtime.onnx import activations
from simplicit.runtime.onnx.operations.arithmetic import formula, unary
from simplicit.runtime.onnx.operations.calls import Call
from simplicit.runtime.onnx.operations.moving import cut
from simplicit.runtime.onnx.operations.registry import Entry, alike


def _named(name: str, *parameters: str) -> Entry:
    """An activation that groups have, with parameters of the names that torch gives them."""
    return lambda call: activations.ACTIVATIONS[name](
        call.graph(), call.x(), **{one: float(call[one]) for one in parameters}
    )


def _relu(call: Call) -> str:
    if call.result.dtype.is_floating_point:
        return call.node("Relu", call.x())
    return call.node("Max", call.x(), call.tensor(0))  # runtimes have Relu of floating-point numbers alone


def _gelu(call: Call) -> str:
    name = "gelu_tanh" if call["approximate"] == "tanh" else "gelu"
    return activations.ACTIVATIONS[name](call.graph(), call.x())


def _softplus_of(call: Call, x: str) -> str:
    return activations.ACTIVATIONS["softplus"](call.graph(), x, beta=1.0, threshold=math.inf)


def _mish(call: Call, x: str) -> str:
    return call.node("Mul", x, call.node("Tanh", _softplus_of(call, x)))


def _hardsigmoid(call: Call, x: str) -> str:
    return call.node("Div", call.node("Clip", call.node("Add", x, 3.0), 0.0, 6.0), 6.0)


def _hardswish(call: Call, x: str) -> str:
    return call.node("Mul", x, _hardsigmoid(call, x))


def _elu(call: Call) -> str:
    """scale · (max(x, 0) + alpha (exp(input_scale · min(x, 0)) - 1)), which SELU is too."""
    x = call.x()
    alpha, scale, inner = (call[name] for name in ("alpha", "scale", "input_scale"))
    if call.packet == "selu":
        alpha, scale, inner = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0
    elif call.packet == "celu":
        alpha, scale, inner = call["alpha"], 1.0, 1.0 / call["alpha"]
    below = call.node("Mul", call.node("Min", x, 0.0), float(inner))
    below = call.node("Mul", call.node("Sub", call.node("Exp", below), 1.0), float(alpha))
    return call.node("Mul", call.node("Add", call.node("Relu", x), below), float(scale))


def _softshrink(call: Call) -> str:
    x, lambd = call.x(), float(call["lambd"])
    beyond = call.node("Relu", call.node("Sub", call.node("Abs", x), lambd))
    return call.node("Mul", call.node("Sign", x), beyond)


def _hardshrink(call: Call) -> str:
    x = call.x()
    return call.node("Where", call.node("Greater", call.node("Abs", x), float(call["lambd"])), x, 0.0)


def _threshold(call: Call) -> str:
    x = call.x()
    return call.node("Where", call.node("Greater", x, float(call["threshold"])), x, call.tensor(call["value"]))


def _prelu(call: Call) -> str:
    x, weight = call.x(), call["weight"]
    slope = call.tensor(weight)
    if weight.rank and call.first.rank > 1:
        slope = call.reshape(slope, (weight.sizes[0], *(1,) * (call.first.rank - 2)))
    below = call.node("Mul", x, slope)
    return call.node("Where", call.node("Greater", x, 0.0), x, below)


def _glu(call: Call) -> str:
    axis, x = call.dimension(), call.x()
    half = call.result.length(axis)
    gate = call.node("Sigmoid", cut(call, x, axis, half, 2 * half))
    return call.node("Mul", cut(call, x, axis, 0, half), gate)


def _log_sigmoid(call: Call, x: str) -> str:
    return call.node("Neg", _softplus_of(call, call.node("Neg", x)))


ACTIVATIONS: dict[str, Entry] = {
    "relu": _relu,
    "relu6": formula(lambda call, x: call.node("Clip", x, 0.0, 6.0)),
    "tanh": unary("Tanh"),
    "sigmoid": unary("Sigmoid"),
    "silu": _named("silu"),
    "gelu": _gelu,
    "leaky_relu": _named("leaky_relu", "negative_slope"),
    "softplus": _named("softplus", "beta", "threshold"),
    "hardtanh": _named("hardtanh", "min_val", "max_val"),
    "mish": formula(_mish),
    "hardsigmoid": formula(_hardsigmoid),
    "hardswish": formula(_hardswish),
    **alike("elu selu celu", _elu),
    "softshrink": _softshrink,
    "hardshrink": _hardshrink,
    "threshold": _threshold,
    "prelu": _prelu,
    "glu": _glu,
    "log_sigmoid": formula(_log_sigmoid),
}
