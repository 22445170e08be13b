r"""A triangular model as an ONNX graph: one group of nodes per stage of the plan.

A stage is a sum of linear maps of what came before, a bias and an activation or a block;
:mod:`~simplicit.runtime.onnx.linear`, :mod:`~simplicit.runtime.onnx.activations` and
:mod:`~simplicit.runtime.onnx.blocks` say how each of them is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.checks import refused
from simplicit.implicit import Block, CsrMap, ImplicitModel, LinearMap
from simplicit.implicit.groups import INPUT, OUTPUT
from simplicit.implicit.plan import Plan, Stage
from simplicit.runtime.onnx.activations import activated
from simplicit.runtime.onnx.blocks import block
from simplicit.runtime.onnx.graph import Graph
from simplicit.runtime.onnx.inputs import OUTPUT as RESULT
from simplicit.runtime.onnx.inputs import packed
from simplicit.runtime.onnx.linear import linear

OPSET, IR_VERSION = 17, 8  # of 2022: old enough for every runtime, new enough for all that is needed
Term = tuple[str, LinearMap]


def build(model: ImplicitModel, onnx: Any) -> Any:
    """An ONNX model from the inputs, each (batch, *shape), to ``outputs`` (batch, *output_shape).

    :mod:`~simplicit.runtime.onnx.inputs` says what the inputs are called.

    InputError is raised where A has cycles, a block has an operation without a form in ONNX, or the constants take more
    than 2 GiB.
    """
    plan = model.state_equation.plan
    if not plan.triangular:
        raise refused(
            "model",
            "A has cycles, so its states are found by iteration, which is not written to ONNX; use "
            "simplicit.to_torch(model), or fit a feed-forward network with structure 'baseline' or 'feedforward'",
        )
    graph = Graph(onnx, model.dtype)
    flat, first = packed(graph, model)
    outputs = _Writer(graph, model, plan, flat).outputs()
    if model.output_shape == (model.n_outputs,):
        graph.node("Identity", outputs, name=RESULT)
    else:  # a length of 0 stands for that of the input
        shape = np.array([0, *model.output_shape], dtype=np.int64)
        graph.node("Reshape", outputs, shape, name=RESULT)
    graph.prune([RESULT])
    make, kind = onnx.helper, onnx.TensorProto.DOUBLE if model.dtype == np.float64 else onnx.TensorProto.FLOAT
    last = make.make_tensor_value_info(RESULT, kind, ["batch", *model.output_shape])
    whole = make.make_graph(graph.nodes, "implicit_model", first, [last], [*graph.constants.values()])
    opsets = [make.make_opsetid("", OPSET)]
    return make.make_model(whole, opset_imports=opsets, ir_version=IR_VERSION, producer_name="simplicit")


class _Writer:
    """Writes the stages of a plan one after the other."""

    def __init__(self, graph: Graph, model: ImplicitModel, plan: Plan, inputs: str) -> None:
        self._graph, self._model, self._inputs = graph, model, inputs
        self._order = None if plan.order is None else plan.order.numpy()
        self._names = {columns.start: name for name, columns in model.slices.items()}
        self._states: dict[int, str] = {}  # of each stage that is written, by its first column
        bias = model.state_bias if self._order is None else model.state_bias[self._order]
        for stage in plan.stages:
            terms = [(self._state(source), each) for source, each in stage.terms]
            z = self._sum([*self._driven(stage), *terms], bias[stage.rows])
            phi, name = stage.activation, self._names.get(stage.target.start, "")
            x = block(graph, phi, z, name) if isinstance(phi, Block) else activated(graph, phi, z)
            self._states[stage.target.start] = x

    def outputs(self) -> str:
        """Write C x + D u + d."""
        model, terms = self._model, list[Term]()
        if self._order is not None and model.C.nnz:
            every = torch.arange(model.n_states)
            terms.append((self._state(every), CsrMap(model.C[:, self._order])))
        for (row, column), each in model.blocks.items():
            if row == OUTPUT and column == INPUT:
                terms.append((self._inputs, each))
            elif row == OUTPUT and self._order is None:
                terms.append((self._state(model.slices[column]), each))
        return self._sum(terms, model.output_bias)

    def _driven(self, stage: Stage) -> list[Term]:
        """The part of B in a stage."""
        if self._order is None:
            driven = self._model.blocks.get((self._names[stage.target.start], INPUT))
        else:
            driven = CsrMap(self._model.B[self._order[stage.rows]])
        return [] if driven is None or not driven.nnz else [(self._inputs, driven)]

    def _state(self, columns: slice | Tensor) -> str:
        """The name of states in working order: a stage, or some of all that are written so far."""
        if isinstance(columns, slice):
            return self._states[columns.start]
        whole = tuple(self._states.values())
        so_far = whole[0] if len(whole) == 1 else self._graph.node("Concat", *whole, axis=1)
        return self._graph.node("Gather", so_far, columns.numpy().astype(np.int64), axis=1)

    def _sum(self, terms: Sequence[Term], bias: NDArray[Any]) -> str:
        graph = self._graph
        parts = [linear(graph, each, x) for x, each in terms]
        if not parts:  # the same for every sample, of whom only the number counts
            first = graph.node("Gather", self._inputs, np.array([0]), axis=1)
            parts = [graph.node("Mul", first, 0.0)]
        total = graph.sum(parts)
        return graph.node("Add", total, bias) if bias.any() or not terms else total
