"""The operations of a graph's nodes: their names, dtypes, rules and layouts, and what is said where they have none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from simplicit.errors import UnsupportedOperationError
from simplicit.network.affine import Affine, NotAffineError
from simplicit.network.graph import location
from simplicit.network.layouts import Layout
from simplicit.network.registry import ADVICE, EXPERTS_REMEDY, REGISTRY, spelled, summary
from simplicit.network.rewrites import REFUSALS, REWRITES
from simplicit.network.rules import Call, Rule
from simplicit.network.trees import leaves

#: Random only where they drop out, which shows when they are run.
RANDOM_WITH_DROPOUT = frozenset({"scaled_dot_product_attention", "lstm", "gru", "rnn_tanh", "rnn_relu"})
# Operations that act on the last dimension alone, those that broadcast from it, and those that act on each number.
_LAST = frozenset({"linear", "matmul", "mm"})
_BROADCAST = frozenset({"add", "sub", "rsub", "mul", "div", "neg"})
_UNARY = frozenset({"dropout", "feature_dropout", "alpha_dropout", "_to_copy", "type_as"})
# What the model rounds to at its end holds whatever a network computes in its own dtype or in a wider one.
# Where transformers sorts tokens by their experts.
_EXPERTS = "experts_forward(self"
_WIDE_ENOUGH = {"float32": (torch.float32, torch.float64), "float64": (torch.float64,)}


def folded(call: Call) -> Any:
    """What torch computes where nothing depends on the input."""
    if torch.Tag.nondeterministic_seeded in getattr(call.operation, "tags", ()):
        raise NotAffineError("it is random")
    with torch.no_grad():
        return call.operation(*call.args, **call.kwargs)


def common_layout(name: str, args: Any, kwargs: Any) -> Layout | None:
    """The layout that an operation's operands share and its result has; NotAffineError where there is none."""
    given = list(leaves((args, kwargs)))
    affine = [leaf for leaf in given if isinstance(leaf, Affine)]
    layouts = {leaf.layout for leaf in affine}
    if layouts <= {None}:
        return None
    layout = next(iter(layouts))
    constants = [leaf.ndim for leaf in given if isinstance(leaf, Tensor)]
    if len(layouts) > 1 or layout is None:
        raise NotAffineError("its operands have their samples in different places")
    right = min(layout.right(leaf.shape) for leaf in affine)
    of_last = name in _LAST and right >= 1 and args[0] is affine[0] and max(constants, default=0) <= 2
    broadcast = name in _BROADCAST and max(constants, default=0) <= right
    same = len({leaf.shape for leaf in affine}) == 1
    if not (of_last or (broadcast and same) or len(given) == 1 or name in _UNARY):
        raise NotAffineError("its samples are not the first dimension")
    return layout


def laid_out(leaf: Any, layout: Layout | None) -> Any:
    """An argument of a call, in another layout if it is an affine value."""
    return leaf.laid_out(layout) if isinstance(leaf, Affine) else leaf


def rule_of(node: Node) -> Rule:
    """The rule of an operation; NotAffineError where there is none."""
    rule = REGISTRY.get(name_of(node))
    if rule is None:
        raise NotAffineError(reason_against(node))
    return rule


def reason_against(node: Node) -> str:
    """Why an operation has no affine rule."""
    if REGISTRY.get(name_of(node)) is None:
        packet = getattr(node.target, "overloadpacket", None)
        reason = REFUSALS.get(node.target) or ADVICE.get(name_of(node), "there is no entry for it in the registry")
        if any(packet == known.overloadpacket for known in REWRITES) and node.target not in REWRITES:
            reason = f"of this operation, the form {spelled(node.target)!r} is not known; {reason}"
        return str(reason)
    return "it is not affine in what it is given"


def dtypes_of(node: Node) -> list[torch.dtype]:
    """The dtypes of the tensors that a node computes."""
    return [leaf.dtype for leaf in leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]


def check_dtypes(dtypes: Iterable[torch.dtype], own: np.dtype[Any]) -> None:
    """Refuse what torch computes in a dtype that truncates, wraps or rounds what the network's own keeps."""
    for dtype in dtypes:
        if dtype not in _WIDE_ENOUGH[str(own)]:
            name = str(dtype).removeprefix("torch.")
            raise NotAffineError(f"it computes in {name}, while the network is in {own}")


def name_of(node: Node) -> str:
    """The operation as the registry calls it: "relu" for aten.relu.default, "own.op" for another library's."""
    return spelled(getattr(node.target, "overloadpacket", getattr(node.target, "__name__", node.target)))


def unsupported(node: Node, reason: str) -> UnsupportedOperationError:
    """The error that says where an operation stands and why it has no implicit form."""
    name, where = name_of(node), location(node)
    if name in ("sort", "argsort") and _EXPERTS in (node.meta.get("stack_trace") or ""):
        reason += f"; experts sort the tokens of all samples there, {EXPERTS_REMEDY}"
    message = f"operation {name!r} ({where}) has no exact implicit form: {reason}. {summary(name)}"
    return UnsupportedOperationError(message, operation=name, where=where)
