r"""What an operation says of the elements that it is given, and of their axes.

Two things are asked of it. *Which elements of its result depend on which elements of an operand?* The answer is a
linear map with entries ≥ 0, given as a function of a pattern, a tensor ≥ 0 like the operand: its result is positive
where something depends on an element where the pattern is positive. A factor that is zero cuts that, so that a weight
of zero, or a gate that is closed for good, hands nothing on. Forwards such maps say what varies with the inputs;
transposed, by autograd, what is read of each value.

*Which places along which axes stay together?* Values lose places along axes, so that they remain tensors: a channel, a
neuron, a head. An axis of an operand and one of the result that are ``linked`` keep the same places; one that is
``fixed`` keeps all; one that is summed over keeps those that are ``needed``. :meth:`Rule.grow` says the rest. What
an operation needs beside that, sizes that are smaller and the like, is in its new ``arguments``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from simplicit.network.kinds import arguments_of, axes_of, image_rank
from simplicit.network.trees import leaves

#: An axis of a node's value.
Place = tuple[Node, int]
#: For each axis of a value which places are kept, (length,) booleans.
Axes = list[Tensor]
Kept = Mapping[Node, Axes]


@dataclass(eq=False)
class Facts:
    """What is known of a program's nodes: values, and for each of their elements whether it varies and is read.

    Patterns of nodes with several results are one number for all of them.
    """

    values: dict[Node, Any]
    varies: dict[Node, Tensor]
    read: dict[Node, Tensor]

    def pattern(self, node: Node) -> Tensor:
        """1 where an element may differ from zero, else 0."""
        found: Tensor = self.varies[node] | (self.values[node] != 0)
        return found.float()

    def constant(self, node: Node, axis: int) -> tuple[Tensor, Tensor]:
        """Along an axis: where all elements are the same constant, (length,) booleans, and its value."""
        value = rows(self.values[node], axis)
        varies = rows(self.varies[node], axis).any(1)
        return ~varies & (value == value[:, :1]).all(1), value[:, 0]


class Rule:
    """An operation of which nothing is known: everything depends on everything, and stays."""

    def __init__(self, node: Node, facts: Facts) -> None:
        self.node, self.facts = node, facts
        self.given = arguments_of(node) if hasattr(node.target, "_schema") else {}
        operands = [one for one in leaves((node.args, dict(node.kwargs))) if isinstance(one, Node)]
        self.operands = [one for one in operands if isinstance(facts.values[one], Tensor)]
        self.value = facts.values[node]

    def depends(self, number: int, pattern: Tensor) -> Tensor:
        """A pattern of the result from one of an operand."""
        total = pattern.sum()
        return total.expand(self.value.shape) if isinstance(self.value, Tensor) else total

    def links(self) -> Iterator[tuple[Place, Place]]:
        """Axes that keep the same places."""
        return iter(())

    def fixed(self) -> Iterator[Place]:
        """Axes that keep all places."""
        for node in (*self.operands, self.node):
            if isinstance(self.facts.values[node], Tensor):
                yield from ((node, axis) for axis in range(self.facts.values[node].ndim))

    def needs(self) -> Iterator[tuple[Place, Tensor]]:
        """Axes, and the places that they keep at least."""
        return iter(())

    def grow(self, kept: Kept) -> Iterator[tuple[Node, Axes]]:
        """Places that nodes keep as others do."""
        return iter(())

    def arguments(self, kept: Kept) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments when operands and result have the places that are kept."""
        return self.node.args, dict(self.node.kwargs)

    def folded(self, kept: Kept) -> tuple[int, Node | None, Tensor] | None:
        """What constants that are gone add to a bias, (channels,): with its place among the arguments, and itself."""
        return None

    def _linked(self, operand: Node) -> Iterator[tuple[Place, Place]]:
        """The axes of an operand and those of the result, aligned from the right, but for those that are broadcast."""
        shape, own = self.facts.values[operand].shape, self.value.shape
        for back in range(1, len(shape) + 1):
            if shape[-back] == own[-back]:
                yield (operand, len(shape) - back), (self.node, len(own) - back)


