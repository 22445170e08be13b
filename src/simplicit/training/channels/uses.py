r"""Where a graph multiplies a state by a weight: linear maps, products of matrices, contractions, convolutions.

A weight may be seen through transposes, and a part of it through a cut along one of its axes, as in an attention whose
queries, keys and values have their weights in one parameter. How often it is used, and what else uses it, is for
:mod:`~simplicit.training.channels.layers` to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from simplicit.network.recurrences import LAYERS
from simplicit.training.channels.forms import Contraction, Convolution, Form, Linear, Transposed
from simplicit.training.channels.parts import SPLITS as _SPLITS
from simplicit.training.channels.parts import Part, cut_of
from simplicit.training.channels.patches import Geometry, each

_aten = torch.ops.aten

#: A linear or convolutional operation, as far as it is one: the form, and the arguments that are source, weight, bias.
Parsed = tuple[Form, Any, Any, Any]

_CONVOLUTIONS = {
    _aten.conv1d.default,
    _aten.conv2d.default,
    _aten.conv3d.default,
    _aten.conv1d.padding,
    _aten.conv2d.padding,
    _aten.conv3d.padding,
}
_TRANSPOSED = {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input}
_PRODUCTS = {_aten.mm.default, _aten.matmul.default, _aten.bmm.default}
#: Operations that slide a kernel over their input.
CONVOLVING = _CONVOLUTIONS | _TRANSPOSED | {_aten.convolution.default}
#: Operations whose weight is no layer's.
KEPT = {
    _aten.embedding.default: "an embedding",
    _aten.bilinear.default: "of a bilinear map",
    **dict.fromkeys(LAYERS.values(), "of a recurrent layer of too many steps to be written out"),
}
#: Operations that multiply by a weight in one way or another.
MULTIPLYING = {*CONVOLVING, *_PRODUCTS, *KEPT} | {
    *(_aten.linear.default, _aten.addmm.default, _aten.einsum.default, _aten.mv.default)
}
#: Operations that leave a weight as it is.
_SAME = {_aten.alias.default, _aten.detach.default, _aten.clone.default, _aten.contiguous.default}
_LABELS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight as an operation sees it: its placeholder, its axes in the order in which they come, and all nodes that
    turn or cut it; ``part`` is what is cut out of it."""

    placeholder: Node
    axes: tuple[int, ...]
    turns: tuple[Node, ...]
    part: Part | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight, or of its part, with its axes in the order of the parameter's."""
        sizes = list(self.placeholder.meta["val"].shape)
        if self.part is not None:
            sizes[self.part.axis] = self.part.length
        return tuple(sizes)


@dataclass(frozen=True, eq=False)
class Product:
    """An operation that multiplies ``source`` by a weight, and adds a bias where it has one."""

    node: Node
    form: Form
    source: Node
    weight: Weight
    bias: Any


def products(nodes: Iterable[Node], names: dict[str, str]) -> Iterator[Product]:
    """All operations on a weight, from placeholders in ``names``, of a form that is known."""
    for node in nodes:
        parsed = _parsed(node, names) if node.target in MULTIPLYING else None
        if parsed is None:
            continue
        form, source, weight, bias = parsed
        seen = seen_through(weight, names)
        if seen is not None and isinstance(source, Node):
            yield Product(node, form, source, seen, bias)


def seen_through(value: Any, names: dict[str, str]) -> Weight | None:
    """The weight that a value is, but for the order of its axes; None where it is none of ``names``."""
    seen = view_of(value, names)
    return seen if seen is not None and len(seen.axes) >= 2 else None


def view_of(value: Any, names: Container[str]) -> Weight | None:
    """The constant, of any number of axes, that a value is, but for their order and but for one cut."""
    turns: list[Node] = []
    while (before := _turned(value)) is not None:
        turns.append(value)
        value = before
    if not isinstance(value, Node) or value.op != "placeholder" or value.name not in names:
        return None
    axes, part = list(range(value.meta["val"].ndim)), None
    for turn in reversed(turns):
        if turn.target in _ORDERS:
            axes = [axes[axis] for axis in _ORDERS[turn.target](len(axes), *turn.args[1:])]
        elif (cut := cut_of(turn)) is not None:
            cut = Part(axes[cut.axis], cut.start, cut.length)
            if cut.length == value.meta["val"].shape[cut.axis]:
                continue  # all of it
            if part is not None:
                return None
            part = cut
    return Weight(value, tuple(axes), tuple(turns), part)


def core_of(value: Node) -> Node:
    """What a value is, but for the order of its axes and but for cuts."""
    while (before := _turned(value)) is not None:
        value = before
    return value


def _turned(value: Any) -> Node | None:
    """What a node turns, or cuts, or what was split for it to take a part of; None where it does something else."""
    if not isinstance(value, Node):
        return None
    split = value.target in _SPLITS
    if split or value.target in _SAME or value.target in _ORDERS or cut_of(value) is not None:
        return value.args[0] if isinstance(value.args[0], Node) else None
    return None


