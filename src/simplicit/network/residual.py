r"""The last activation of each residual block of a network, found in its graph.

A value is a *cut* of the graph if every path from the input to the output passes through it: the network is a chain of
its cuts, and what lies between two of them is one step of the chain, a plain layer or a *block* with branches. The last
activation of a block is the one that makes its cut, or follows it before the next block begins (a residual network:
the ReLU after the sum); where there is none, the last one within its branches (with activations before the
convolutions, the sum is passed on as it is). Activations of plain layers are cuts themselves. ReLUs that only stand for
the maxima of a pooling count as no activation.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import Node

from simplicit.network.graph import NetworkGraph
from simplicit.network.trees import contains

_aten = torch.ops.aten


def last_of_blocks(graph: NetworkGraph, activations: Iterable[Node]) -> list[Node]:
    """The last of the ``activations`` in each block, and those of plain layers, in the order of computation."""
    path, wanted = _between_input_and_output(graph), set(activations)
    cuts = _cuts(path)
    kept: list[Node] = []
    inner: Node | None = None  # the last activation in the branches of a block, while none has followed the block
    inner_block = block = 0
    for node in path:
        block += node in cuts
        if node not in wanted or _makes_maximum(node):
            continue
        if inner is not None and inner_block != block and node not in cuts:
            kept.append(inner)
        if node in cuts:
            kept.append(node)
            inner = None
        else:
            inner, inner_block = node, block
    return kept if inner is None else [*kept, inner]


def _between_input_and_output(graph: NetworkGraph) -> list[Node]:
    """The nodes through which values, not sizes, go from the input to the output, in the order of computation."""
    nodes = [node for node in graph.module.graph.nodes if contains(Tensor, node.meta.get("val"))]
    depends: set[Node] = set()
    for node in nodes:
        own = node.op == "placeholder" and node.name not in graph.constants
        if own or any(argument in depends for argument in node.all_input_nodes):
            depends.add(node)
    reaches = {graph.output}
    for node in reversed(nodes):
        if any(user in reaches for user in node.users if user.op != "output"):
            reaches.add(node)
    return [node for node in nodes if node in depends and node in reaches]


def _cuts(path: list[Node]) -> set[Node]:
    """Those nodes through which every path goes: nothing computed before them is read after them."""
    place = {node: number for number, node in enumerate(path)}
    cuts, furthest = set[Node](), 0
    for number, node in enumerate(path):
        if furthest <= number:
            cuts.add(node)
        furthest = max(furthest, *(place.get(user, number) for user in node.users), number)
    return cuts


def _makes_maximum(node: Node) -> bool:
    """Whether it is the ReLU of max(a, b) = a + ReLU(b − a)."""
    users = list(node.users)
    difference = node.all_input_nodes[0] if node.all_input_nodes else node
    if len(users) != 1 or users[0].target not in (_aten.add.Tensor, operator.add):
        return False
    if difference.target not in (_aten.sub.Tensor, operator.sub):
        return False
    subtracted = difference.args[1]
    return isinstance(subtracted, Node) and subtracted in users[0].args
