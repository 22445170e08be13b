r"""What follows a layer in the graph: its bias, a batch norm, and the sum with a skip path.

A bias may be added by an operation of its own (``addmm`` comes apart into a product and a sum). Between a layer and the
sum with its skip path a value is often only laid out anew, as the output of an attention is, or every channel is
multiplied by a gain γ of its own (LayerScale): what is added is laid out backwards then, and divided by γ, to be
compared with the layer's own result. Where γ is nearly zero, the layer does not answer for the error of the skip path.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

_aten = torch.ops.aten

#: Batch norms in evaluation mode, with the place of ε among their arguments.
NORMS = {_aten._native_batch_norm_legit_no_training.default: 6, _aten.batch_norm.default: 7}
_RESHAPES = {
    *(_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.flatten.using_ints),
    *(_aten.unflatten.int, _aten.unsqueeze.default, _aten.squeeze.dim, _aten.squeeze.dims, _aten.squeeze.default),
}
_COPIES = {_aten.clone.default, _aten.contiguous.default, _aten.alias.default, _aten.dropout.default}
_TURNS = {_aten.transpose.int, _aten.permute.default, _aten.t.default}
#: The error of a skip path is left alone where a gain is below this share of the layer's largest.
LEAST_GAIN = 1e-2
#: Operations that lay a value out anew.
LAYING = _RESHAPES | _COPIES | _TURNS


@dataclass(frozen=True)
class Norm:
    """The batch normalisation right after a layer, y = γ(z − μ)/√(v + ε) + β, with statistics of its own.

    ``weight``, ``mean`` and ``variance`` are the placeholders of γ, μ and v, and ``result`` is y.
    """

    weight: str | None
    mean: str
    variance: str
    eps: float
    result: Node


@dataclass(frozen=True, eq=False)
class Skip:
    """What is added to a layer's result, and how this was laid out or multiplied by gains before, step by step."""

    node: Node
    steps: tuple[Node, ...]

    def back(self, value: Tensor, constants: Mapping[str, Tensor]) -> Tensor:
        """A value in the layout and units of the sum, in those of the layer's result."""
        for step in reversed(self.steps):
            gain = _gain_of(step, constants)
            value = _laid_back(step, value) if gain is None else value * inverse_gain(gain)
        return value


def only_user(node: Node) -> Node | None:
    """The only node that reads a value."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def added_bias(node: Node) -> tuple[Node, Node] | None:
    """The vector that a sum right after a product adds to its last axis, a placeholder, and the sum."""
    before, user = node, only_user(node)
    while user is not None and _is_once(user):
        before, user = user, only_user(user)
    if user is None or user.target is not _aten.add.Tensor or user.kwargs.get("alpha", 1) != 1:
        return None
    others = [part for part in user.args[:2] if part is not before]
    if len(others) != 1 or not isinstance(others[0], Node):
        return None
    bias = others[0]
    while _is_once(bias):
        bias = bias.all_input_nodes[0]
    if bias.op != "placeholder" or tuple(bias.meta["val"].shape) != (node.meta["val"].shape[-1],):
        return None
    return bias, user


def norm_after(node: Node) -> Norm | None:
    """The batch norm that alone reads a layer's result and whose statistics no other node reads."""
    user = only_user(node)
    if user is None or user.target not in NORMS or user.args[0] is not node:
        return None
    _, weight, _, mean, variance = user.args[:5]
    eps = user.args[NORMS[user.target]]
    result: Node | None = user
    if user.target is _aten._native_batch_norm_legit_no_training.default:
        result = only_user(user)
        if result is None or result.target is not operator.getitem or result.args[1] != 0:
            return None
    if result is None or not (isinstance(mean, Node) and isinstance(variance, Node)):
        return None
    if any(part.op != "placeholder" or len(part.users) != 1 for part in (mean, variance)):
        return None
    assert isinstance(eps, float)
    return Norm(weight.name if isinstance(weight, Node) else None, mean.name, variance.name, eps, result)


