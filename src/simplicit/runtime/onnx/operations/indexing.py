"""Operations that look numbers up by indices, or put them there."""

from __future__ import annotations

import torch

from simplicit.runtime.onnx.operations.calls import Call, Held, Sizes
from simplicit.runtime.onnx.operations.moving import cut, permuted
from simplicit.runtime.onnx.operations.registry import Entry, alike


def _index(call: Call) -> str:
    """x[i, :, j …]: gathered along one dimension, or along several at once with these in front."""
    x, rank = call.x(), call.first.rank
    indices: list[Held | None] = [*call["indices"], *[None] * (rank - len(call["indices"]))]
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    found = [index for index in indices if index is not None]
    call.refuse(any(index.dtype in (torch.bool, torch.uint8) for index in found), "has truth values as indices")
    if len(axes) == 1:
        return call.node("Gather", x, call.tensor(found[0], torch.int64), axis=axes[0])
    rest = [axis for axis in range(rank) if axis not in axes]
    common = _broadcast(found)
    columns = [
        call.node("Unsqueeze", call.expand(call.tensor(one, torch.int64), one.sizes, common), call.numbers([-1]))
        for one in found
    ]
    y = call.node("GatherND", permuted(call, x, axes + rest), call.node("Concat", *columns, axis=-1))
    if axes != list(range(axes[0], axes[-1] + 1)) or axes[0] == 0:
        return y
    front, count = axes[0], len(common)
    return permuted(call, y, [*range(count, count + front), *range(count), *range(count + front, count + len(rest))])


def _broadcast(values: list[Held]) -> Sizes:
    """The sizes to which tensors are broadcast together."""
    rank = max(held.rank for held in values)
    padded = [(*(1,) * (rank - held.rank), *held.sizes) for held in values]
    return tuple(next((size for size in sizes if size != 1), 1) for sizes in zip(*padded, strict=True))


def _index_select(call: Call) -> str:
    return call.node("Gather", call.x(), call.tensor(call["index"], torch.int64), axis=call.dimension())


def _gather(call: Call) -> str:
    return call.node("GatherElements", call.x(), call.tensor(call["index"], torch.int64), axis=call.dimension())


def _take_along(call: Call) -> str:
    index: Held = call["indices"]
    call.refuse(call["dim"] is None, "takes from all numbers")
    axis = call.dimension()
    whole = tuple(
        size if at == axis else new
        for at, (size, new) in enumerate(zip(call.first.sizes, call.result.sizes, strict=True))
    )
    x = call.expand(call.x(), call.first.sizes, whole)
    places = call.expand(call.tensor(index, torch.int64), index.sizes, call.result.sizes)
    return call.node("GatherElements", x, places, axis=axis)


def _scatter(call: Call) -> str:
    """Numbers put at places along a dimension, or added there."""
    index: Held = call["index"]
    source = call["src"] if call["src"] is not None else call["value"]
    dtype, axis = call.result.dtype, call.dimension()
    reduction = {"add": "add", "multiply": "mul", "sum": "add", "prod": "mul", None: "none"}.get(call["reduce"])
    call.refuse(reduction is None or call["include_self"] is False, f"puts numbers there by {call['reduce']!r}")
    reduction = "add" if call.packet == "scatter_add" else reduction
    if isinstance(source, Held) and source.rank:
        updates = call.tensor(source, dtype)
        for at, (size, wanted) in enumerate(zip(source.sizes, index.sizes, strict=True)):
            updates = updates if size == wanted else cut(call, updates, at, 0, wanted)
    else:
        updates = call.expand(call.tensor(source, dtype), (), index.sizes)
    places = call.tensor(index, torch.int64)
    return call.node("ScatterElements", call.x(), places, updates, axis=axis, reduction=reduction)


