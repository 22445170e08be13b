r"""What products and convolutions say of the elements that they are given (see :mod:`~.rules`).

z = Σₖ x_k y_k + b over what is summed keeps the places k at which neither factor is zero for good, and of which a row
that is read has a product. Where y is a weight and x_k a constant c at all positions, W_k c goes into the bias instead.
A convolution that pads with zeros sees no constant at its border, so that c must be zero there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from simplicit.runtime.compaction.rules import Axes, Facts, Kept, Place, Rule, rows

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Product(Rule):
    """A sum of products of two operands, in the letters of an einsum, and perhaps a term that is added."""

    def __init__(self, node: Node, facts: Facts) -> None:
        super().__init__(node, facts)
        first = 1 if node.target in (torch.ops.aten.addmm.default,) else 0
        self.factors = self.operands[first : first + 2]
        self.added = next((one for one in self.operands if one not in self.factors), None)
        self.terms, self.result = self._letters()

    def _letters(self) -> tuple[list[str], str]:
        x, y = (self.facts.values[one].ndim for one in self.factors)
        if "einsum" in str(self.node.target):
            inputs, _, result = str(self.node.args[0]).replace(" ", "").partition("->")
            return inputs.split(","), result
        k, i, j, batch = "k", "i", "j", _LETTERS[11:]
        if "linear" in str(self.node.target):
            left = batch[: x - 1]
            return [left + k, j + k], left + j
        left, right = batch[: max(x, y) - 2][::-1], "" if y == 1 else j
        many = max(x, y) - 2
        one = left[many - (x - 2) :] + i + k if x > 1 else k
        other = left[many - (y - 2) :] + k + j if y > 1 else k
        return [one, other], (left if many > 0 else "") + (i if x > 1 else "") + right

    def _places(self, letter: str) -> list[Place]:
        """Where a letter stands, but for axes that are broadcast."""
        found = [
            (node, term.index(letter))
            for node, term in (*zip(self.factors, self.terms, strict=True), (self.node, self.result))
            if letter in term
        ]
        sizes = [self.facts.values[node].shape[axis] for node, axis in found]
        return [place for place, size in zip(found, sizes, strict=True) if size == max(sizes)]

    def depends(self, number: int, pattern: Tensor) -> Tensor:
        operand = self.operands[number]
        if operand is self.added:
            return pattern.broadcast_to(self.value.shape)
        one = self.factors.index(operand) if self.operands.count(operand) == 1 else number
        other = self.facts.pattern(self.factors[1 - one])
        pair = (pattern, other) if one == 0 else (other, pattern)
        return torch.einsum(f"{','.join(self.terms)}->{self.result}", *pair)

    def links(self) -> Iterator[tuple[Place, Place]]:
        for letter in sorted({*"".join(self.terms)}):
            first, *others = self._places(letter)
            yield from ((first, other) for other in others)
        if self.added is not None:
            yield from self._linked(self.added)

    def fixed(self) -> Iterator[Place]:
        return iter(())

    def needs(self) -> Iterator[tuple[Place, Tensor]]:
        x, y = (self.facts.pattern(one) for one in self.factors)
        if self._folds():
            axis = self.terms[0].index("k")
            constant, _ = self.facts.constant(self.factors[0], axis)
            x = x * (~constant).float().reshape([-1 if place == axis else 1 for place in range(x.ndim)])
        read = self.facts.read[self.node].float()
        for letter in sorted({*"".join(self.terms)} - {*self.result}):
            used = x * torch.einsum(f"{self.result},{self.terms[1]}->{self.terms[0]}", read, y) > 0
            places = rows(used, self.terms[0].index(letter)).any(1)
            yield from ((place, places) for place in self._places(letter))

    def _folds(self) -> bool:
        """Whether constants can go into a bias."""
        name, (x, weight) = str(self.node.target), self.factors
        plain = "linear" in name or ("addmm" in name and not self.node.kwargs and len(self.node.args) == 3)
        return plain and x is not weight and not bool(self.facts.varies[weight].any())

    def folded(self, kept: Kept) -> tuple[int, Node | None, Tensor] | None:
        if not self._folds():
            return None
        x, weight = self.factors
        term, own = self.terms
        gone = ~kept[x][term.index("k")]
        constant, values = self.facts.constant(x, term.index("k"))
        matrix = self.facts.values[weight]
        columns = (matrix if own[1] == "k" else matrix.T)[kept[weight][own.index("j")]][:, gone]
        added = columns @ torch.where(constant, values, 0.0)[gone]
        place = 2 if "linear" in str(self.node.target) else 0
        return (place, self.added, added) if bool(added.any()) else None


class Convolution(Rule):
    """A convolution of rank r, or a transposed one, with a weight that does not vary."""

    def __init__(self, node: Node, facts: Facts) -> None:
        super().__init__(node, facts)
        self.transposed = "transpose" in str(node.target)
        self.groups = int(self.given.get("groups", 1))
        self.x, self.weight, *_ = self.operands
        bias = self.given.get("bias")
        self.bias = bias if isinstance(bias, Node) else None
        self.rank = facts.values[self.weight].ndim - 2

    def _axis(self, role: str) -> int:
        """The axis of the weight that belongs to what comes out or goes in."""
        return int((role == "out") == self.transposed)

    def depends(self, number: int, pattern: Tensor) -> Tensor:
        x, weight = (self.facts.pattern(one) for one in (self.x, self.weight))
        if number == 2:
            return pattern.reshape(1, -1, *[1] * self.rank).expand(self.value.shape)
        given: dict[str, Any] = {**self.given, "bias": None, "input": x, "weight": weight}
        given["input" if number == 0 else "weight"] = pattern
        return self.node.target(**given)  # type: ignore[operator, no-any-return]

    def links(self) -> Iterator[tuple[Place, Place]]:
        yield (self.x, 0), (self.node, 0)
        if not self.transposed or self.groups == 1:
            yield (self.weight, self._axis("out")), (self.node, 1)
        if self.groups == 1:
            yield (self.weight, self._axis("in")), (self.x, 1)
        if self.bias is not None:
            yield (self.bias, 0), (self.node, 1)

    def fixed(self) -> Iterator[Place]:
        for node in (self.x, self.weight, self.node):
            yield from ((node, 2 + axis) for axis in range(self.rank))
        if self.groups > 1:
            yield self.weight, 1
            if self.transposed:
                yield from ((self.x, 1), (self.weight, 0), (self.node, 1))

    def _padded(self) -> bool:
        padding = self.given.get("padding", 0)
        return self.transposed or padding not in ("valid", 0, [0] * self.rank, [0])

    def _constant(self) -> tuple[Tensor, Tensor]:
        """The channels that come in as constants that a bias takes, and their values."""
        constant, values = self.facts.constant(self.x, 1)
        return (constant & (values == 0) if self._padded() else constant), values

    def needs(self) -> Iterator[tuple[Place, Tensor]]:
        if self.groups > 1:
            return
        constant, _ = self._constant()
        read = rows(self.facts.read[self.node], 1).any(1).float()
        taps = self.facts.pattern(self.weight).flatten(2).sum(2)
        used = read @ (taps.T if self.transposed else taps)
        yield (self.x, 1), (used > 0) & ~constant

    def grow(self, kept: Kept) -> Iterator[tuple[Node, Axes]]:
        """A group of channels goes as a whole, where nothing of it is kept."""
        if self.groups == 1 or self.transposed:
            return
        left = [kept[one][1].reshape(self.groups, -1).any(1) for one in (self.x, self.node)]
        for one in (self.x, self.node):
            axes = [torch.zeros_like(axis) for axis in kept[one]]
            axes[1] = (left[0] | left[1]).repeat_interleave(len(axes[1]) // self.groups)
            yield one, axes

    def arguments(self, kept: Kept) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.groups == 1:
            return super().arguments(kept)
        left = int(kept[self.node][1].sum()) * self.groups // len(kept[self.node][1])
        args = [left if name == "groups" else one for name, one in zip(self.given, self.node.args, strict=False)]
        kwargs = {name: left if name == "groups" else one for name, one in self.node.kwargs.items()}
        return tuple(args), kwargs

    def folded(self, kept: Kept) -> tuple[int, Node | None, Tensor] | None:
        gone = ~kept[self.x][1]
        constant, values = self._constant()
        if self.groups > 1 or self.transposed or not bool((constant & gone & (values != 0)).any()):
            return None
        left = self.facts.values[self.weight][kept[self.node][1]][:, gone].flatten(2).sum(2)
        return 2, self.bias, left @ torch.where(constant, values, 0.0)[gone]


class Attention(Rule):
    """Scaled dot product attention, softmax(Q Kᵀ / √e + mask) V, with Q (…, l, e), K (…, s, e) and V (…, s, v)."""

    def _roles(self) -> list[str]:
        roles = ["query", "key", "value", "attn_mask"]
        return [role for role in roles if isinstance(self.given.get(role), Node)]

    def _pattern(self, role: str) -> Tensor:
        return self._heads(self.facts.pattern(self.given[role]))

    def _heads(self, pattern: Tensor) -> Tensor:
        heads = self.value.shape[-3] if self.value.ndim > 2 else 1
        few = self.given.get("enable_gqa") and pattern.ndim > 2 and pattern.shape[-3] != heads
        return pattern.repeat_interleave(heads // pattern.shape[-3], -3) if few else pattern

    def depends(self, number: int, pattern: Tensor) -> Tensor:
        role, pattern = self._roles()[number], self._heads(pattern)
        if role == "value":
            return pattern.sum(-2, keepdim=True).expand(self.value.shape)
        values = self._pattern("value").amax(-2, keepdim=True)
        if role == "attn_mask":
            scores = pattern.sum(-1, keepdim=True)
        else:
            pair = (pattern, self._pattern("key")) if role == "query" else (self._pattern("query"), pattern)
            scores = (pair[0] * pair[1].sum(-2, keepdim=True)).sum(-1, keepdim=True)
        return (scores * values).expand(self.value.shape)

    def _few(self) -> bool:
        """Whether several heads of queries share those of keys and values."""
        shapes = {tuple(self.facts.values[self.given[role]].shape[:-2]) for role in ("query", "key", "value")}
        return len(shapes) > 1

    def links(self) -> Iterator[tuple[Place, Place]]:
        last = self.value.ndim - 1
        for role in self._roles():
            for one, own in self._linked(self.given[role]):
                if one[1] < self.facts.values[one[0]].ndim - 2:
                    yield one, own
        yield (self.given["query"], last), (self.given["key"], last)
        yield (self.given["value"], last), (self.node, last)

    def fixed(self) -> Iterator[Place]:
        for role in self._roles():
            node = self.given[role]
            ndim = self.facts.values[node].ndim
            yield node, ndim - 2
            if role == "attn_mask":
                yield node, ndim - 1
            if self._few():
                yield from ((node, axis) for axis in range(ndim - 2))
        if self._few():
            yield from ((self.node, axis) for axis in range(self.value.ndim - 2))
        yield self.node, self.value.ndim - 2

    def needs(self) -> Iterator[tuple[Place, Tensor]]:
        both = [self._pattern(role).sum(-2) for role in ("query", "key")]
        read = self.facts.read[self.node].flatten(-2).any(-1)
        used = (both[0] * both[1]).expand(*read.shape, -1)[read]
        yield (self.given["query"], self.value.ndim - 1), (used > 0).any(0)

    def arguments(self, kept: Kept) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = super().arguments(kept)
        axis = kept[self.given["query"]][-1]
        if self.given.get("scale") is None and not bool(axis.all()):
            kwargs["scale"] = len(axis) ** -0.5
        return args, kwargs
