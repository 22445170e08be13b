"""Which layers of a network make the pre-activations of a group of states, by the names that the network gives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch.fx import Node

from simplicit.network.graph import NetworkGraph
from simplicit.network.reading import OpenedGroup

#: What the rows of the outputs are called.
OUTPUT = "output"


def layers_behind(graph: NetworkGraph, groups: Mapping[Node, OpenedGroup]) -> dict[str, tuple[str, ...]]:
    """The modules whose weight matrices lie between a group of states and those before it, by the group's name.

    The outputs are one group more, ``"output"``. Modules come in the order in which the network has them; a weight that
    is no module's own is named itself. A group whose operands have no weights has none.
    """
    matrices = {value.data_ptr(): name for name, value in graph.network.named_parameters() if value.ndim > 1}
    placeholders = graph.module.graph.find_nodes(op="placeholder")
    weights: dict[Node, str] = {}
    for node, (name, value) in zip(placeholders, graph.constants.items(), strict=False):
        if name in graph.folds and value.ndim > 1:  # computed of a parameter before all else
            weights[node] = graph.folds[name].parameter
        elif value.data_ptr() in matrices:
            weights[node] = matrices[value.data_ptr()]
    order = {name: place for place, (name, _) in enumerate(graph.network.named_parameters())}
    starts = {one.group.name: [node for node, _ in one.operands] for one in groups.values()}
    found: dict[str, tuple[str, ...]] = {}
    for name, nodes in (starts | {OUTPUT: [graph.output]}).items():
        own = sorted(_weights_before(nodes, weights, groups), key=lambda one: order[one])
        found[name] = tuple(dict.fromkeys(one.rpartition(".")[0] or one for one in own))
    return found


def _weights_before(nodes: Iterable[Node], weights: Mapping[Node, str], groups: Mapping[Node, OpenedGroup]) -> set[str]:
    """The weights that nodes are computed from, but for those behind other groups."""
    found: set[str] = set()
    seen: set[Node] = set()
    open_nodes = list(nodes)
    while open_nodes:
        node = open_nodes.pop()
        if node in seen or node in groups:
            continue
        seen.add(node)
        if node in weights:
            found.add(weights[node])
        open_nodes += node.all_input_nodes
    return found
