r"""How activations are written as nodes of an ONNX graph; a new one is one function and one line.

Operators that onnxruntime has in float32 *and* float64 are preferred.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from simplicit.implicit import Activation
from simplicit.runtime.onnx.graph import Graph


def activated(graph: Graph, activation: Activation, z: str) -> str:
    """Write φ(z), elementwise, for the value named ``z``, and return the name of the result."""
    return ACTIVATIONS[activation.name](graph, z, **dict(activation.parameters))


def _leaky_relu(graph: Graph, z: str, negative_slope: float) -> str:
    # The operator of that name holds its slope in float32, whatever the type of its input.
    below = graph.node("Mul", z, negative_slope)
    return graph.node("Where", graph.node("Greater", z, 0.0), z, below)


def _softplus(graph: Graph, z: str, beta: float, threshold: float) -> str:
    # relu(t) + log(1 + exp(-|t|)) with t = beta z; torch has z itself beyond the threshold.
    t = graph.node("Mul", z, beta)
    decay = graph.node("Exp", graph.node("Neg", graph.node("Abs", t)))
    bent = graph.node("Log", graph.node("Add", decay, 1.0))
    value = graph.node("Div", graph.node("Add", graph.node("Relu", t), bent), beta)
    return graph.node("Where", graph.node("Greater", t, threshold), z, value)


def _elu(graph: Graph, z: str, alpha: float) -> str:
    below = graph.node("Sub", graph.node("Exp", graph.node("Min", z, 0.0)), 1.0)
    below = graph.node("Mul", below, alpha)
    return graph.node("Where", graph.node("Greater", z, 0.0), z, below)


def _half_of(graph: Graph, z: str, bend: str) -> str:
    """Write z (1 + bend) / 2."""
    return graph.node("Mul", z, graph.node("Mul", graph.node("Add", bend, 1.0), 0.5))


def _gelu(graph: Graph, z: str) -> str:
    return _half_of(graph, z, graph.node("Erf", graph.node("Mul", z, math.sqrt(0.5))))


def _gelu_tanh(graph: Graph, z: str) -> str:
    cube = graph.node("Mul", graph.node("Mul", z, z), z)
    inner = graph.node("Add", z, graph.node("Mul", cube, 0.044715))
    return _half_of(graph, z, graph.node("Tanh", graph.node("Mul", inner, math.sqrt(2.0 / math.pi))))


#: How φ(z) is written, by the name of φ: a function of the graph, the name of z, and the parameters as keywords.
ACTIVATIONS: dict[str, Callable[..., str]] = {
    "relu": lambda graph, z: graph.node("Relu", z),
    "leaky_relu": _leaky_relu,
    "abs": lambda graph, z: graph.node("Abs", z),
    "identity": lambda graph, z: z,
    "tanh": lambda graph, z: graph.node("Tanh", z),
    "sigmoid": lambda graph, z: graph.node("Sigmoid", z),
    "hardtanh": lambda graph, z, min_val, max_val: graph.node("Clip", z, min_val, max_val),
    "softplus": _softplus,
    "elu": _elu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda graph, z: graph.node("Mul", z, graph.node("Sigmoid", z)),
}
