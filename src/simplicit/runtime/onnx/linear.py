r"""How linear maps are written as nodes of an ONNX graph.

A kind that is missing in :data:`LINEAR` is written as a dense matrix, or as the smaller ones that it repeats; a new
kind is one function and one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.implicit import ConvMap, GatheredMap, GatherMap, LinearMap, RepeatedMap, SumMap, TransposedMap
from simplicit.runtime.onnx.graph import Graph
from simplicit.runtime.onnx.repeats import Repeat, repeats


def _dense(graph: Graph, block: LinearMap, x: str) -> str:
    """Write X Mᵀ by the dense matrix, or by a smaller one that it repeats."""
    rows, columns = block.shape
    matrix = block.to_csr()
    if (parts := repeats(matrix)) is not None:
        return _repeated(graph, parts, block.shape, x)
    graph.reserve(rows * columns * graph.dtype.itemsize, f"blocks up to one of shape {block.shape}")
    graph.reserve(-rows * columns * graph.dtype.itemsize)  # the constant counts itself
    return graph.node("MatMul", x, matrix.toarray().T)


def _repeated(graph: Graph, parts: Sequence[Repeat], shape: tuple[int, int], x: str) -> str:
    """Write X Mᵀ where M repeats smaller matrices: columns are picked, multiplied together, and put in order."""
    found, places, offset = list[str](), np.full(shape[0], -1, dtype=np.int64), 0
    for part in parts:
        (times, height), width = part.rows.shape, part.columns.shape[1]
        picked = _picked(graph, x, part.columns.ravel(), shape[1])
        apart = graph.node("Reshape", picked, np.array([0, times, width], dtype=np.int64))
        product = graph.node("MatMul", apart, part.core.T)
        found.append(graph.node("Reshape", product, np.array([0, times * height], dtype=np.int64)))
        places[part.rows.ravel()] = offset + np.arange(times * height)
        offset += times * height
    whole = found[0] if len(found) == 1 else graph.node("Concat", *found, axis=1)
    if (places < 0).any():  # a column of zeros stands behind the others for the empty rows
        whole = graph.node("Pad", whole, np.array([0, 0, 0, 1], dtype=np.int64))
        places[places < 0], offset = offset, offset + 1
    return _picked(graph, whole, places, offset)


def _picked(graph: Graph, x: str, columns: NDArray[np.int64], width: int) -> str:
    in_order = columns.size == width and bool((columns == np.arange(width)).all())
    return x if in_order else graph.node("Gather", x, columns.astype(np.int64), axis=1)


def _gather(graph: Graph, block: GatherMap, x: str) -> str:
    """Write the picked columns of X times their factors; a column of zeros stands behind X for the empty rows."""
    if not block.in_order:
        if block.nnz < block.shape[0]:
            x = graph.node("Pad", x, np.array([0, 0, 0, 1], dtype=np.int64))
        columns = block.columns
        x = graph.node("Gather", x, np.where(columns >= 0, columns, block.width), axis=1)
    factors = block.factors
    return x if factors is None else graph.node("Mul", x, factors)


def _convolution(graph: Graph, block: ConvMap, x: str) -> str:
    """Write a convolution of X as images."""
    if block.right is not None:
        x = graph.node("Mul", x, block.right)
    images = graph.node("Reshape", x, np.array([0, *block.input_shape], dtype=np.int64))
    sizes: dict[str, Any] = {"strides": block.stride, "dilations": block.dilation, "pads": block.padding * 2}
    y = graph.node("Conv", images, block.weight, group=block.groups, **sizes)
    y = graph.node("Flatten", y, axis=1)
    return y if block.left is None else graph.node("Mul", y, block.left)


def _transposed(graph: Graph, block: TransposedMap, x: str) -> str:
    """Write a transposed convolution of X as images."""
    if block.right is not None:
        x = graph.node("Mul", x, block.right)
    # What runs float64, the reference of onnx, knows no groups here.
    core = block.core if graph.dtype == np.float32 else block.core.ungrouped()
    images = graph.node("Reshape", x, np.array([0, *core.output_shape], dtype=np.int64))
    sizes: dict[str, Any] = {"strides": core.stride, "dilations": core.dilation, "pads": core.padding * 2}
    y = graph.node("ConvTranspose", images, core.weight, group=core.groups, output_padding=core.left_over, **sizes)
    y = graph.node("Flatten", y, axis=1)
    return y if block.left is None else graph.node("Mul", y, block.left)


def _weight_repeated(graph: Graph, block: RepeatedMap, x: str) -> str:
    """Write the product of every position of X with one matrix."""
    if block.right is not None:
        x = graph.node("Mul", x, block.right)
    (height, width), times, inner = block.weight.shape, block.repeats, block.inner
    if inner > 1:
        apart = graph.node("Reshape", x, np.array([0, times, width, inner], dtype=np.int64))
        y = graph.node("Flatten", graph.node("MatMul", block.weight, apart), axis=1)
    elif times > 1:
        apart = graph.node("Reshape", x, np.array([0, times, width], dtype=np.int64))
        product = graph.node("MatMul", apart, block.weight.T)
        y = graph.node("Reshape", product, np.array([0, times * height], dtype=np.int64))
    else:
        y = graph.node("MatMul", x, block.weight.T)
    return y if block.left is None else graph.node("Mul", y, block.left)


def _gathered(graph: Graph, block: GatheredMap, x: str) -> str:
    return _gather(graph, block.after, linear(graph, block.core, _gather(graph, block.before, x)))


def linear(graph: Graph, block: LinearMap, x: str) -> str:
    """Write X Mᵀ, (m, in) to (m, out), for the value named ``x``, and return the name of the result."""
    return LINEAR.get(type(block), _dense)(graph, block, x)


#: How X Mᵀ is written, by the kind of the map M: a function of the graph, the map and the name of X.
LINEAR: dict[type[Any], Callable[[Graph, Any, str], str]] = {
    GatherMap: _gather,
    ConvMap: _convolution,
    RepeatedMap: _weight_repeated,
    TransposedMap: _transposed,
    GatheredMap: _gathered,
    SumMap: lambda graph, block, x: graph.sum([linear(graph, part, x) for part in block.parts]),
}
