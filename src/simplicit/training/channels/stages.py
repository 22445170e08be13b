r"""The stages in which a network is differentiated, and what that takes of a sample.

Stage k makes the values x_k that later stages read, s_k of those that it reads itself, x_{<k}. A vector times the
derivative of the outputs comes back through one stage after the other, the last first,

    v_j ← v_j + (∂s_k/∂x_j)ᵀ v_k        j < k

so that alive at a time are what crosses between stages, and all values of one stage (checkpointing: Griewank and
Walther, *Evaluating Derivatives*, 2008, chapter 12). A stage is gone through twice, but for the last one. With c bytes
crossing in all, k those of the values of a stage, w of what is alive at its ends, and p vectors one after another, a
sample takes

    c + max over stages of (k + p w)

Stages end where little is alive beside what was computed since the last end: at residual sums, and not in the middle of
an attention. Several shares of that are tried. The whole network is one stage where nothing takes less, or little is to
be spared.

Values that no layer and no input goes into (weights that are turned, masks of causality) belong to all stages that read
them. Nothing that comes out depends on where a stage ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import getitem
from typing import Any, Self

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.after import LAYING, laid_out
from simplicit.training.channels.layers import ChannelLayer, Use

#: Samples with which a graph is traced.
TRACED = 2
#: Values of a stage by those that cross its end, at least: what is tried.
SHARES = (5, 10, 20, 40, 80)
#: A batch of no more bytes goes through the whole network at once: a vision transformer of 51 MB a batch took a sixth
#: longer in ten stages, ResNet-20, of 256 MB, took no longer in eleven.
WHOLE = 2**28
#: Bytes of a stage and of what crosses, for the samples that are differentiated at a time; at least two samples.
PART = 2**30
#: Values of a layer's result beside itself while it is differentiated by: derivative, squares, and these laid out.
OF_A_RESULT = 3


@dataclass(frozen=True, eq=False)
class Stage:
    """Some nodes, in order, of which ``gives`` are read by later stages; ``reads`` are those of earlier ones.

    After a node come those that nobody reads any more, in this stage or later, by ``last``.
    """

    nodes: Sequence[Node]
    reads: Sequence[Node]
    gives: Sequence[Node]
    last: Mapping[Node, Sequence[Node]]


@dataclass(frozen=True, eq=False)
class Stages:
    """The stages of a graph, which errors of the results of layers, ``results``, are differentiated by.

    These ``move`` some nodes. Of a sample ``crossing`` bytes go from one stage to others, and the largest one takes
    ``working`` with all that is alive at its ends. ``axes`` are those of results along which samples follow one
    another, where that is so in all of them.
    """

    stages: Sequence[Stage]
    results: frozenset[Node]
    moved: frozenset[Node]
    crossing: int
    working: int
    axes: Mapping[Node, int] | None

    @classmethod
    def of(cls, graph: NetworkGraph, layers: Sequence[ChannelLayer], vectors: int, samples: int) -> Self:
        """The stages of which so many samples take the least for so many vectors, one after another; one where a batch
        is small."""
        results = frozenset(use.node for layer in layers for use in layer.uses)
        chain = _Chain(graph, results)
        shares = (math.inf,) if samples * sum(chain.needs([chain.last], vectors)) <= WHOLE else (math.inf, *SHARES)
        ends = min(map(chain.ends, shares), key=lambda one: sum(chain.needs(one, vectors)))
        crossing, working = chain.needs(ends, vectors)
        return cls(chain.stages(ends), results, chain.moved, crossing, working, _axes(graph, layers))

    def at_a_time(self, samples: int) -> int:
        """How many samples of a batch are differentiated together."""
        if self.axes is None:
            return samples
        return min(samples, max(TRACED, PART // max(1, self.crossing + self.working)))


class _Chain:
    """The nodes of a graph that depend on the input or a layer, in order, and what is alive after each."""

    def __init__(self, graph: NetworkGraph, results: frozenset[Node]) -> None:
        moved, moving, self.free = set(results), dict[Node, int](), list[Node]()
        for node in graph.module.graph.nodes:
            inputs = node.all_input_nodes
            if node.op == "placeholder":
                if node.name not in graph.constants:
                    moving[node] = -1
            elif node.op != "output":
                if any(one in moved for one in inputs):
                    moved.add(node)
                if node in moved or any(one in moving for one in inputs):
                    moving[node] = len(moving) - 1
                else:
                    self.free.append(node)
        self.moved, self._free = frozenset(moved), frozenset(self.free)
        self.order = {node: place for node, place in moving.items() if place >= 0}
        self.nodes = list(self.order)
        self.until = [max((self._read(user) for user in node.users), default=0) for node in self.nodes]
        self.own = [nbytes(node) for node in self.nodes]
        self.kept = [
            (1 + OF_A_RESULT * (node in results)) * own for node, own in zip(self.nodes, self.own, strict=True)
        ]
        self.kept[-1] += 2 * self.own[-1]  # the output times a vector
        self.last = len(self.nodes) - 1
        self.alive = self._alive()

    def _read(self, user: Node) -> int:
        """The place of a node, or of the end of the graph."""
        return self.order.get(user, len(self.nodes))

    def _alive(self) -> list[float]:
        """Bytes of a sample that are alive after each node; infinite where a tuple is, which is taken apart first."""
        changes = [0.0] * (len(self.nodes) + 1)
        tuples = [0.0] * (len(self.nodes) + 1)
        for place, (node, until) in enumerate(zip(self.nodes, self.until, strict=True)):
            apart = isinstance(node.meta.get("val"), tuple | list)
            counted, value = (tuples, 1.0) if apart else (changes, float(self.own[place]))
            counted[place] += value
            counted[until] -= value
        pairs = zip(accumulate(changes), accumulate(tuples), strict=True)
        return [math.inf if apart else size for size, apart in pairs][: len(self.nodes)]

    def ends(self, share: float) -> list[int]:
        """Where stages end, each with so many times more values than cross its end; the last with the last node."""
        found, kept = [], 0
        for place in range(self.last):
            kept += self.kept[place]
            if kept and kept >= share * self.alive[place]:
                found.append(place)
                kept = 0
        return [*found, self.last]

    def needs(self, ends: Sequence[int], vectors: int) -> tuple[int, int]:
        """Bytes of a sample that cross, and those of the stage that takes most."""
        sums = [0, *accumulate(self.kept)]
        crossing = sum(nbytes(_storage(self.nodes[place])) for place in self._crossing(ends))
        working = 0
        for begin, end in pairwise([-1, *ends]):
            wide = max(self.alive[begin] if begin >= 0 else 0, self.alive[end] if end < self.last else 0)
            working = max(working, sums[end + 1] - sums[begin + 1] + int(vectors * wide))
        return crossing, working

    def _crossing(self, ends: Sequence[int]) -> list[int]:
        """The places of nodes that are read after the end of their stage."""
        found, own = [], iter(ends)
        end = next(own)
        for place, until in enumerate(self.until):
            if place > end:
                end = next(own)
            if end < until <= self.last:
                found.append(place)
        return found

    def stages(self, ends: Sequence[int]) -> list[Stage]:
        """The stages that end there."""
        crossing = {self.nodes[place] for place in self._crossing(ends)}
        return [self._stage(self.nodes[a + 1 : b + 1], crossing) for a, b in pairwise([-1, *ends])]

    def _stage(self, own: list[Node], crossing: set[Node]) -> Stage:
        inside = set(own)
        needed, left = set(), [argument for node in own for argument in node.all_input_nodes]
        while left:
            one = left.pop()
            if one in self._free and one not in needed:
                needed.add(one)
                left += one.all_input_nodes
        nodes = [*(node for node in self.free if node in needed), *own]
        read = {argument: node for node in nodes for argument in node.all_input_nodes}
        last: dict[Node, list[Node]] = {}
        for argument, node in read.items():
            if argument.op != "placeholder" and not (argument in inside and argument in crossing):
                last.setdefault(node, []).append(argument)
        reads = [one for one in read if one in self.order and one not in inside]
        return Stage(nodes, reads, [node for node in own if node in crossing], last)


def _storage(node: Node) -> Node:
    """The node whose value has the bytes of another's, which may be a view of it: all of them are kept."""
    target = node.target
    is_part = target is getitem or (isinstance(target, OpOverload) and target.is_view) or target in LAYING
    if not is_part or not node.all_input_nodes or node.all_input_nodes[0].op == "placeholder":
        return node
    found = _storage(node.all_input_nodes[0])
    return found if nbytes(found) > nbytes(node) else node


