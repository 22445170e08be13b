"""A network as one program of pure operations that is called, and answers, as the network does.

It is that of ``torch.export``, with its parameters and buffers under the names that they have in the network. What only
copies, or does nothing to a network in evaluation mode, is left out; parts of a split are written as slices.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from simplicit.network.calls import Call
from simplicit.network.exporting import inside, whole_program
from simplicit.network.kinds import arguments_of
from simplicit.network.operations import name_of

_aten = torch.ops.aten

#: They hand on what they are given.
_SAME = frozenset({"clone", "alias", "detach", "lift_fresh_copy", "dropout", "feature_dropout", "alpha_dropout"})
_SPLITS = frozenset({"split", "split_with_sizes", "chunk", "unbind"})
_VIEWS = frozenset({"view", "_unsafe_view"})


@dataclass(eq=False)
class Program:
    """A graph with one placeholder for each array that the network takes, and constants that it gets by their names.

    ``inputs`` are the names of its arguments that are arrays, in the order of the placeholders, ``trained`` those of
    parameters, and ``stored`` those of what is in the network's state_dict. ``structure`` is torch's description of
    what the network returns.
    """

    graph: Graph
    inputs: tuple[str, ...]
    constants: dict[str, Tensor]
    trained: frozenset[str]
    stored: frozenset[str]
    structure: Any

    @property
    def outputs(self) -> list[Any]:
        """The nodes, or constants, that are returned, in the order of the structure."""
        (last,) = self.graph.find_nodes(op="output")
        return list(last.args[0])

    def values(self, arrays: Mapping[str, Tensor]) -> dict[Node, Any]:
        """The values of all nodes for some arrays, by the names of arguments."""
        found: dict[Node, Any] = {}
        given = iter([arrays[name] for name in self.inputs])
        with torch.no_grad():
            for node in self.graph.nodes:
                if node.op == "placeholder":
                    found[node] = next(given)
                elif node.op == "get_attr":
                    found[node] = self.constants[str(node.target)]
                elif node.op == "call_function":
                    args, kwargs = map_arg((node.args, node.kwargs), found.__getitem__)
                    found[node] = node.target(*args, **kwargs)
        return found


def program_of(network: nn.Module, call: Call, U: Tensor) -> Program:
    """The program of a network in evaluation mode, called with two samples U.

    InputError is raised for a network that changes its buffers, UnsupportedOperationError for what torch cannot trace.
    """
    exported = whole_program(network, call, U)
    signature = exported.graph_signature
    writing = _Writing()
    given = zip(exported.graph.find_nodes(op="placeholder"), signature.input_specs, strict=True)
    for node, spec in given:
        if spec.kind is InputKind.USER_INPUT:
            writing.new[node] = writing.graph.placeholder(node.name)
        else:
            writing.new[node] = writing.graph.get_attr(inside(spec.target))
    for node in exported.graph.nodes:
        if node.op == "call_function":
            writing.add(node)
    (last,) = exported.graph.find_nodes(op="output")
    pairs = zip(last.args[0], signature.output_specs, strict=True)
    returned = [one for one, spec in pairs if spec.kind is OutputKind.USER_OUTPUT]
    writing.graph.output([writing.new[one] if isinstance(one, Node) else one for one in returned])
    graph = writing.graph
    erase_unused(graph)
    state = {inside(name): value for name, value in (exported.state_dict | exported.constants).items()}
    names = {str(node.target) for node in graph.find_nodes(op="get_attr")}
    stored = {*exported.state_dict} - {*signature.non_persistent_buffers}
    return Program(
        graph,
        tuple(spec.name for spec in call.layout.specs),
        {name: state[name].detach() for name in sorted(names, key=[*state].index)},
        frozenset(names & {*map(inside, signature.parameters)}),
        frozenset(names & {*map(inside, stored)}),
        exported.call_spec.out_spec,
    )


def erase_unused(graph: Graph) -> None:
    """Take out of a graph what its output does not depend on, but for its inputs."""
    for node in reversed(graph.nodes):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)


class _Writing:
    """A graph that is written anew, and what the nodes of the old one are in it."""

    def __init__(self) -> None:
        self.graph, self.new = Graph(), dict[Node, Any]()

    def add(self, node: Node) -> None:
        """An operation, in its pure form."""
        name = name_of(node)
        if name.startswith(("_assert", "sym_constrain")) and not node.users:
            return
        if node.target is operator.getitem:
            self.new[node] = self._part(node)
        elif name in _SAME:
            self.new[node] = self.new[node.all_input_nodes[0]]
        elif name == "_native_batch_norm_legit_no_training":
            self.new[node] = [self._batch_norm(node), None, None]
        else:
            copied = self.graph.node_copy(node, self.new.__getitem__)
            if name in _VIEWS:  # results may lie in memory in another way than when they were exported
                copied.target = _aten.reshape.default
            self.new[node] = copied

    def _batch_norm(self, node: Node) -> Node:
        given = self._given(node)
        x, weight, bias, mean, var, momentum, eps = given.values()
        arguments = (x, weight, bias, mean, var, False, momentum, eps, True)
        return self.graph.call_function(_aten.batch_norm.default, arguments)

    def _part(self, node: Node) -> Any:
        """What ``getitem`` takes; of a split, a slice."""
        source, place = node.args
        assert isinstance(source, Node)
        assert isinstance(place, int)
        if isinstance(self.new[source], list):
            return self.new[source][place]
        values = source.meta["val"]
        given = self._given(source) if name_of(source) in _SPLITS else {}
        if not given or "self" not in given:
            return self.graph.node_copy(node, self.new.__getitem__)
        axis = given.get("dim", 0) % values[0].ndim if name_of(source) != "unbind" else given.get("dim", 0)
        if name_of(source) == "unbind":
            return self.graph.call_function(_aten.select.int, (given["self"], axis, place))
        sizes = [value.shape[axis] for value in values]
        if not all(isinstance(size, int) for size in sizes):
            return self.graph.node_copy(node, self.new.__getitem__)
        start = sum(sizes[:place])
        return self.graph.call_function(_aten.slice.Tensor, (given["self"], axis, start, start + sizes[place]))

    def _given(self, node: Node) -> dict[str, Any]:
        new: Callable[[Node], Any] = self.new.__getitem__
        return {name: map_arg(value, new) for name, value in arguments_of(node).items()}