class Numbers(Rule):
    """An operation on each number, its operands broadcast."""

    def depends(self, number: int, pattern: Tensor) -> Tensor:
        if str(self.node.target).startswith(("aten.mul.", "aten.div.")) and len(self.operands) == 2:
            other = self.operands[1 - number]
            if number == 1 or "mul" in str(self.node.target):
                pattern = pattern * self.facts.pattern(other)
        return pattern.broadcast_to(self.value.shape)

    def links(self) -> Iterator[tuple[Place, Place]]:
        for operand in self.operands:
            yield from self._linked(operand)

    def fixed(self) -> Iterator[Place]:
        return iter(())

    def arguments(self, kept: Kept) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return sized(self, kept)


class Channels(Rule):
    """Numbers with parameters for each channel, the second axis: a batch norm, a PReLU."""

    def depends(self, number: int, pattern: Tensor) -> Tensor:
        if number == 0:
            weight = self.given.get("weight")
            normed = "running_mean" in self.given and isinstance(weight, Node)
            return pattern * self._spread(self.facts.pattern(weight)) if normed else pattern  # type: ignore[arg-type]
        return self._spread(pattern).expand(self.value.shape)

    def _spread(self, pattern: Tensor) -> Tensor:
        return pattern.reshape(1, -1, *[1] * (self.value.ndim - 2))

    def links(self) -> Iterator[tuple[Place, Place]]:
        yield from self._linked(self.operands[0])
        for operand in self.operands[1:]:
            if self.facts.values[operand].numel() == self.value.shape[1]:
                yield (operand, 0), (self.node, 1)

    def fixed(self) -> Iterator[Place]:
        return iter(())


class Along(Rule):
    """Something that is computed along some axes: a sum, a softmax, a norm of each sample."""

    def _axes(self) -> list[int]:
        ndim = self.facts.values[self.operands[0]].ndim
        if rank := image_rank(self.node):
            return [*range(ndim - rank, ndim)]
        return axes_of(self.node, self.given, ndim)

    def depends(self, number: int, pattern: Tensor) -> Tensor:
        if number:  # the weights of a norm
            return pattern.expand(self.value.shape)
        axes = self._axes()
        whole = pattern.sum(axes, keepdim=True) if axes else pattern
        weight = self.given.get("weight")
        if isinstance(weight, Node):
            whole = whole * self.facts.pattern(weight)
        return (whole if self.value.ndim == whole.ndim or not axes else whole.squeeze(axes)).expand(self.value.shape)

    def links(self) -> Iterator[tuple[Place, Place]]:
        axes, (operand, *_) = self._axes(), self.operands
        ndim = self.facts.values[operand].ndim
        left = [axis for axis in range(ndim) if axis not in axes]
        own = left if self.value.ndim == ndim else range(len(left))
        yield from (((operand, axis), (self.node, place)) for axis, place in zip(left, own, strict=True))

    def fixed(self) -> Iterator[Place]:
        axes, (operand, *others) = self._axes(), self.operands
        yield from ((operand, axis) for axis in axes)
        if self.value.ndim == self.facts.values[operand].ndim:
            yield from ((self.node, axis) for axis in axes)
        for other in others:
            yield from ((other, axis) for axis in range(self.facts.values[other].ndim))


class Moved(Rule):
    """Elements change places, or are joined; which, is seen by doing it to patterns."""

    def _moved(self, patterns: Mapping[int, Tensor]) -> Tensor:
        """The result for some operands, and zeros for the others that move."""
        numbers = iter(range(len(self.operands)))

        def given(one: Node) -> Any:
            value = self.facts.values[one]
            if not isinstance(value, Tensor):
                return value
            number = next(numbers)
            if number in self.still:
                return value
            return patterns[number] if number in patterns else torch.zeros(value.shape)

        args, kwargs = map_arg((self.node.args, dict(self.node.kwargs)), given)
        result: Tensor = self.node.target(*args, **kwargs)  # type: ignore[operator]
        return result

    @property
    def still(self) -> frozenset[int]:
        """The operands that say where others go, and do not move."""
        indices = {one for name in ("index", "indices") for one in leaves(self.given.get(name)) if one is not None}
        return frozenset(number for number, one in enumerate(self.operands) if one in indices)

    def depends(self, number: int, pattern: Tensor) -> Tensor:
        return self._moved({number: pattern})

    def fixed(self) -> Iterator[Place]:
        for number in self.still:
            value = self.facts.values[self.operands[number]]
            yield from ((self.operands[number], axis) for axis in range(value.ndim))

    def grow(self, kept: Kept) -> Iterator[tuple[Node, Axes]]:
        moving = [number for number in range(len(self.operands)) if number not in self.still]
        boxes = {number: box(kept[self.operands[number]]).requires_grad_() for number in moving}
        with torch.enable_grad():
            result = self._moved(boxes)
        yield self.node, along_axes(result.detach() > 0)
        if result.requires_grad:
            like = box(kept[self.node]).expand(result.shape)
            found = torch.autograd.grad(result, [*boxes.values()], like, allow_unused=True)
            for number, pattern in zip(boxes, found, strict=True):
                if pattern is not None:
                    yield self.operands[number], along_axes(pattern > 0)

    def arguments(self, kept: Kept) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return sized(self, kept)


