r"""Values that a network compares with what it has made of them, such as x == max(x) or x >= the k-th largest.

Rounding decides such a comparison, so that both sides have to come from the same bits. A value that both are made of is
kept as states of its own, which both read, and a maximum stays torch's own operation: a + ReLU(b - a) may differ from
it in the last bit.
"""

from __future__ import annotations

from torch import Tensor
from torch.fx import Graph, Node

_COMPARISONS = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])


def compared(graph: Graph) -> set[Node]:
    """The nodes from which both sides of a comparison come, and where the ways to them part."""
    found: set[Node] = set()
    for node in graph.nodes:
        if _is_comparison(node):
            both = set.intersection(*map(_ancestors, node.all_input_nodes))
            found |= {one for one in both if any(user not in both for user in one.users)}
    return found


def _is_comparison(node: Node) -> bool:
    """Whether a node compares two floating-point tensors of the graph."""
    name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
    values = [one.meta.get("val") for one in node.args if isinstance(one, Node)]
    return name in _COMPARISONS and len(values) == 2 and all(_floats(value) for value in values)


def _floats(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _ancestors(node: Node) -> set[Node]:
    """A node, and all that it is computed from."""
    seen, waiting = {node}, [node]
    while waiting:
        new = [one for one in waiting.pop().all_input_nodes if one not in seen]
        seen.update(new)
        waiting += new
    return seen
