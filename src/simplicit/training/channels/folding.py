r"""Weights that are computed anew at every call, made plain in the graph where their parameter can be found again.

What is computed of constants alone, and multiplies a state, becomes a constant of the graph: the layers that use it are
found and fitted like those of any parameter. Whether it can be undone is found out and not read off the code. With all
else as it is, the weight w is computed for values of one parameter θ, in float64: for none, for v, for v ∘ (1 + r) with
a different r for every entry, and for others of either sign and of any size. Where

    (w(v ∘ (1 + r)) − w(0)) / (w(v) − w(0)) − 1 = r_k,

w_e is c θ_k + d there, and it is everywhere if it is at the last values too (:mod:`~simplicit.network.folds`). So a
nonlinear function of θ, a sum of its entries, or an entry at two places is none. Nor is a weight that no value of θ
makes zero to the bit, or one whose parameters something else reads: it would change with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from simplicit.network.apart import is_random
from simplicit.network.folds import Fold
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.after import NORMS
from simplicit.training.channels.uses import MULTIPLYING, core_of

# Ratios carry rounding of a few units in the last place; codes are at least 0.2/N apart for N entries.
_RATIO_TOLERANCE = 1e-12
# What is computed in another order, relatively.
_EQUAL = 1e-12
# Sizes of the last values, as powers of ten: what is clamped or saturates shows itself.
_SIZES = 4.0


def folded(graph: NetworkGraph) -> NetworkGraph:
    """The graph with such weights as constants of their own, whose ``folds`` say how they are computed.

    The module of ``graph`` is changed in place.
    """
    constant = _Constants(graph)
    cores = _cores(graph, constant)
    made = {core: fold for core in cores if (fold := constant.fold(core)) is not None}
    while len(kept := {core: fold for core, fold in made.items() if constant.alone(core, made)}) < len(made):
        made = kept
    if not made:
        return graph
    values, folds = dict[str, Tensor](), dict[str, Fold]()
    nodes = graph.module.graph
    placed: list[tuple[Fold, Node]] = []
    for core, fold in made.items():
        node = next((known for other, known in placed if other.same(fold)), None)
        if node is None:
            with nodes.inserting_before(next(iter(nodes.find_nodes(op="placeholder")))):
                node = nodes.placeholder(f"folded_{len(placed)}")
            node.meta["val"] = core.meta["val"]
            values[node.name], folds[node.name] = constant.value(core, {}), fold
            placed.append((fold, node))
        core.replace_all_uses_with(node)
    for node in reversed(list(nodes.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            nodes.erase_node(node)
    graph.module.recompile()
    values = dict(reversed(values.items()))  # each placeholder is before those that were there
    return replace(graph, constants=values | graph.constants, folds=folds)


def _cores(graph: NetworkGraph, constant: _Constants) -> list[Node]:
    """What products with values that depend on the input take, behind turns and cuts: computed of parameters."""
    found: dict[Node, None] = {}
    for node in graph.module.graph.nodes:
        if node.target in MULTIPLYING and node not in constant.of:
            for core in map(core_of, node.all_input_nodes):
                if core.op == "call_function" and constant.of.get(core):
                    found[core] = None
    return list(found)


class _Constants:
    """The values of a graph that do not depend on the input: ``of`` has the placeholders that each is computed of."""

    def __init__(self, graph: NetworkGraph) -> None:
        self._graph = graph
        self.of: dict[Node, frozenset[Node]] = {}
        for node in graph.module.graph.nodes:
            if node.op == "placeholder" and node.name in graph.constants:
                self.of[node] = frozenset({node})
            elif node.op == "get_attr":
                self.of[node] = frozenset()
            elif node.op == "call_function" and not is_random(node.target):
                inputs = node.all_input_nodes
                if all(one in self.of for one in inputs):
                    self.of[node] = frozenset[Node]().union(*(self.of[one] for one in inputs))
        own = {value.data_ptr(): name for name, value in graph.network.named_parameters() if value.numel()}
        self._names = {
            node: own[place]
            for node in self.of
            if node.op == "placeholder" and (place := graph.constants[node.name].data_ptr()) in own
        }

    def fold(self, core: Node) -> Fold | None:
        """How a node is computed of a parameter, the largest one of which it can be told."""
        value = core.meta.get("val")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return None
        parameters = {self._names[node]: node for node in self.of[core] if node in self._names}
        for name, node in sorted(parameters.items(), key=lambda pair: (-pair[1].meta["val"].numel(), pair[0])):
            beside = tuple(sorted(parameters.keys() - {name}))
            if (fold := self._of_parameter(core, name, node, beside)) is not None:
                return fold
        return None

    def alone(self, core: Node, made: Mapping[Node, Fold]) -> bool:
        """Whether nothing but cores that are ``made`` reads what a core is computed of, each its own entries."""
        fold = made[core]
        for node in self.of[core]:
            read = [reader for one in self._holders(node) for reader in self._readers(one, made)]
            if node not in self._names:
                if any(reader.target in NORMS for reader in read):
                    return False
                continue
            theirs = [made.get(reader) for reader in read]
            if self._names[node] == fold.parameter:
                fine = all(
                    one is not None
                    and one.parameter == fold.parameter
                    and (one is fold or one.same(fold) or not one.overlaps(fold))
                    for one in theirs
                )
            else:
                fine = all(one is not None and one.parameter != self._names[node] for one in theirs)
            if not fine:
                return False
        return True

    def _holders(self, placeholder: Node) -> list[Node]:
        """The placeholders of the same tensor."""
        constants = self._graph.constants
        placeholders = [one for one in self.of if one.op == "placeholder"]
        return [one for one in placeholders if constants[one.name].data_ptr() == constants[placeholder.name].data_ptr()]

    def _readers(self, node: Node, made: Mapping[Node, Fold]) -> list[Node]:
        """The cores that a value goes into, and what depends on the input and reads it otherwise."""
        found, seen, left = list[Node](), set[Node](), [node]
        while left:
            one = left.pop()
            if one in seen:
                continue
            seen.add(one)
            if one in made or one not in self.of:
                found.append(one)
            else:
                left += one.users
        return found

    def _of_parameter(self, core: Node, name: str, node: Node, beside: tuple[str, ...]) -> Fold | None:
        parameter = self._graph.constants[node.name].detach().contiguous()
        codes = _Codes(parameter.numel())

        def at(values: Tensor) -> Tensor:
            given = values.reshape(parameter.shape)
            return self.value(core, dict.fromkeys(self._holders(node), given), torch.float64)

        try:
            none, first, second, last = (at(values) for values in (codes.none, codes.first, codes.second, codes.last))
        except RuntimeError:  # an operation that wants another dtype
            return None
        entries, factors = codes.found(first - none, second - none)
        expected = factors * codes.last[entries] + none
        if not bool(((last - expected).abs() <= _EQUAL * (last.abs() + none.abs())).all()):
            return None
        free = factors != 0
        twice = entries[free].bincount() > 1
        if not bool(free.any()) or bool(twice.any()) or bool(none[~free].any()):
            return None
        offsets = self.value(core, dict.fromkeys(self._holders(node), torch.zeros_like(parameter)))
        fold = Fold(name, entries, factors, offsets, beside)
        zero = fold.put(parameter, torch.zeros_like(offsets))
        reached = self.value(core, dict.fromkeys(self._holders(node), zero))
        return None if reached.any() else fold

    def value(self, core: Node, given: Mapping[Node, Tensor], dtype: torch.dtype | None = None) -> Tensor:
        """A constant value with other values of some placeholders, and floating-point numbers in another dtype."""
        known: dict[Node, Any] = dict(given)

        def of(node: Node) -> Any:
            if node not in known:
                known[node] = cast(self._one(node, of))
            return known[node]

        def cast(value: Any) -> Any:
            floats = dtype is not None and isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if floats else value

        with torch.no_grad():
            result: Tensor = of(core)
        return result.contiguous()

    def _one(self, node: Node, of: Any) -> Any:
        if node.op == "placeholder":
            return self._graph.constants[node.name]
        if node.op == "get_attr":
            return getattr(self._graph.module, str(node.target))
        assert callable(node.target)
        return node.target(*map_arg(node.args, of), **map_arg(node.kwargs, of))


class _Codes:
    """Values for the entries of a parameter that tell each of them from all others, each (size,)."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)

        self._size = size
        # Spread evenly but for a random part: evenly spaced ones would be products of each other.
        self._ratio = (torch.arange(size) + uniform(0.1, 0.9)) / size
        self.none = torch.zeros(size, dtype=torch.float64)
        self.first = uniform(1.0, 2.0)
        self.second = self.first * (1.0 + self._ratio)
        self.last = uniform(-1.0, 1.0).sign() * 10.0 ** uniform(-_SIZES, _SIZES)

    def found(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Which entries values are multiples of, that are ``first`` and ``second`` for these, and which; 0 of none."""
        ratio = (second / first - 1.0).nan_to_num(-1.0, -1.0, -1.0)
        entries = (ratio * self._size).long().clamp(0, self._size - 1)
        known = (ratio - self._ratio[entries]).abs() <= _RATIO_TOLERANCE * (1.0 + ratio)
        factors = torch.where(known, first / self.first[entries], 0.0)
        whole = factors.round()  # most are 1, and those must be so to the bit
        return entries, torch.where(((factors - whole).abs() <= _EQUAL) & (whole != 0), whole, factors)
