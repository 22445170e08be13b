"""A network from an ONNX file as a torch module, for the few operations that basic-pitch has."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everyone calls it)
from torch import Tensor, nn

#: Integers are no tensors here: sizes, axes, and the shape of a value, whose number of samples is free.
Sizes = list[Any]


def _pad(x: Tensor, pads: Sizes, *, mode: str = "constant", **_: Any) -> Tensor:
    n = x.ndim
    if mode == "constant":
        return F.pad(x, [pads[i + side * n] for i in reversed(range(n)) for side in (0, 1)])
    axis = next(i for i in range(n) if pads[i] or pads[i + n])
    return F.pad(x.movedim(axis, -1), (pads[axis], pads[axis + n]), mode=mode).movedim(-1, axis)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
    top, left, bottom, right = options.get("pads", (0, 0, 0, 0))
    x = F.pad(x, (left, right, top, bottom)) if top or left or bottom or right else x
    return F.conv2d(x, weight, bias, options.get("strides", 1), 0, options.get("dilations", 1), options.get("group", 1))


def _slice(x: Any, starts: Sizes, ends: Sizes, axes: Sizes) -> Any:
    """Slices with steps of one."""
    if isinstance(x, list):
        return x[starts[0] : ends[0]]
    for start, end, axis in zip(starts, ends, axes, strict=True):
        if start or end < 2**30:
            first, last = (place + x.shape[axis] if place < 0 else min(place, x.shape[axis]) for place in (start, end))
            x = x.narrow(axis, first, last - first)
    return x


def _concat(*parts: Any, axis: int) -> Any:
    return [*chain(*parts)] if isinstance(parts[0], list) else torch.cat(parts, axis)


def _unsqueeze(x: Any, axes: Sizes) -> Any:
    shape = list(x.shape)
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        shape.insert(axis, 1)
    return x.reshape(shape)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": torch.add,
    "Cast": lambda x, *, to: x,
    "Concat": _concat,
    "Conv": _conv,
    "Div": torch.div,
    "Equal": torch.eq,
    "Log": torch.log,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Pad": _pad,
    "ReduceMax": lambda x, *, axes, keepdims: x.amax(axes, keepdim=bool(keepdims)),
    "ReduceMin": lambda x, *, axes, keepdims: x.amin(axes, keepdim=bool(keepdims)),
    "ReduceSum": lambda x, axes, *, keepdims, **_: x.sum(axes, keepdim=bool(keepdims)),
    "Relu": torch.relu,
    "Reshape": torch.reshape,
    "Shape": lambda x: list(x.shape),
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Transpose": lambda x, *, perm: x.permute(perm),
    "Unsqueeze": _unsqueeze,
    "Where": torch.where,
}


class OnnxNetwork(nn.Module):
    """The part of an ONNX graph between a value and some others; its constants of rank two or more are parameters."""

    def __init__(self, file: Path, begin: str, ends: list[str]) -> None:
        import onnx
        from onnx import numpy_helper

        super().__init__()
        graph = onnx.load(file).graph
        stored = {value.name: torch.tensor(numpy_helper.to_array(value)) for value in graph.initializer}
        self.begin, self.ends = begin, ends
        self.nodes = [
            (node.op_type, list(node.input), list(node.output), _attributes(onnx, node))
            for node in _needed(list(graph.node), {begin, *stored}, set(ends))
        ]
        used = {name for _, inputs, _, _ in self.nodes for name in inputs}
        self.places: dict[str, str] = {}
        self.integers = {
            name: value.reshape(-1).tolist() for name, value in stored.items() if not value.is_floating_point()
        }
        for number, (name, value) in enumerate(stored.items()):
            if name in used and value.is_floating_point():
                self.places[name] = f"value{number}"
                if value.ndim >= 2:
                    self.register_parameter(f"value{number}", nn.Parameter(value))
                else:
                    self.register_buffer(f"value{number}", value)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Go through the nodes."""
        values: dict[str, Any] = {name: getattr(self, place) for name, place in self.places.items()}
        values |= self.integers | {self.begin: x}
        for kind, inputs, outputs, attributes in self.nodes:
            given = [values[name] if name else None for name in inputs]
            values[outputs[0]] = OPERATIONS[kind](*given, **attributes)
        return tuple(values[name] for name in self.ends)


def _attributes(onnx: Any, node: Any) -> dict[str, Any]:
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _needed(nodes: list[Any], known: set[str], wanted: set[str]) -> list[Any]:
    kept = []
    wanted = set(wanted)
    for node in reversed(nodes):
        if wanted & set(node.output) and not set(node.output) & known:
            kept.append(node)
            wanted |= set(node.input) - known
    return kept[::-1]
