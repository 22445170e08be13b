r"""Numbers that are picked by a mask and put back, as in y[y < 0] *= 0.1: a choice at every place.

How many numbers y[mask] has depends on the input, over all samples together, so that it is no value of a sample. But
what computes with each of them by itself commutes with picking, f(y[mask]) = f(y)[mask], and so

    y[mask] = f(y[mask])   is   y = where(mask, f(y), y).

The same holds for rows of y, picked by a mask of its first dimensions, and functions of the last one, such as the
layer of an expert. The graph is rewritten so before it is read. f may have no value at places that are not picked, as
a logarithm; there it is given 1/2, and what comes of that is not chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from simplicit.network.trees import leaves

_aten = torch.ops.aten
#: Defined, with derivatives, for all numbers.
_TOTAL = frozenset(
    ["add", "sub", "rsub", "mul", "neg", "abs", "relu", "leaky_relu", "sigmoid", "tanh", "sin", "cos", "hardtanh"]
)
#: Functions of each number by itself that torch does not say so of.
_POINTWISE = frozenset(["hardswish", "clone", "_to_copy", "detach"])
#: Functions of rows.
_OF_ROWS = frozenset(["linear", "layer_norm", "rms_norm", "softmax", "_softmax", "log_softmax", "_log_softmax"])
_HARMLESS = 0.5


@dataclass(frozen=True)
class _Picked:
    """The numbers of ``whole`` at which a mask is true, which ``condition`` says in the form of a choice."""

    mask: Node
    whole: Node

    @property
    def rest(self) -> int:
        """How many dimensions of a row are left."""
        return int(_value(self.whole).ndim - _value(self.mask).ndim)


def write_choices(graph: Graph) -> None:
    """Write numbers that are picked and put back by the same mask as choices, wherever that can be seen."""
    writing = _Writing(graph)
    for node in [*graph.nodes]:
        if node.op == "call_function" and isinstance(node.target, OpOverload):
            writing.add(node)


class _Writing:
    """The graph, with what is known of its values that are picked."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._picked: dict[Node, _Picked] = {}
        fakes = [_value(one) for one in graph.nodes if isinstance(one.meta.get("val"), Tensor)]
        self._mode: Any = detect_fake_mode(fakes)

    def add(self, node: Node) -> None:
        """Note what a node picks or makes of what is picked, and write a choice in its place where it puts it back."""
        with self._graph.inserting_before(node):
            if (mask := _mask_of(node)) is not None:
                self._picked[node] = _Picked(mask, node.args[0])  # type: ignore[arg-type]
            elif node.target in (_aten.index_put.default, _aten.masked_scatter.default):
                self._put_back(node)
            elif any(one in self._picked for one in node.all_input_nodes):
                self._computed(node)

    def _computed(self, node: Node) -> None:
        """Note what an operation makes of picked numbers: of the whole, the same."""
        given = [one for one in leaves((node.args, node.kwargs)) if isinstance(one, Node)]
        picked = [self._picked[one] for one in given if one in self._picked]
        others = [_value(one).ndim for one in given if one not in self._picked and isinstance(_value(one), Tensor)]
        name = node.target._schema.name.partition("::")[2]  # type: ignore[union-attr]
        rest = min(one.rest for one in picked)
        if any(not _alike(one.mask, picked[0].mask) or one.rest != rest for one in picked):
            return
        if name in _OF_ROWS:
            if given[0] not in self._picked or len(picked) > 1 or rest < 1 or not _acts_on_rows(node, name, rest):
                return
        elif not _is_pointwise(node, name) or max(others, default=0) > rest:
            return
        wholes = {one: self._defined(self._picked[one], name) for one in given if one in self._picked}
        args, kwargs = map_arg((node.args, node.kwargs), lambda one: wholes.get(one, one))
        self._picked[node] = _Picked(picked[0].mask, self._called(node.target, args, kwargs, node))

    def _defined(self, picked: _Picked, name: str) -> Node:
        """The whole of what is picked, with harmless numbers at other places where a function may not know those."""
        if name in _TOTAL | _POINTWISE | _OF_ROWS:
            return picked.whole
        filling = _HARMLESS if _value(picked.whole).is_floating_point() else 1
        condition = self._condition(picked.mask, picked.rest, picked.whole)
        return self._called(_aten.where.ScalarOther, (condition, picked.whole, filling), {}, picked.whole)

    def _put_back(self, node: Node) -> None:
        """A choice in the place of a node that puts numbers where a mask is true."""
        x, mask, source = _placed(node)
        if mask is None or not isinstance(source, Node):
            return
        rest = _value(x).ndim - _value(mask).ndim
        picked = self._picked.get(source)
        if picked is not None:
            if not _alike(picked.mask, mask) or picked.rest != rest:
                return
            source = picked.whole
        elif node.target is _aten.masked_scatter.default or _value(source).ndim > max(rest, _is_single(source)):
            return
        condition = self._condition(mask, rest, node)
        made = self._called(_aten.where.self, (condition, source, x), {}, node)
        if _value(made).shape == _value(node).shape and _value(made).dtype == _value(node).dtype:
            node.replace_all_uses_with(made)

    def _condition(self, mask: Node, rest: int, place: Node) -> Node:
        for _ in range(rest):
            mask = self._called(_aten.unsqueeze.default, (mask, -1), {}, place)
        return mask

    def _called(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], place: Node) -> Node:
        made = self._graph.call_function(target, args, kwargs)
        fakes = map_arg((args, kwargs), lambda one: one.meta["val"])
        with torch.no_grad(), self._mode:
            made.meta = {**place.meta, "val": target(*fakes[0], **fakes[1])}
        return made