def _swapped(ndim: int, one: int, other: int) -> list[int]:
    order = list(range(ndim))
    order[one], order[other] = order[other], order[one]
    return order


#: The order of the axes that an operation gives.
_ORDERS: dict[Any, Callable[..., list[int]]] = {
    _aten.t.default: lambda ndim: list(range(ndim))[::-1],
    _aten.numpy_T.default: lambda ndim: list(range(ndim))[::-1],
    _aten.mT.default: lambda ndim: _swapped(ndim, -1, -2),
    _aten.transpose.int: _swapped,
    _aten.permute.default: lambda ndim, order: [axis % ndim for axis in order],
}


def _parsed(node: Node, names: dict[str, str]) -> Parsed | None:
    """The form of an operation with its arguments; None where rows cannot be tied."""
    target: Any = node.target
    if target is _aten.linear.default:
        source, weight, bias = (*node.args, None)[:3]
        return Linear(), source, weight, bias
    if target in CONVOLVING:
        return _convolution(node)
    if target is _aten.addmm.default:
        bias, source, weight = node.args[:3]
        plain = all(node.kwargs.get(name, 1) == 1 for name in ("alpha", "beta"))
        return (Linear(turned=True), source, weight, bias) if plain else None
    if target in _PRODUCTS:
        one, other = node.args[:2]
        return _product(one, other, names)
    return _einsum(node, names) if target is _aten.einsum.default else None


def _convolution(node: Node) -> Parsed | None:
    source, weight, bias = (*node.args, None)[:3]
    if not isinstance(weight, Node):
        return None
    kernel = tuple(weight.meta["val"].shape[2:])
    given: list[Any] = list(node.args[3:])
    k = len(kernel)
    if node.target is _aten.convolution.default:
        stride, padding, dilation, transposed, outer, groups = given
    else:
        transposed = node.target in _TRANSPOSED
        defaults: list[Any] = [1, 0, 0, 1, 1] if transposed else [1, 0, 1, 1]
        values = given + defaults[len(given) :]
        stride, padding, outer, groups, dilation = values if transposed else (*values[:2], 0, values[3], values[2])
    if transposed:
        steps, edges, outers, holes = (each(value, k) for value in (stride, padding, outer, dilation))
        return Transposed.of(kernel, steps, edges, outers, holes, int(groups)), source, weight, bias
    return Convolution(Geometry.of(kernel, stride, padding, dilation, groups)), source, weight, bias


def _product(one: Any, other: Any, names: dict[str, str]) -> Parsed | None:
    """A product of matrices, from the left or from the right, of a state and a weight."""
    left, right = seen_through(one, names), seen_through(other, names)
    if (left is None) == (right is None):
        return None
    state, weight = (other, one) if left is not None else (one, other)
    ndim, own = state.meta["val"].ndim, len((left or right).axes)  # type: ignore[union-attr]
    if left is None and own == 2:
        return Linear(turned=True), state, weight, None
    if ndim < max(2, own):
        return None
    # Axes before the last two are those of both, counted from the end: groups where the weight has them too.
    outer = _LABELS[: ndim - 2]
    shared = outer[len(outer) - (own - 2) :] if own > 2 else ""
    sizes, theirs = state.meta["val"].shape[-own:-2], weight.meta["val"].shape[:-2]
    if any(not isinstance(size, int) or size != part for size, part in zip(sizes, theirs, strict=True)):
        return None
    x, w, z = (
        (outer + "yz", shared + "xy", outer + "xz") if left is not None else (outer + "xy", shared + "yz", outer + "xz")
    )
    return (*_contraction(x, w, z, weight), state, weight, None)


def _contraction(x: str, w: str, z: str, weight: Node) -> tuple[Contraction]:
    sizes = dict(zip(w, weight.meta["val"].shape, strict=True))
    count = 1
    for label in w:
        count *= sizes[label] if label in x and label in z else 1
    return (Contraction(x, w, z, count),)


def _einsum(node: Node, names: dict[str, str]) -> Parsed | None:
    """A contraction that is written out, of a state and a weight."""
    equation, operands = node.args[:2]
    assert isinstance(equation, str)
    if not isinstance(operands, list | tuple) or len(operands) != 2 or "->" not in equation:
        return None
    inputs, z = equation.replace(" ", "").split("->")
    labels = inputs.split(",")
    found = [seen_through(operand, names) is not None for operand in operands]
    if sum(found) != 1 or "." in labels[found.index(True)]:
        return None
    place = found.index(True)
    state, weight, x, w = operands[1 - place], operands[place], labels[1 - place], labels[place]
    if "..." in x:
        free = [label for label in _LABELS + _LABELS.upper() if label not in equation]
        more = "".join(free[: state.meta["val"].ndim - len(x) + 3])  # type: ignore[union-attr]
        x, z = x.replace("...", more), z.replace("...", more)
    if not Contraction.fits(x, w, z):
        return None
    return (*_contraction(x, w, z, weight), state, weight, None)  # type: ignore[arg-type]
