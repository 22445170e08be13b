"""Operations that only move numbers: reshapes, permutations, cuts, repetitions and padding."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from simplicit.implicit.groups.program import Samples
from simplicit.runtime.onnx.operations.calls import Call, Held
from simplicit.runtime.onnx.operations.registry import Entry, alike


def _reshaped(call: Call) -> str:
    return call.reshape(call.x(), call.result.sizes)


def _same(call: Call) -> str:
    return call.x()


def _undropped(call: Call) -> str:
    call.refuse(bool(call["train"]), "is random")
    return call.x()


def permuted(call: Call, x: str, order: list[int]) -> str:
    """Write a tensor with its dimensions in another order."""
    return x if order == sorted(order) else call.node("Transpose", x, perm=order)


def _turned(call: Call) -> str:
    """Whatever operation it is, what it does to sizes that all differ is the order of dimensions."""
    lengths = range(2, 2 + call.first.rank)
    names = [name for name in call.arguments if name != "self"]
    packet = getattr(torch.ops.aten, call.packet)
    found = packet(torch.empty(*lengths, device="meta"), *(call[name] for name in names))
    return permuted(call, call.x(), [length - 2 for length in found.shape])


def _expanded(call: Call) -> str:
    return call.expand(call.x(), call.first.sizes, call.result.sizes)


def _selected(call: Call) -> str:
    return call.node("Gather", call.x(), np.array(call["index"], dtype=np.int64), axis=call.dimension())


def cut(call: Call, x: str, axis: int, start: Any, end: Any, step: int = 1) -> str:
    """Write some of the places along a dimension."""
    bounds = [call.writer.integer(bound) for bound in (start, end)]
    return call.node("Slice", x, *bounds, call.numbers([axis]), call.numbers([step]))


def _sliced(call: Call) -> str:
    start, end = call["start"], call["end"]
    start, end = 0 if start is None else start, sys.maxsize if end is None else end
    return (
        call.x()
        if (start, end) == (0, sys.maxsize)
        else cut(call, call.x(), call.dimension(), start, end, call["step"])
    )


def _narrowed(call: Call) -> str:
    start, length = call["start"], call["length"]
    call.refuse(isinstance(start, Held), "begins at a place that depends on the input")
    call.refuse(isinstance(length, Samples), "has a length that depends on the number of samples")
    size = call.first.sizes[call.dimension()]
    start = start + size if start < 0 and isinstance(size, int) else start
    return cut(call, call.x(), call.dimension(), start, start + length)


def _split(call: Call) -> list[str]:
    axis = call.dimension()
    lengths = [held.length(axis) for held in call.results]
    if len(lengths) == 1:
        return [call.x()]
    graph = call.graph()
    return graph.nodes_of("Split", call.x(), call.numbers(lengths), outputs=len(lengths), axis=axis)


def _unbound(call: Call) -> list[str]:
    axis, x = call.dimension(), call.x()
    return [call.node("Gather", x, np.array(i, dtype=np.int64), axis=axis) for i in range(call.first.length(axis))]


def _joined(call: Call) -> str:
    parts = [held for held in call["tensors"] if held.sizes != (0,)]  # which torch lets pass beside any shape
    axis = call["dim"] % call.result.rank
    return call.node("Concat", *(call.tensor(held, call.result.dtype) for held in parts), axis=axis)


def _stacked(call: Call) -> str:
    axis, dtype = call["dim"] % call.result.rank, call.result.dtype
    parts = [call.node("Unsqueeze", call.tensor(held, dtype), call.numbers([axis])) for held in call["tensors"]]
    return call.node("Concat", *parts, axis=axis)


def _joined_along(axis: int) -> Entry:
    def written(call: Call) -> str:
        parts, rank = call["tensors"], call.result.rank
        call.refuse(any(held.rank != rank for held in parts), "joins tensors of other dimensions")
        last = 0 if rank == 1 else axis
        return call.node("Concat", *(call.tensor(held, call.result.dtype) for held in parts), axis=last)

    return written


def _repeated(call: Call) -> str:
    times = call["repeats"] if call["repeats"] is not None else call["dims"]
    rank = call.result.rank
    times = (*(1,) * (rank - len(times)), *times)
    sizes = (*(1,) * (rank - call.first.rank), *call.first.sizes)
    x = call.x() if rank == call.first.rank else call.reshape(call.x(), sizes)
    return call.node("Tile", x, call.writer.shape(times))


def picked(call: Call, x: str, axis: int, places: Any) -> str:
    """Write constant places along a dimension."""
    return call.node("Gather", x, call.numbers(places), axis=axis)


def _repeated_each(call: Call) -> str:
    times = call["repeats"]
    call.refuse(not isinstance(times, int), "has numbers of repetitions that are no single integer")
    call.refuse(call["dim"] is None, "repeats without a dimension")
    axis = call.dimension()
    return picked(call, call.x(), axis, np.repeat(np.arange(call.first.length(axis)), times))


def _rolled(call: Call) -> str:
    call.refuse(not call["dims"], "rolls without dimensions")
    x = call.x()
    for shift, axis in zip(call["shifts"], call.dimensions("dims"), strict=True):
        x = picked(call, x, axis, np.roll(np.arange(call.first.length(axis)), shift))
    return x


def _flipped(call: Call) -> str:
    x = call.x()
    for axis in call.dimensions("dims"):
        x = picked(call, x, axis, np.arange(call.first.length(axis))[::-1])
    return x


def padded(call: Call, x: str, pad: Any, value: float) -> str:
    """Write a tensor with constants around it, as torch has the widths: those of the last dimension first."""
    before = [0] * call.first.rank
    after = list(before)
    for number, (left, right) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        before[-1 - number], after[-1 - number] = left, right
    filling = np.array(value, dtype=np.float64)
    return call.node("Pad", x, call.numbers(before + after), filling, mode="constant")


def _padded(call: Call) -> str:
    mode, value = call["mode"] or "constant", call["value"]
    if call.packet == "constant_pad_nd" or mode == "constant":
        call.refuse(not call.result.dtype.is_floating_point, "pads what is no floating-point number")
        return padded(call, call.x(), call["pad"], value or 0.0)
    return _mirrored(call, mode, call["pad"])


def _mirrored(call: Call, mode: str, pad: Any) -> str:
    """Every place along a padded dimension is a place of what is padded, which torch tells."""
    x = call.x()
    for number, (left, right) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        axis = call.first.rank - 1 - number
        line = torch.arange(call.first.length(axis), dtype=torch.float64).reshape(1, 1, -1)
        x = picked(call, x, axis, functional.pad(line, (left, right), mode).flatten().long().numpy())
    return x


def _reflected(call: Call) -> str:
    return _mirrored(call, "reflect", call["padding"])


def _replicated(call: Call) -> str:
    return _mirrored(call, "replicate", call["padding"])


def _diagonal(call: Call) -> str:
    dims = [call[name] % call.first.rank for name in ("dim1", "dim2")]
    rest = [axis for axis in range(call.first.rank) if axis not in dims]
    rows, columns = (call.first.length(axis) for axis in dims)
    places = np.arange(rows * columns).reshape(rows, columns).diagonal(call["offset"])
    x = permuted(call, call.x(), [*rest, *dims])
    sizes = tuple(call.first.sizes[axis] for axis in rest)
    return picked(call, call.reshape(x, (*sizes, rows * columns)), len(rest), places)


def _shuffled(call: Call) -> str:
    """Blocks of r × r pixels into channels, or channels into such blocks."""
    *lead, channels, height, width = call.first.sizes
    n = len(lead)
    if call.packet == "pixel_shuffle":
        r = call["upscale_factor"]
        inner = (channels // r**2, r, r, height, width)
        order = [0, 3, 1, 4, 2]
    else:
        r = call["downscale_factor"]
        inner = (channels, height // r, r, width // r, r)
        order = [0, 2, 4, 1, 3]
    x = permuted(call, call.reshape(call.x(), (*lead, *inner)), [*range(n), *(n + one for one in order)])
    return call.reshape(x, call.result.sizes)


def _channels_shuffled(call: Call) -> str:
    places = np.arange(call.first.length(1)).reshape(call["groups"], -1).T.flatten()
    return picked(call, call.x(), 1, places)


def _windows(call: Call) -> str:
    """Windows along a dimension, each of which becomes a last dimension."""
    axis, size, step = call["dimension"] % call.first.rank, call["size"], call["step"]
    count = call.result.length(axis)
    places = (step * np.arange(count)[:, None] + np.arange(size)).flatten()
    sizes = list(call.first.sizes)
    sizes[axis : axis + 1] = [count, size]
    x = call.reshape(picked(call, call.x(), axis, places), sizes)
    order = [one for one in range(len(sizes)) if one != axis + 1]
    return permuted(call, x, [*order, axis + 1])


MOVING: dict[str, Entry] = {
    **alike("reshape view _unsafe_view flatten unflatten view_as squeeze unsqueeze", _reshaped),
    **alike("clone alias detach _to_copy to type_as contiguous resolve_conj resolve_neg lift_fresh_copy", _same),
    "feature_dropout": _undropped,
    **alike("permute transpose t movedim swapaxes", _turned),
    "expand": _expanded,
    "expand_as": _expanded,
    "select": _selected,
    "slice": _sliced,
    "narrow": _narrowed,
    **alike("split split_with_sizes unsafe_split chunk unsafe_chunk", _split),
    "unbind": _unbound,
    **alike("cat concat concatenate", _joined),
    "stack": _stacked,
    "hstack": _joined_along(1),
    "repeat": _repeated,
    "tile": _repeated,
    "repeat_interleave": _repeated_each,
    "roll": _rolled,
    "flip": _flipped,
    "pad": _padded,
    "constant_pad_nd": _padded,
    **alike("reflection_pad1d reflection_pad2d", _reflected),
    **alike("replication_pad1d replication_pad2d", _replicated),
    "diagonal": _diagonal,
    "pixel_shuffle": _shuffled,
    "pixel_unshuffle": _shuffled,
    "channel_shuffle": _channels_shuffled,
    "unfold": _windows,
}