def _value(node: Any) -> Any:
    return node.meta.get("val")


def _mask_of(node: Node) -> Node | None:
    """The mask by which a node picks numbers; None where it does not."""
    if node.target is _aten.index.Tensor:
        return _only_mask(node.args[1])
    if node.target is _aten.masked_select.default and _value(node.args[0]).shape == _value(node.args[1]).shape:
        return node.args[1]  # type: ignore[return-value]
    return None


def _placed(node: Node) -> tuple[Any, Node | None, Any]:
    """Where a node puts numbers, the mask that says at which places, and the numbers."""
    if node.target is _aten.masked_scatter.default:
        x, mask, source = node.args
        return x, mask if _value(x).shape == _value(mask).shape else None, source  # type: ignore[return-value]
    x, indices, source, *accumulate = node.args
    return x, None if any(accumulate) or node.kwargs else _only_mask(indices), source


def _only_mask(indices: Any) -> Node | None:
    """The single index of a list, if it is one of truth values."""
    mask = indices[0] if len(indices) == 1 else None
    return mask if isinstance(mask, Node) and _value(mask).dtype == torch.bool else None


def _is_single(node: Node) -> int:
    """1 for a tensor of one number, which may be put at any places, and else 0."""
    shape = _value(node).shape
    return int(len(shape) == 1 and isinstance(shape[0], int) and shape[0] == 1)


def _is_pointwise(node: Node, name: str) -> bool:
    return torch.Tag.pointwise in node.target.tags or name in _POINTWISE  # type: ignore[union-attr]


def _acts_on_rows(node: Node, name: str, rest: int) -> bool:
    """Whether a function of rows leaves the dimension along which they were picked alone."""
    if name in ("linear", "layer_norm", "rms_norm"):
        return name == "linear" or len(node.args[1]) <= rest  # type: ignore[arg-type]
    return bool(node.args[1] == -1)


def _alike(first: Any, second: Any) -> bool:
    """Whether two values are computed alike from the same nodes."""
    if not (isinstance(first, Node) and isinstance(second, Node)):
        if isinstance(first, Sequence) and isinstance(second, Sequence) and not isinstance(first, str):
            return len(first) == len(second) and all(map(_alike, first, second))
        return bool(first is second or (type(first) is type(second) and first == second))
    if first is second:
        return True
    same = first.op == second.op == "call_function" and first.target is second.target
    return (
        same
        and _alike(first.args, second.args)
        and first.kwargs.keys() == second.kwargs.keys()
        and all(_alike(first.kwargs[name], second.kwargs[name]) for name in first.kwargs)
    )
