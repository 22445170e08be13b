"""Two networks at once, pass by pass: the baseline, and the student that is made along the way.

A layer can be solved when its inputs are there for all samples, and be used right after. So the samples go through the
graph in passes, each up to where something is asked for: batch by batch, all nodes of the pass one after another. Of a
batch only what later passes read is kept, in a :class:`~simplicit.training.channels.store.Store`. While a pass is under
way these are alive:

    between passes          what was kept before and is still read, of the batches to come the rest too;
                            what this pass keeps, of the batches that are done
    of the batch at hand    the values of the nodes that others of the pass still read
    of no batch             constants, and what is computed of these alone, once

Where the student does not differ from the baseline yet, both share the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from simplicit.checks import lookups_checked
from simplicit.machine import one_thread_each, side_by_side
from simplicit.network.graph import NetworkGraph
from simplicit.progress import counted
from simplicit.training.channels.store import Known, Store, Values, not_kept, taken


class Walk:
    """The values of baseline and student on batches (b, *input_shape), up to the node that was computed last."""

    def __init__(
        self, graph: NetworkGraph, batches: Sequence[Tensor], store: Store | None = None, workers: int = 1
    ) -> None:
        self.graph = graph
        self.batches, self.workers = batches, workers
        self.changed: dict[str, Tensor] = {}
        self._store = Store() if store is None else store
        self._baseline: dict[Node, Sequence[Any]] = {}
        self._student: dict[Node, Sequence[Any]] = {}
        nodes = list(graph.module.graph.nodes)
        self._nodes = [node for node in nodes if node.op not in ("placeholder", "output")]
        self._order = {node: place for place, node in enumerate(self._nodes)}
        self._next = 0
        self._done: set[Node] = set()
        self._of_constants = _of_constants(nodes, graph)
        for node in nodes:
            if node.op == "placeholder":
                known = graph.constants.get(node.name)
                self._baseline[node] = batches if known is None else [known] * len(batches)

    def baseline(self, node: Node) -> Sequence[Any]:
        """The baseline's values of a node, batch by batch."""
        self._compute(node)
        return self._baseline[node]

    def student(self, node: Node) -> Sequence[Any]:
        """The student's values of a node; the same object as the baseline's where nothing has changed."""
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
        for node, names in self._of_constants.items():
            if node in self._baseline and not names.isdisjoint(constants):
                with torch.no_grad():
                    self._student[node] = [self._fresh(node, fresh)] * len(self.batches)

    def _fresh(self, node: Node, fresh: dict[Node, Any]) -> Any:
        """What the student makes of constants alone, by its present ones; ``fresh`` is what is known of that."""
        if node.op == "placeholder":
            return self.changed.get(node.name, self.graph.constants[node.name])
        if node not in fresh:
            fresh[node] = _result(node, lambda one: self._fresh(one, fresh))
        return fresh[node]

    def run_until(self, node: Node) -> None:
        """Compute all nodes before this one in the order of the graph."""
        place = self._order[node]
        self._pass([one for one in self._nodes[self._next : place] if one not in self._done])
        self._next = max(self._next, place)

    def _compute(self, node: Node) -> None:
        """Compute a node and what it is computed from."""
        needed, left = set(), [node]
        while left:
            one = left.pop()
            if one not in needed and one not in self._done and one.op != "placeholder":
                needed.add(one)
                left += one.all_input_nodes
        self._pass(sorted(needed, key=self._order.__getitem__))

    def _pass(self, nodes: list[Node]) -> None:
        """Compute nodes, in the order of the graph, and forget what nobody reads any more."""
        self._done.update(nodes)
        moving = [node for node in nodes if not self._is_fixed(node)]
        for node in nodes:
            if self._is_fixed(node):
                self._fix(node)
        read = {argument for node in nodes for argument in node.all_input_nodes}
        dead = [node for node in read.difference(moving) if node.op != "placeholder" and self._is_dead(node)]
        if moving:
            self._go_through(moving, dead)
        for node in dead:
            self._baseline.pop(node)
            self._student.pop(node, None)

    def _is_fixed(self, node: Node) -> bool:
        """Whether a node has the same value for all batches because nothing of them goes into it."""
        return node.op == "get_attr" or node in self._of_constants

    def _is_dead(self, node: Node) -> bool:
        """Whether all that reads a node is computed."""
        return all(user in self._done for user in node.users)

    def _fix(self, node: Node) -> None:
        """Compute a node that is fixed."""
        one = _Batch(self, 0)
        with torch.no_grad():
            known = getattr(self.graph.module, str(node.target)) if node.op == "get_attr" else _result(node, one.theirs)
            self._baseline[node] = [known] * len(self.batches)
            if self._reads_a_change(node, set()):
                self._student[node] = [_result(node, one.ours)] * len(self.batches)

    def _reads_a_change(self, node: Node, differing: set[Node]) -> bool:
        """Whether a node's student is another; ``differing`` are those of the pass at hand."""
        return any(a in self._student or a in differing or a.name in self.changed for a in node.all_input_nodes)

    def _go_through(self, nodes: list[Node], dead: list[Node]) -> None:
        """Compute nodes batch by batch, keep those that are read later, and of the ``dead`` ones what is left."""
        differing: set[Node] = set()
        for node in nodes:
            if self._reads_a_change(node, differing):
                differing.add(node)
        kept = [node for node in nodes if not self._is_dead(node)]
        last_reads = _last_reads(nodes, kept)
        theirs = {node: self._store.values(f"{node.name}-baseline") for node in kept}
        ours = {node: self._store.values(f"{node.name}-student") for node in kept if node in differing}

        def of_batch(place: int) -> _Batch:
            one = _Batch(self, place)
            with torch.no_grad():
                for node in nodes:
                    one.compute(node, differs=node in differing)
                    one.forget(last_reads.get(node, ()))
            return one

        with one_thread_each():
            batches = side_by_side(of_batch, range(len(self.batches)), self.workers)
            for place, one in enumerate(counted(batches, "states", len(self.batches))):
                for node in kept:
                    theirs[node].append(one.baseline[node], one.known)
                    if node in ours:
                        ours[node].append(one.student[node], one.known)
                for values in (side[node] for side in (self._baseline, self._student) for node in dead if node in side):
                    if isinstance(values, Values):
                        values.drop(place)
        self._baseline |= theirs
        self._student |= ours


