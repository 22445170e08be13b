r"""A triangular model as an ONNX graph: one group of nodes per stage of the plan.

A stage is a sum of linear maps of what came before, a bias and an activation. :data:`LINEAR` says how a kind of map is
written (a kind that is missing is written as a dense matrix), :data:`ACTIVATIONS` how an activation is; a new kind is
one function and one line. Operators that onnxruntime has in float32 *and* float64 are preferred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit.activation import Activation
from simplicit.implicit.maps.base import CsrMap, LinearMap
from simplicit.implicit.maps.composite import GatheredConvMap, SumMap
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.gather import GatherMap
from simplicit.implicit.model import INPUT, OUTPUT, ImplicitModel
from simplicit.implicit.plan import Plan, Stage

__all__ = ["ACTIVATIONS", "LINEAR", "Graph", "build"]

OPSET, IR_VERSION = 17, 8  # of 2022: old enough for every runtime, new enough for all that is needed
_LARGEST = 2**31 - 2**20  # protocol buffers end at 2 GiB
Term = tuple[str, LinearMap]


class Graph:
    """Nodes and constants of a graph under construction; ``onnx`` is the package."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any]) -> None:
        self.onnx, self.dtype = onnx, dtype
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._bytes = 0

    def node(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output; returns the name of the output."""
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, array: NDArray[Any]) -> str:
        """Add a constant, of the graph's dtype unless it holds integers; returns its name."""
        held = array if array.dtype.kind in "iu" else array.astype(self.dtype)
        self.reserve(held.nbytes)
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(held).reshape(held.shape), name)
        return name

    def number(self, value: float) -> str:
        """A constant without dimensions."""
        return self.constant(np.array(value, dtype=self.dtype))

    def reserve(self, count: int, what: str = "its constants") -> None:
        """Refuse what does not fit into one file, before it is made."""
        self._bytes += count
        if self._bytes > _LARGEST:
            raise InputError(
                f"model: {what} come to {self._bytes / 2**30:.1f} GiB as dense matrices, an ONNX file holds 2 GiB; "
                "export a smaller model, or one whose layers keep their structure"
            )


def _dense(graph: Graph, block: LinearMap, x: str) -> str:
    """X Mᵀ by the dense matrix."""
    rows, columns = block.shape
    graph.reserve(rows * columns * graph.dtype.itemsize, f"blocks up to one of shape {block.shape}")
    graph.reserve(-rows * columns * graph.dtype.itemsize)  # the constant counts itself
    return graph.node("MatMul", x, graph.constant(block.to_csr().toarray().T))


def _gather(graph: Graph, block: GatherMap, x: str) -> str:
    """The picked columns of X times their factors; a column of zeros stands behind X for the empty rows."""
    if not block.in_order:
        if block.nnz < block.columns.size:
            ends = graph.constant(np.array([0, 0, 0, 1], dtype=np.int64))
            x = graph.node("Pad", x, ends)
        columns = np.where(block.columns >= 0, block.columns, block.width)
        x = graph.node("Gather", x, graph.constant(columns), axis=1)
    return x if block.factors is None else graph.node("Mul", x, graph.constant(block.factors))


def _convolution(graph: Graph, block: ConvMap, x: str) -> str:
    """A convolution of X as images."""
    if block.right is not None:
        x = graph.node("Mul", x, graph.constant(block.right))
    images = graph.node("Reshape", x, graph.constant(np.array([0, *block.input_shape], dtype=np.int64)))
    y = graph.node(
        "Conv",
        images,
        graph.constant(block.weight),
        group=block.groups,
        strides=list(block.stride),
        dilations=list(block.dilation),
        pads=list(block.padding * 2),
    )
    y = graph.node("Flatten", y, axis=1)
    return y if block.left is None else graph.node("Mul", y, graph.constant(block.left))


def _gathered(graph: Graph, block: GatheredConvMap, x: str) -> str:
    return _gather(graph, block.after, _convolution(graph, block.core, _gather(graph, block.before, x)))


