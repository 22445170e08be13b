"""Parts of a parameter that are weights or biases of their own: cut along one axis, by a slice or a split."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

_aten = torch.ops.aten

#: Operations that cut a value into several, which are picked one by one.
SPLITS = {_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.split.sizes}


@dataclass(frozen=True)
class Part:
    """The entries from ``start`` on, ``length`` of them, along an axis of a parameter."""

    axis: int
    start: int
    length: int

    def of(self, whole: Tensor) -> Tensor:
        """The part of a parameter, as a view."""
        return whole.narrow(self.axis, self.start, self.length)

    def put(self, whole: Tensor, values: Tensor) -> Tensor:
        """A copy of a parameter with other values in the part."""
        changed = whole.clone()
        self.of(changed).copy_(values)
        return changed

    def overlaps(self, other: Part) -> bool:
        """Whether both may have an entry."""
        if self.axis != other.axis:
            return True
        return self.start < other.start + other.length and other.start < self.start + self.length

    def __str__(self) -> str:
        return f"[{':, ' * self.axis}{self.start}:{self.start + self.length}]"


def part_of(part: Part | None, whole: Tensor) -> Tensor:
    """A parameter, or a part of it."""
    return whole if part is None else part.of(whole)


def changed_in(part: Part | None, whole: Tensor, values: Tensor) -> Tensor:
    """What a parameter is with other values, in all of it or in a part."""
    return values if part is None else part.put(whole, values)


def cut_of(node: Any) -> Part | None:
    """What a node cuts out of what it is given, or of what was split before it; None where it does not."""
    if not isinstance(node, Node) or not node.args or not isinstance(node.args[0], Node):
        return None
    before, value = node.args[0], node.meta.get("val")
    whole: Any = before.meta.get("val")
    sizes = [size for one in (value, whole) if isinstance(one, Tensor) for size in one.shape]
    if not isinstance(value, Tensor) or any(not isinstance(one, int) for one in (*sizes, *_numbers(node))):
        return None
    if node.target is operator.getitem and before.target in SPLITS:
        axis = _number(before, 2, "dim", 0) % value.ndim
        sizes = [one.shape[axis] for one in whole]
        place = int(node.args[1])  # type: ignore[arg-type]
        return Part(axis, sum(sizes[:place]), sizes[place])
    if node.target is _aten.narrow.default:
        axis, start, length = _numbers(node)
        axis %= value.ndim
        return Part(axis, start if start >= 0 else start + whole.shape[axis], length)
    if node.target is _aten.slice.Tensor and _number(node, 4, "step", 1) == 1:
        axis, start = _number(node, 1, "dim", 0) % value.ndim, _number(node, 2, "start", 0)
        return Part(axis, start if start >= 0 else max(start + whole.shape[axis], 0), value.shape[axis])
    return None


def _numbers(node: Node) -> list[Any]:
    """All arguments but the first and those that are not given."""
    given = [*node.args[1:], *node.kwargs.values()]
    return [one for one in given if one is not None]


def _number(node: Node, place: int, name: str, default: int) -> int:
    """An argument that is a number, as it was given in order, by name, or not at all."""
    given = node.args[place] if len(node.args) > place else node.kwargs.get(name)
    return default if given is None else int(given)  # type: ignore[arg-type]