def nbytes(node: Node) -> int:
    """Of one sample; the parts of a tuple are counted where they are taken out."""
    value: Any = node.meta.get("val")
    return numbers(node) * value.dtype.itemsize if isinstance(value, Tensor) else 0


def numbers(node: Node) -> int:
    """How many a value of one sample has; none where it is no tensor, or a single number."""
    value: Any = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim == 0:
        return 0
    found = 1
    for size in value.shape:  # a multiple of the number of samples, which was two when the graph was traced
        known = size if isinstance(size, int) else size.node.hint
        found *= known if isinstance(size, int) else max(1, (known or 0) // TRACED)
    return found


def number_of_samples(graph: NetworkGraph) -> str:
    """As the graph writes it in shapes."""
    (own,) = (n for n in graph.module.graph.find_nodes(op="placeholder") if n.name not in graph.constants)
    return str(own.meta["val"].shape[0])


def _axes(graph: NetworkGraph, layers: Sequence[ChannelLayer]) -> dict[Node, int] | None:
    """By the results of layers the axis along which samples follow one another; None unless all have one."""
    samples = number_of_samples(graph)
    axes = {use.node: _axis(use, samples) for layer in layers for use in layer.uses}
    found = {node: axis for node, axis in axes.items() if axis is not None}
    return found if len(found) == len(axes) else None


def _axis(use: Use, samples: str) -> int | None:
    """That of one result: its own for samples, or the first one where that has the positions of sample after sample."""
    if not use.form.sliced:
        return None
    axes = _of_samples(use.node, samples)
    if axes:
        return axes[0] if len(axes) == 1 else None
    number = _numbered(use.source, samples)
    if number is None:
        return None
    return 0 if torch.equal(number, number.reshape(-1).sort().values.reshape(number.shape)) else None


def _of_samples(node: Node, samples: str) -> list[int]:
    """The axes of a value that are as long as there are samples."""
    return [axis for axis, size in enumerate(node.meta["val"].shape) if str(size) == samples]


def _numbered(node: Node, samples: str) -> Tensor | None:
    """To which of the samples, as many as the graph was traced with, each number of a value belongs."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    axes = _of_samples(node, samples)
    if len(axes) == 1:
        sizes = [TRACED if axis == axes[0] else size for axis, size in enumerate(value.shape)]
        if not all(isinstance(size, int) for size in sizes):
            return None
        return torch.arange(TRACED).reshape([-1 if axis == axes[0] else 1 for axis in range(len(sizes))]).expand(sizes)
    if axes or node.target not in LAYING:
        return None
    inner = _numbered(node.all_input_nodes[0], samples)
    return None if inner is None else laid_out(node, inner)