def _sum_of(graph: Graph, block: SumMap, x: str) -> str:
    total = linear(graph, block.parts[0], x)
    for part in block.parts[1:]:
        total = graph.node("Add", total, linear(graph, part, x))
    return total


def linear(graph: Graph, block: LinearMap, x: str) -> str:
    """X Mᵀ, as its kind of map is written."""
    return LINEAR.get(type(block), _dense)(graph, block, x)


#: Kind of map to how X Mᵀ, (m, in) to (m, out), is written: takes the graph, the map and the name of X.
LINEAR: dict[type[Any], Callable[[Graph, Any, str], str]] = {
    CsrMap: _dense,
    GatherMap: _gather,
    ConvMap: _convolution,
    GatheredConvMap: _gathered,
    SumMap: _sum_of,
}


def _leaky_relu(graph: Graph, z: str, negative_slope: float) -> str:
    # The operator of that name holds its slope in float32, whatever the type of its input.
    below = graph.node("Mul", z, graph.number(negative_slope))
    return graph.node("Where", graph.node("Greater", z, graph.number(0.0)), z, below)


def _softplus(graph: Graph, z: str, beta: float, threshold: float) -> str:
    # relu(t) + log(1 + exp(-|t|)) with t = beta z; torch has z itself beyond the threshold.
    t = graph.node("Mul", z, graph.number(beta))
    decay = graph.node("Exp", graph.node("Neg", graph.node("Abs", t)))
    bent = graph.node("Log", graph.node("Add", decay, graph.number(1.0)))
    value = graph.node("Div", graph.node("Add", graph.node("Relu", t), bent), graph.number(beta))
    return graph.node("Where", graph.node("Greater", t, graph.number(threshold)), z, value)


def _elu(graph: Graph, z: str, alpha: float) -> str:
    below = graph.node("Sub", graph.node("Exp", graph.node("Min", z, graph.number(0.0))), graph.number(1.0))
    below = graph.node("Mul", below, graph.number(alpha))
    return graph.node("Where", graph.node("Greater", z, graph.number(0.0)), z, below)


def _half_of(graph: Graph, z: str, bend: str) -> str:
    """z (1 + bend) / 2."""
    return graph.node("Mul", z, graph.node("Mul", graph.node("Add", bend, graph.number(1.0)), graph.number(0.5)))


def _gelu(graph: Graph, z: str) -> str:
    return _half_of(graph, z, graph.node("Erf", graph.node("Mul", z, graph.number(math.sqrt(0.5)))))


def _gelu_tanh(graph: Graph, z: str) -> str:
    cube = graph.node("Mul", graph.node("Mul", z, z), z)
    inner = graph.node("Add", z, graph.node("Mul", cube, graph.number(0.044715)))
    return _half_of(graph, z, graph.node("Tanh", graph.node("Mul", inner, graph.number(math.sqrt(2.0 / math.pi)))))


#: Name of an activation to how φ(z) is written: takes the graph, the name of z, and the parameters as keywords.
ACTIVATIONS: dict[str, Callable[..., str]] = {
    "relu": lambda graph, z: graph.node("Relu", z),
    "leaky_relu": _leaky_relu,
    "abs": lambda graph, z: graph.node("Abs", z),
    "identity": lambda graph, z: z,
    "tanh": lambda graph, z: graph.node("Tanh", z),
    "sigmoid": lambda graph, z: graph.node("Sigmoid", z),
    "hardtanh": lambda graph, z, min_val, max_val: graph.node("Clip", z, graph.number(min_val), graph.number(max_val)),
    "softplus": _softplus,
    "elu": _elu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda graph, z: graph.node("Mul", z, graph.node("Sigmoid", z)),
}