def skip_after(node: Node) -> Skip | None:
    """What is added to a node's value where it is only read by a sum, laid out anew or not."""
    steps: list[Node] = []
    after, user = node, only_user(node)
    while user is not None and _is_step(user, after):
        steps.append(user)
        after, user = user, only_user(user)
    if user is None or user.target is not _aten.add.Tensor or user.kwargs.get("alpha", 1) != 1:
        return None
    others = [part for part in user.args[:2] if part is not after]
    if len(others) != 1 or not isinstance(others[0], Node):
        return None
    if any(open_shape(step).count(-1) > 1 for step in (node, *steps)):
        return None
    value = others[0].meta.get("val")
    return (
        Skip(others[0], tuple(steps)) if isinstance(value, Tensor) and value.shape == after.meta["val"].shape else None
    )


def _is_step(user: Node, before: Node) -> bool:
    """Whether a node lays out a value anew, or multiplies its channels by constants."""
    if user.target in LAYING or _is_once(user):
        return user.args[0] is before
    if user.target is not _aten.mul.Tensor or before not in user.args[:2]:
        return False
    gains = [one for one in user.args[:2] if one is not before]
    same = user.meta["val"].shape == before.meta["val"].shape
    return same and len(gains) == 1 and _vector(gains[0]) is not None


def _vector(node: Any) -> tuple[Node, list[Node]] | None:
    """The placeholder of a constant, and how it is laid out, where it has one number for each channel at most."""
    steps: list[Node] = []
    while isinstance(node, Node) and node.target in _RESHAPES | _COPIES:
        steps.append(node)
        node = node.args[0]
    if not isinstance(node, Node) or node.op != "placeholder" or not isinstance(node.meta.get("val"), Tensor):
        return None
    sizes = node.meta["val"].shape
    whole = all(isinstance(size, int) for size in sizes)
    return (node, steps[::-1]) if whole and sum(size > 1 for size in sizes) <= 1 else None


def _gain_of(step: Node, constants: Mapping[str, Tensor]) -> Tensor | None:
    """The gains by which a step multiplies, as they are laid out; None where it does something else."""
    if step.target is not _aten.mul.Tensor or _is_once(step):
        return None
    (placeholder, steps), *_ = [found for one in step.args[:2] if (found := _vector(one)) is not None]
    value = constants[placeholder.name]
    for one in steps:
        value = laid_out(one, value)
    return value


def inverse_gain(gain: Tensor) -> Tensor:
    """1/γ; 0 where γ is nearly zero beside the largest."""
    return torch.where(gain.abs() > LEAST_GAIN * gain.abs().max(), 1 / gain, 0.0)


def laid_out(step: Node, value: Tensor) -> Tensor:
    """What one of the ``LAYING`` operations makes of a value of any number of samples."""
    if step.target in _COPIES or _is_once(step):
        return value
    if step.target in _TURNS:
        return value.permute(_order(step))
    return value.reshape(open_shape(step))


def _laid_back(step: Node, value: Tensor) -> Tensor:
    before = step.args[0]
    assert isinstance(before, Node)
    if step.target in _COPIES or _is_once(step):
        return value
    if step.target in _TURNS:
        order = _order(step)
        return value.permute([order.index(axis) for axis in range(len(order))])
    return value.reshape(open_shape(before))


def _order(step: Node) -> list[int]:
    """The axes of the operand in the order of the result's."""
    ndim = step.meta["val"].ndim
    if step.target is _aten.permute.default:
        return [axis % ndim for axis in step.args[1]]  # type: ignore[union-attr]
    order = list(range(ndim))
    one, other = (0, 1) if step.target is _aten.t.default else step.args[1:3]
    order[one], order[other] = order[other], order[one]  # type: ignore[index]
    return order


def open_shape(node: Node) -> list[int]:
    """The shape of a node's value, with −1 where it depends on the number of samples."""
    return [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]


def _is_once(node: Any) -> bool:
    """Whether it is a product with 1."""
    return node.target is _aten.mul.Tensor and 1 in node.args and len(node.all_input_nodes) == 1
