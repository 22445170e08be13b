"""Operations that sort: all places of a dimension, or the first of them."""

from __future__ import annotations

import numpy as np
import torch

from simplicit.runtime.onnx.operations.calls import Call, Held, NotWrittenError
from simplicit.runtime.onnx.operations.reductions import kept
from simplicit.runtime.onnx.operations.registry import Entry, alike


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


def _quantile(call: Call) -> str:
    """Between the numbers at the ranks around q (n - 1)."""
    q, axis = call["q"], call.dimension()
    call.refuse(call["dim"] is None, "is of all numbers")
    given = q.constant if isinstance(q, Held) else torch.tensor(q, dtype=torch.float64)
    if given is None:
        raise NotWrittenError("is at a share that depends on the input")
    shares = given.double()
    ranks = shares.reshape(-1) * (call.first.length(axis) - 1)
    below, above = ranks.floor(), ranks.ceil()
    weights = {
        "lower": torch.zeros_like(ranks),
        "higher": (above > below).double(),
        "midpoint": 0.5 * (above > below).double(),
        "nearest": (ranks.round() > below).double(),
    }.get(call["interpolation"], ranks - below)
    ordered = _top(call, axis, call.first.length(axis), largest=False)[0]
    first, second = (
        call.node("Gather", ordered, call.numbers(one.long().tolist()), axis=axis) for one in (below, above)
    )
    shape = [-1 if at == axis else 1 for at in range(call.first.rank)]
    share = call.node("Mul", weights.reshape(shape).numpy(), call.node("Sub", second, first))
    found = call.node("Add", first, share)
    several = isinstance(q, Held) and q.rank == 1
    if several:
        order = [axis, *(at for at in range(call.first.rank) if at != axis)]
        found = call.node("Transpose", found, perm=order)
        return call.reshape(found, call.result.sizes) if kept(call) else found
    return call.reshape(found, call.result.sizes)


SORTING: dict[str, Entry] = {
    "sort": _sorted,
    "argsort": lambda call: _sorted(call)[1],
    "topk": _topk,
    "kthvalue": lambda call: _of_rank(call, call["k"] - 1),
    "median": _median,
    **alike("quantile nanquantile", _quantile),
}