def build(model: ImplicitModel, onnx: Any) -> Any:
    """The ONNX model: ``inputs`` (batch, *input_shape) to ``outputs`` (batch, *output_shape), in the model's dtype.

    Raises
    ------
    InputError
        A has cycles, or the constants take more than 2 GiB.
    """
    plan = model._system.plan
    if not plan.triangular:
        raise InputError(
            "model: A has cycles, so its states are found by iteration, which is not written to ONNX; fit with "
            "structure 'baseline' or 'feedforward', or use model.to_torch()"
        )
    graph = Graph(onnx, model.dtype)
    flat = "inputs" if model.input_shape == (model.n_inputs,) else graph.node("Flatten", "inputs", axis=1)
    outputs = _Writer(graph, model, plan, flat).outputs()
    if model.output_shape == (model.n_outputs,):
        graph.node("Identity", outputs, name="outputs")
    else:  # a length of 0 stands for that of the input
        shape = graph.constant(np.array([0, *model.output_shape], dtype=np.int64))
        graph.node("Reshape", outputs, shape, name="outputs")
    kind = onnx.TensorProto.DOUBLE if model.dtype == np.float64 else onnx.TensorProto.FLOAT
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, ["batch", *shape])
        for name, shape in (("inputs", model.input_shape), ("outputs", model.output_shape))
    ]
    whole = onnx.helper.make_graph(graph.nodes, "implicit_model", ends[:1], ends[1:], [*graph.constants.values()])
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(whole, opset_imports=[opset], ir_version=IR_VERSION, producer_name="simplicit")


class _Writer:
    """Writes the stages of a plan one after the other."""

    def __init__(self, graph: Graph, model: ImplicitModel, plan: Plan, inputs: str) -> None:
        self._graph, self._model, self._inputs = graph, model, inputs
        self._order = None if plan.order is None else plan.order.numpy()
        self._names = {(columns.start, columns.stop): name for name, columns in model.slices.items()}
        self._states: dict[tuple[int, int], str] = {}  # of each stage that is written, by its columns
        bias = model.state_bias if self._order is None else model.state_bias[self._order]
        for stage in plan.stages:
            terms = [(self._state(source), block) for source, block in stage.terms]
            z = self._sum([*self._driven(stage), *terms], bias[stage.target])
            self._states[_ends(stage.target)] = self._activated(stage.activation, z)

    def outputs(self) -> str:
        """C x + D u + d."""
        model, terms = self._model, list[Term]()
        if self._order is not None and model.C.nnz:
            every = torch.arange(model.n_states)
            terms.append((self._state(every), CsrMap(model.C[:, self._order])))
        for (row, column), block in model.blocks.items():
            if row == OUTPUT and column == INPUT:
                terms.append((self._inputs, block))
            elif row == OUTPUT and self._order is None:
                terms.append((self._state(model.slices[column]), block))
        return self._sum(terms, model.output_bias)

    def _driven(self, stage: Stage) -> list[Term]:
        """The part of B in a stage."""
        if self._order is None:
            block = self._model.blocks.get((self._names[_ends(stage.target)], INPUT))
        else:
            block = CsrMap(self._model.B[self._order[stage.target]])
        return [] if block is None or not block.nnz else [(self._inputs, block)]

    def _state(self, columns: slice | Tensor) -> str:
        """States in working order: a stage, or some of all that are written so far."""
        if isinstance(columns, slice):
            return self._states[_ends(columns)]
        whole = tuple(self._states.values())
        so_far = whole[0] if len(whole) == 1 else self._graph.node("Concat", *whole, axis=1)
        return self._graph.node("Gather", so_far, self._graph.constant(columns.numpy().astype(np.int64)), axis=1)

    def _sum(self, terms: Sequence[Term], bias: NDArray[Any]) -> str:
        graph = self._graph
        parts = [LINEAR.get(type(block), _dense)(graph, block, x) for x, block in terms]
        if not parts:  # the same for every sample, of whom only the number counts
            first = graph.node("Gather", self._inputs, graph.constant(np.array([0])), axis=1)
            parts = [graph.node("Mul", first, graph.number(0.0))]
        total = parts[0]
        for part in parts[1:]:
            total = graph.node("Add", total, part)
        return graph.node("Add", total, graph.constant(bias)) if bias.any() or not terms else total

    def _activated(self, activation: Activation, z: str) -> str:
        return ACTIVATIONS[activation.name](self._graph, z, **dict(activation.parameters))


def _ends(columns: slice) -> tuple[int, int]:
    return columns.start, columns.stop
