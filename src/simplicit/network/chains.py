r"""Chains: elementwise operations one after the other on one affine value, which are one function φ together.

``v * sigmoid(v)``, ``where(v > 0, v, 0.1 v)`` or ``0.5 v (1 + erf(v/√2))`` are each *one* elementwise φ of an affine
value v, though torch computes them in several steps. Such steps are gathered until another operation asks for the
result. Then

- a sum, or a product with a number, of what was gathered is affine in its parts, which become states themselves;
- an activation that has a name is an elementwise group of states, with all that is known of it;
- everything else is one block, whose program is the whole chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx import Node

from simplicit.network.affine import Affine
from simplicit.network.expressions import Expression
from simplicit.network.moving import BatchSize
from simplicit.network.trees import leaves, mapped

_NAMES = """
    abs acos acosh add asin asinh atan atanh bitwise_and bitwise_not bitwise_or ceil celu clamp clamp_max clamp_min
    clone cos cosh div elu eq erf erfc exp exp2 expm1 floor frac ge gelu gt hardshrink hardsigmoid hardswish
    hardtanh le leaky_relu log log10 log1p log2 log_sigmoid logical_and logical_not logical_or logit lt masked_fill
    maximum minimum mish mul nan_to_num ne neg pow reciprocal relu relu6 round rsqrt rsub selu sigmoid sign silu sin
    sinc sinh softplus softshrink sqrt square sub tan tanh threshold trunc where xlogy
"""
#: Operations that act on each number by itself, by their names in ``aten`` without overload.
ELEMENTWISE = frozenset(_NAMES.split())
# Steps that are affine in all their operands, and those that are where one operand is a number.
_AFFINE = frozenset(["add", "sub", "rsub", "neg", "clone"])
_FACTORS = frozenset(["mul", "div"])
#: How many steps are looked ahead for one that needs what came before them.
_AHEAD = 6


@dataclass(frozen=True, eq=False)
class Chain:
    """The result of elementwise steps on the affine value ``root``, and the node that computes it."""

    node: Node
    expression: Expression
    root: Affine


def packet(node: Node) -> str:
    """The name of a node's operation without overload; "" for what is no operation of ``aten``."""
    target: Any = node.target
    known = isinstance(target, torch._ops.OpOverload) and target.namespace == "aten"
    return str(target.overloadpacket).removeprefix("aten.") if known else ""


def is_affine_step(node: Node) -> bool:
    """Whether a step is affine in its operands: a sum, or a product with a number."""
    name = packet(node)
    if name in _AFFINE:
        return True
    varying = [one for one in node.args if isinstance(one, Node)]
    return name in _FACTORS and len(varying) == 1 and not node.kwargs and isinstance(node.args[0], Node)


def is_wanted_by_chains(node: Node, ahead: int = _AHEAD) -> bool:
    """Whether a later elementwise step may need how a node's value is made, not only what it is."""
    return ahead > 0 and any(_wants(user, ahead) for user in node.users)


def _wants(user: Node, ahead: int) -> bool:
    if packet(user) not in ELEMENTWISE:
        return False
    return is_wanted_by_chains(user, ahead - 1) if is_affine_step(user) else True


def times_used(node: Node) -> int:
    """How many affine values or groups of states are made of a node's value: one by all chains that begin at it."""
    users = [user for user in node.users if isinstance(user.meta.get("val"), Tensor | list | tuple)]
    begun = [user for user in users if _wants(user, _AHEAD) and _comes_from(user, node, _AHEAD)]
    return len(users) - len(begun) + bool(begun)


def _comes_from(value: Node, root: Node, ahead: int) -> bool:
    """Whether a value is made of another one alone, by elementwise steps."""
    if value is root:
        return True
    given = value.all_input_nodes if packet(value) in ELEMENTWISE and ahead > 0 else []
    return bool(given) and all(_comes_from(one, root, ahead - 1) for one in given)


class Origins:
    """How affine values came out of others by sums and products with numbers, step by step."""

    def __init__(self) -> None:
        # Of values that are in use; a step keeps what it was made of.
        self._steps: WeakKeyDictionary[Affine, tuple[Expression, Affine]] = WeakKeyDictionary()

    def note(self, result: Affine, step: Expression) -> None:
        """Keep that ``result`` is a step of the one affine value in it."""
        parents = [leaf for leaf in _leaves(step) if isinstance(leaf, Affine)]
        if len({id(parent) for parent in parents}) == 1 and parents[0] is not result:
            self._steps[result] = (step, parents[0])

    def ancestors(self, value: Affine) -> Iterator[Affine]:
        """The value itself, what it came out of, and so on."""
        yield value
        while (known := self._steps.get(value)) is not None:
            value = known[1]
            yield value

    def from_root(self, value: Any, root: Affine) -> Any:
        """The value as an expression of one of its ancestors."""
        if value is root or not isinstance(value, Affine | Expression):
            return value
        if isinstance(value, Affine):
            return self.from_root(self._steps[value][0], root)
        args, kwargs = mapped(lambda leaf: self.from_root(leaf, root), (value.args, dict(value.kwargs)))
        return Expression(value.operation, args, kwargs, value.dtype)

    def common_root(self, values: list[Affine]) -> Affine | None:
        """The closest value from which all of them came; None where there is none."""
        others = [{id(one) for one in self.ancestors(value)} for value in values[1:]]
        return next((one for one in self.ancestors(values[0]) if all(id(one) in seen for seen in others)), None)


def chained(node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], origins: Origins) -> Chain | None:
    """The chain that an elementwise step goes on, or begins; None where it is no such step on one affine value."""
    if packet(node) not in ELEMENTWISE:
        return None
    given = list(leaves((args, kwargs)))
    varying = [leaf for leaf in given if isinstance(leaf, Affine | Chain)]
    if not varying or any(_is_strange(leaf) for leaf in given):
        return None
    shape = varying[0].root.shape if isinstance(varying[0], Chain) else varying[0].shape
    roots = [leaf.root if isinstance(leaf, Chain) else leaf for leaf in varying]
    if any(root.shape != shape for root in roots) or (root := origins.common_root(roots)) is None:
        return None

    def rooted(leaf: Any) -> Any:
        if isinstance(leaf, Chain):
            return origins.from_root(leaf.expression, root)
        if isinstance(leaf, Affine):
            return origins.from_root(leaf, root)
        return leaf

    new_args, new_kwargs = mapped(rooted, (args, kwargs))
    value = node.meta.get("val")
    dtype = value.dtype if isinstance(value, Tensor) else None
    return Chain(node, Expression(node.target, new_args, new_kwargs, dtype), root)


def with_root(expression: Expression, root: Affine, other: Expression) -> Expression:
    """The same expression of ``other`` in the place of ``root``."""
    done: dict[int, Any] = {id(root): other}

    def of(value: Any) -> Any:
        if isinstance(value, Expression) and id(value) not in done:
            args, kwargs = mapped(of, (value.args, dict(value.kwargs)))
            done[id(value)] = Expression(value.operation, args, kwargs, value.dtype)
        return done.get(id(value), value)

    made: Expression = of(expression)
    return made


def _is_strange(leaf: Any) -> bool:
    """Whether an argument is none that chains can have: anything but values, single numbers and settings."""
    if isinstance(leaf, Tensor):
        return leaf.numel() != 1 or leaf.ndim > 0
    return isinstance(leaf, BatchSize | Expression | Node)


def _leaves(expression: Expression) -> list[Any]:
    return list(leaves((expression.args, dict(expression.kwargs))))
