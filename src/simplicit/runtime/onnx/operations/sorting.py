"""Operations that sort: all places of a dimension, or the first of them."""

from __future__ import annotations

import numpy as np

from simplicit.runtime.onnx.operations.calls import Call
from simplicit.runtime.onnx.operations.reductions import kept
from simplicit.runtime.onnx.operations.registry import Entry


def _top(call: Call, axis: int, count: int, largest: bool) -> list[str]:
    x = call.x(call.first.dtype)
    return call.graph().nodes_of("TopK", x, call.numbers([count]), outputs=2, axis=axis, largest=int(largest))


def _sorted(call: Call) -> list[str]:
    axis = call.dimension()
    return _top(call, axis, call.first.length(axis), bool(call["descending"]))


def _topk(call: Call) -> list[str]:
    return _top(call, call.dimension(), call["k"], bool(call["largest"]))


def _of_rank(call: Call, place: int) -> list[str]:
    """The number at a place of the ascending order, and where it was."""
    axis = call.dimension()
    found = _top(call, axis, place + 1, largest=False)
    index = np.array([place] if kept(call) else place, dtype=np.int64)
    return [call.node("Gather", one, index, axis=axis) for one in found]


def _median(call: Call) -> list[str]:
    call.refuse(call["dim"] is None, "is of all numbers")
    return _of_rank(call, (call.first.length(call.dimension()) - 1) // 2)


SORTING: dict[str, Entry] = {
    "sort": _sorted,
    "argsort": lambda call: _sorted(call)[1],
    "topk": _topk,
    "kthvalue": lambda call: _of_rank(call, call["k"] - 1),
    "median": _median,
}