class _Batch:
    """What is at hand of one batch while a pass goes through it: of baseline and student what was read or computed."""

    def __init__(self, walk: Walk, place: int) -> None:
        self._walk, self._place = walk, place
        self.baseline: dict[Node, Any] = {}
        self.student: dict[Node, Any] = {}
        self.known: Known = {}

    def compute(self, node: Node, *, differs: bool) -> None:
        """Compute a node, for the student too where it is another there."""
        self.baseline[node] = _result(node, self.theirs)
        if differs:
            self.student[node] = _result(node, self.ours)

    def forget(self, nodes: Sequence[Node]) -> None:
        """Let go of nodes of this pass."""
        for node in nodes:
            self.baseline.pop(node)
            self.student.pop(node, None)

    def theirs(self, node: Node) -> Any:
        """The baseline's value."""
        if node not in self.baseline:
            self.baseline[node] = taken(self._walk._baseline[node], self._place, self.known)
        return self.baseline[node]

    def ours(self, node: Node) -> Any:
        """The student's value."""
        if node.name in self._walk.changed:
            return not_kept(self._walk.changed[node.name], self.known)
        if node not in self.student and node in self._walk._student:
            self.student[node] = taken(self._walk._student[node], self._place, self.known)
        return self.student[node] if node in self.student else self.theirs(node)


def _last_reads(nodes: list[Node], kept: list[Node]) -> dict[Node, list[Node]]:
    """By the nodes of a pass, those that none after it reads, nor a later pass."""
    last = {argument: node for node in nodes for argument in node.all_input_nodes}
    found: dict[Node, list[Node]] = {}
    for node in set(nodes).difference(kept):
        found.setdefault(last[node], []).append(node)
    return found


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