def _put(call: Call) -> str:
    """x[i, :, j …] = values, or += values; truth values of the input are a choice."""
    dtype, values, rank = call.result.dtype, call["values"], call.first.rank
    indices: list[Held | None] = [*call["indices"], *[None] * (rank - len(call["indices"]))]
    if isinstance(indices[0], Held) and indices[0].dtype == torch.bool and indices[0].constant is None:
        return _put_by_truth(call, indices[0], values)
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    found = [index for index in indices if index is not None]
    call.refuse(any(index.dtype in (torch.bool, torch.uint8) for index in found), "has truth values as indices")
    rest = [axis for axis in range(rank) if axis not in axes]
    common = _broadcast(found)
    columns = [
        call.node("Unsqueeze", call.expand(call.tensor(one, torch.int64), one.sizes, common), call.numbers([-1]))
        for one in found
    ]
    left, count = tuple(call.first.sizes[axis] for axis in rest), len(common)
    contiguous = axes == list(range(axes[0], axes[-1] + 1))
    front = axes[0] if contiguous else 0
    updates = call.expand(call.tensor(values, dtype), values.sizes, (*left[:front], *common, *left[front:]))
    inner = [*range(front, front + count), *range(front), *range(front + count, count + len(left))]
    x = permuted(call, call.x(), axes + rest)
    places = call.node("Concat", *columns, axis=-1)
    reduction = "add" if call["accumulate"] else "none"
    y = call.node("ScatterND", x, places, permuted(call, updates, inner), reduction=reduction)
    return permuted(call, y, [(axes + rest).index(axis) for axis in range(rank)])


def _put_by_truth(call: Call, mask: Held, values: Held) -> str:
    call.refuse(len(call["indices"]) > 1 or bool(call["accumulate"]), "adds where the input says")
    call.refuse(values.sizes not in ((), (1,)), "puts several numbers where the input says")
    wide = (*mask.sizes, *(1,) * (call.first.rank - mask.rank))
    return call.node("Where", call.reshape(call.tensor(mask), wide), call.tensor(values, call.result.dtype), call.x())


def _bucket(call: Call) -> str:
    """How many bounds are smaller, or not larger."""
    bounds, x = (
        call[name] for name in (("sorted_sequence", "self") if call["sorted_sequence"] else ("boundaries", "self"))
    )
    call.refuse(bounds.rank != 1 or not isinstance(x, Held) or call["sorter"] is not None, "has bounds for each row")
    operator = "LessOrEqual" if call["right"] or call["side"] == "right" else "Less"
    wide = call.node("Unsqueeze", call.tensor(x), call.numbers([-1]))
    smaller = call.cast(call.node(operator, call.tensor(bounds, x.dtype), wide), torch.int64)
    return call.cast(call.node("ReduceSum", smaller, call.numbers([-1]), keepdims=0), call.result.dtype)


def _embedding(call: Call) -> str:
    return call.node("Gather", call.x(), call.tensor(call["indices"], torch.int64), axis=0)


def _one_hot(call: Call) -> str:
    call.refuse(call["num_classes"] < 0, "has a number of classes that depends on the input")
    graph = call.graph(torch.int64)
    return graph.node("OneHot", call.x(torch.int64), call.numbers(call["num_classes"]), call.numbers([0, 1]), axis=-1)


def _slice_scatter(call: Call) -> str:
    """A part of a dimension replaced, by which of the places before it, in it and after it are joined."""
    axis, step = call.dimension(), call["step"]
    length = call.first.length(axis)
    start, stop, _ = slice(call["start"], call["end"]).indices(length)
    places = torch.arange(length)
    places[start:stop:step] = length + torch.arange(len(range(start, stop, step)))
    both = call.node("Concat", call.x(), call.tensor(call["src"], call.result.dtype), axis=axis)
    return call.node("Gather", both, call.numbers(places.tolist()), axis=axis)


def _select_scatter(call: Call) -> str:
    axis = call.dimension()
    length = call.first.length(axis)
    places = list(range(length))
    places[call["index"]] = length
    row = call.node("Unsqueeze", call.tensor(call["src"], call.result.dtype), call.numbers([axis]))
    return call.node("Gather", call.node("Concat", call.x(), row, axis=axis), call.numbers(places), axis=axis)


INDEXING: dict[str, Entry] = {
    "index": _index,
    "index_select": _index_select,
    "gather": _gather,
    "take_along_dim": _take_along,
    **alike("scatter scatter_add scatter_reduce", _scatter),
    "index_put": _put,
    **alike("bucketize searchsorted", _bucket),
    "embedding": _embedding,
    "one_hot": _one_hot,
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
}