class Halves(Moved):
    """A gated linear unit, of two halves along an axis."""

    def _moved(self, patterns: Mapping[int, Tensor]) -> Tensor:
        return sum(patterns[0].chunk(2, self.given.get("dim", -1)))  # type: ignore[return-value]


class Lookup(Rule):
    """An embedding: rows of a table, by numbers that may vary."""

    def depends(self, number: int, pattern: Tensor) -> Tensor:
        table = self.facts.values[self.operands[0]]
        if number == 0:
            return pattern.sum(0).expand(self.value.shape)
        differs: Tensor = (table != table[:1]).any(0) | self.facts.varies[self.operands[0]].any(0)
        return (pattern.unsqueeze(-1) * differs.float()).expand(self.value.shape)

    def links(self) -> Iterator[tuple[Place, Place]]:
        yield (self.operands[0], 1), (self.node, self.value.ndim - 1)

    def fixed(self) -> Iterator[Place]:
        yield self.operands[0], 0
        yield from ((self.operands[1], axis) for axis in range(self.value.ndim - 1))
        yield from ((self.node, axis) for axis in range(self.value.ndim - 1))


def box(axes: Axes) -> Tensor:
    """A pattern (…) of ones where all axes keep a place, else zeros."""
    pattern = torch.ones([len(kept) for kept in axes])
    for axis, kept in enumerate(axes):
        pattern *= kept.float().reshape([-1 if place == axis else 1 for place in range(len(axes))])
    return pattern


def rows(value: Tensor, axis: int) -> Tensor:
    """A value as a matrix, (length, others), with a row for each place along an axis."""
    moved = value.movedim(axis, 0)
    return moved.reshape(len(moved), -1 if moved.numel() else 0)


def along_axes(pattern: Tensor) -> Axes:
    """For each axis the places at which a pattern has anything."""
    return [rows(pattern, axis).any(1) for axis in range(pattern.ndim)]


def cut(value: Tensor, axes: Axes) -> Tensor:
    """What is left of a value when its axes keep some places."""
    for axis, kept in enumerate(axes):
        if not bool(kept.all()):
            value = value.index_select(axis, kept.nonzero().flatten())
    return value


def sized(rule: Rule, kept: Kept) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an operation with sizes in them, or with places along an axis, when some are gone."""
    args, kwargs = list(rule.node.args), dict(rule.node.kwargs)
    name, own = str(rule.node.target), kept[rule.node]
    if name.startswith(("aten.reshape.", "aten.expand.")):
        lengths = rule.value.shape
        sizes = [_size(one, lengths[place], own[place]) for place, one in enumerate(args[1])]  # type: ignore[arg-type]
        args[1] = sizes
    if name in ("aten.slice.Tensor", "aten.select.int") and len(args) > 1:
        operand = kept[rule.operands[0]]
        axis = int(args[1]) % len(operand)  # type: ignore[arg-type]
        if not bool(operand[axis].all()):
            # Of a place that is counted from the end, so many are before it.
            args[2:] = [_before(operand[axis], one) if isinstance(one, int) else one for one in args[2:4]] + args[4:]
    return tuple(args), kwargs


def _before(kept: Tensor, place: int) -> int:
    """How many places are kept before one."""
    return int(kept[:place].sum())


def _size(size: Any, length: int, kept: Tensor) -> Any:
    """A size that is now what is kept of a length; one that depends on the number of samples is inferred."""
    count = int(kept.sum())
    if count == length or size == -1:
        return size
    return count if isinstance(size, int) else -1
