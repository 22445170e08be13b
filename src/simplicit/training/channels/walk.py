"""Two networks at once, node by node: the baseline, and the student that is made along the way.

All calibration samples go through a node before the next one is computed, in batches, so that a layer can be solved
when its inputs are there and be used right after. A value is kept until its last user is done. Where the student does
not differ from the baseline yet, both share the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from simplicit.checks import lookups_checked
from simplicit.network.graph import NetworkGraph

#: Values of a node on one side, batch by batch.
Values = list[Any]


def samples_of(graph: NetworkGraph, inputs: Any) -> Tensor:
    """The inputs as U, (m, *input_shape), in the network's dtype; InputError where they do not fit."""
    return graph.batch(inputs).reshape(-1, *graph.input_shape)


def batches_of(inputs: Tensor, batch_size: int) -> list[Tensor]:
    """Samples in batches of at least two, for which the graph was traced; a single sample counts twice."""
    if len(inputs) == 1:
        return [inputs.expand(2, *inputs.shape[1:])]
    size = max(2, batch_size)
    starts = list(range(0, len(inputs), size))
    if len(starts) > 1 and len(inputs) - starts[-1] < 2:
        starts.pop()
    return [inputs[a:b] for a, b in zip(starts, [*starts[1:], len(inputs)], strict=True)]


class Walk:
    """The values of baseline and student on batches (b, *input_shape), up to the node that was computed last."""

    def __init__(self, graph: NetworkGraph, batches: list[Tensor]) -> None:
        self.graph = graph
        self.batches = batches
        self.changed: dict[str, Tensor] = {}
        self._baseline: dict[Node, Values] = {}
        self._student: dict[Node, Values] = {}
        nodes = list(graph.module.graph.nodes)
        self._nodes = [node for node in nodes if node.op not in ("placeholder", "output")]
        self._next = 0
        self._done: set[Node] = set()
        self._pending = {node: len(node.users) for node in nodes}
        self._of_constants = _of_constants(nodes, graph)
        for node in nodes:
            if node.op == "placeholder":
                known = graph.constants.get(node.name)
                self._baseline[node] = list(batches) if known is None else [known] * len(batches)

    def baseline(self, node: Node) -> Values:
        """The baseline's values of a node."""
        self._compute(node)
        return self._baseline[node]

    def student(self, node: Node) -> Values:
        """The student's values of a node; the same list as the baseline's where nothing has changed."""
        self._compute(node)
        return self._student.get(node, self._baseline[node])

    def differs(self, node: Node) -> bool:
        """Whether the student's value of a node is another than the baseline's."""
        self._compute(node)
        return node in self._student

    def baseline_on(self, node: Node, source: Node, place: int, part: slice) -> Any:
        """The baseline's value of a node that was not computed yet, on some samples of a batch of its source."""

        def value(one: Node) -> Any:
            known = self._baseline[one][place]
            return known[part] if one is source else known

        with torch.no_grad():
            return _result(node, value)

    def change(self, constants: Mapping[str, Tensor]) -> None:
        """Give the student new constants, for nodes that were not computed yet.

        What was computed of constants alone, such as a weight that was turned or cut, is computed again.
        """
        self.changed |= constants
        fresh: dict[Node, Any] = {}

        def value(node: Node) -> Any:
            if node.op == "placeholder":
                return self.changed.get(node.name, self.graph.constants[node.name])
            if node not in fresh:
                fresh[node] = _result(node, value)
            return fresh[node]

        for node, names in self._of_constants.items():
            if node in self._baseline and not names.isdisjoint(constants):
                with torch.no_grad():
                    self._student[node] = [value(node)] * len(self.batches)

    def run_until(self, node: Node) -> None:
        """Compute all nodes before this one in the order of the graph."""
        while self._nodes[self._next] is not node:
            self._compute(self._nodes[self._next])
            self._next += 1

    def _compute(self, node: Node) -> None:
        if node in self._done or node.op == "placeholder":
            return
        self._done.add(node)
        for argument in node.all_input_nodes:
            self._compute(argument)
        places = range(len(self.batches))
        with torch.no_grad():
            self._baseline[node] = [self._value(node, place, student=False) for place in places]
            if any(a in self._student or a.name in self.changed for a in node.all_input_nodes):
                self._student[node] = [self._value(node, place, student=True) for place in places]
        for argument in node.all_input_nodes:
            self._pending[argument] -= 1
            if not self._pending[argument] and argument.op != "placeholder":
                self._baseline.pop(argument)
                self._student.pop(argument, None)

    def _value(self, node: Node, place: int, *, student: bool) -> Any:
        def value(one: Node) -> Any:
            if student and one.name in self.changed:
                return self.changed[one.name]
            if student and one in self._student:
                return self._student[one][place]
            return self._baseline[one][place]

        return getattr(self.graph.module, str(node.target)) if node.op == "get_attr" else _result(node, value)


def _of_constants(nodes: list[Node], graph: NetworkGraph) -> dict[Node, frozenset[str]]:
    """The nodes that are computed of constants alone, in order, with the names of those constants."""
    names = {node: frozenset({node.name}) for node in nodes if node.name in graph.constants}
    found: dict[Node, frozenset[str]] = {}
    for node in nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and inputs and all(one in names for one in inputs):
            found[node] = names[node] = frozenset().union(*(names[one] for one in inputs))
    return found


def _result(node: Node, value: Callable[[Node], Any]) -> Any:
    """What a node makes of the values of others."""
    assert callable(node.target)
    with lookups_checked():
        return node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))
