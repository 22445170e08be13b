r"""How linear maps are written as nodes of an ONNX graph.

A kind that is missing in :data:`LINEAR` is written as a dense matrix; a new kind is one function and one line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from simplicit.implicit import ConvMap, GatheredConvMap, GatherMap, LinearMap, SumMap
from simplicit.runtime.onnx.graph import Graph


def _dense(graph: Graph, block: LinearMap, x: str) -> str:
    """Write X Mᵀ by the dense matrix."""
    rows, columns = block.shape
    graph.reserve(rows * columns * graph.dtype.itemsize, f"blocks up to one of shape {block.shape}")
    graph.reserve(-rows * columns * graph.dtype.itemsize)  # the constant counts itself
    return graph.node("MatMul", x, block.to_csr().toarray().T)


def _gather(graph: Graph, block: GatherMap, x: str) -> str:
    """Write the picked columns of X times their factors; a column of zeros stands behind X for the empty rows."""
    if not block.in_order:
        if block.nnz < block.columns.size:
            x = graph.node("Pad", x, np.array([0, 0, 0, 1], dtype=np.int64))
        columns = np.where(block.columns >= 0, block.columns, block.width)
        x = graph.node("Gather", x, columns, axis=1)
    return x if block.factors is None else graph.node("Mul", x, block.factors)


def _convolution(graph: Graph, block: ConvMap, x: str) -> str:
    """Write a convolution of X as images."""
    if block.right is not None:
        x = graph.node("Mul", x, block.right)
    images = graph.node("Reshape", x, np.array([0, *block.input_shape], dtype=np.int64))
    sizes: dict[str, Any] = {"strides": block.stride, "dilations": block.dilation, "pads": block.padding * 2}
    y = graph.node("Conv", images, block.weight, group=block.groups, **sizes)
    y = graph.node("Flatten", y, axis=1)
    return y if block.left is None else graph.node("Mul", y, block.left)


def _gathered(graph: Graph, block: GatheredConvMap, x: str) -> str:
    return _gather(graph, block.after, _convolution(graph, block.core, _gather(graph, block.before, x)))


def linear(graph: Graph, block: LinearMap, x: str) -> str:
    """Write X Mᵀ, (m, in) to (m, out), for the value named ``x``, and return the name of the result."""
    return LINEAR.get(type(block), _dense)(graph, block, x)


#: How X Mᵀ is written, by the kind of the map M: a function of the graph, the map and the name of X.
LINEAR: dict[type[Any], Callable[[Graph, Any, str], str]] = {
    GatherMap: _gather,
    ConvMap: _convolution,
    GatheredConvMap: _gathered,
    SumMap: lambda graph, block, x: graph.sum([linear(graph, part, x) for part in block.parts]),
}
