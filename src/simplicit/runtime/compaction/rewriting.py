r"""A program without the places that are gone, each of its operations compared with what it was.

Constants are cut, operations get smaller sizes, and constants that are gone go into biases: b + W_gone c. Every
operation is then run on what is left of its operands, and must give what is left of its result, where that is read. One
that does not keeps all places, with its operands, and everything is decided once more; so whatever an operation does,
the network that is left computes what the network does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from simplicit.checks import refused
from simplicit.network.operations import name_of
from simplicit.runtime.compaction.analysis import Analysis
from simplicit.runtime.compaction.program import Program, erase_unused
from simplicit.runtime.compaction.rules import Axes, Moved, cut

#: Values may differ by so much, relative to the largest: what another order of sums makes of them.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
#: A bias that a layer had none of, by the name of its weight.
_BIAS = "bias"


@dataclass(eq=False)
class Rewriting:
    """The new graph, its constants, and what the nodes of the old one are in it."""

    analysis: Analysis
    kept: dict[Node, Axes]
    graph: Graph = field(default_factory=Graph)
    constants: dict[str, Tensor] = field(default_factory=dict)
    new: dict[Node, Node] = field(default_factory=dict)
    biases: set[str] = field(default_factory=set)

    def write(self) -> Node | None:
        """Write all nodes; returned is the first that does not compute what it did, if there is one."""
        node: Node
        for node in self.analysis.program.graph.nodes:
            if node.op == "get_attr":
                name = str(node.target)
                self.constants[name] = cut(self.analysis.facts.values[node], self.kept[node])
                self.new[node] = self.graph.get_attr(name)
            elif node.op == "call_function" and node in self.analysis.rules:
                if not self._operation(node):
                    return node
            else:
                self.new[node] = self.graph.node_copy(node, self.new.__getitem__)
        return None

    def _operation(self, node: Node) -> bool:
        """Whether an operation was written that computes what is left of its result."""
        rule = self.analysis.rules[node]
        args, kwargs = rule.arguments(self.kept)
        args, kwargs = map_arg((args, kwargs), self.new.__getitem__)
        folded = rule.folded(self.kept)
        if folded is not None:
            place, bias, added = folded
            args = (*args[:place], *[None] * (place - len(args)), self._bias(node, bias, added), *args[place + 1 :])
        self.new[node] = self.graph.create_node("call_function", node.target, args, kwargs, node.name)
        return self._is_exact(node, self.new[node])

    def _bias(self, node: Node, bias: Node | None, added: Tensor) -> Node:
        """A bias with what constants add to it."""
        value = added if bias is None else cut(self.analysis.facts.values[bias], self.kept[bias]) + added
        own = bias is not None and bias.op == "get_attr" and [*bias.users] == [node]
        weight = next(str(one.target) for one in node.all_input_nodes if one.op == "get_attr")
        name = str(bias.target) if own and bias is not None else self._unused(weight.rpartition(".")[0])
        self.constants[name] = value
        self.biases.add(name)
        return self.graph.get_attr(name)

    def _unused(self, module: str) -> str:
        """A name for a bias of a module."""
        taken = {str(one.target) for one in self.analysis.program.graph.find_nodes(op="get_attr")} | {*self.constants}
        name = first = f"{module}.{_BIAS}" if module else _BIAS
        count = 0
        while name in taken:
            count += 1
            name = f"{first}_{count}"
        return name

    def _is_exact(self, node: Node, new: Node) -> bool:
        """Whether an operation gives what is left of its result for what is left of its operands."""
        facts = self.analysis.facts
        value = facts.values[node]
        if not isinstance(value, Tensor):
            return True  # all of its operands are whole
        places = isinstance(self.analysis.rules[node], Moved)
        old = {made: one for one, made in self.new.items()}

        def given(one: Node) -> Any:
            if one.op == "get_attr" and str(one.target) in self.biases:
                return self.constants[str(one.target)]
            before = facts.values[old[one]]
            return cut(before, self.kept[old[one]]) if isinstance(before, Tensor) else before

        if places:
            return self._moves(node, new, old)
        try:
            with torch.no_grad():
                args, kwargs = map_arg((new.args, new.kwargs), given)
                found = node.target(*args, **kwargs)  # type: ignore[operator]
        except (RuntimeError, IndexError, ValueError, TypeError):  # torch refuses the sizes
            return False
        wanted, read = cut(value, self.kept[node]), cut(facts.read[node], self.kept[node])
        return same(found, wanted, read)

    def _moves(self, node: Node, new: Node, old: dict[Node, Node]) -> bool:
        """Whether elements go where they went: told apart by numbers of their own."""
        facts, rule = self.analysis.facts, self.analysis.rules[node]
        assert isinstance(rule, Moved)
        still = {rule.operands[number] for number in rule.still}
        numbers: dict[Node, Tensor] = {}
        first = 1
        for one in rule.operands:
            if one not in still and one not in numbers:
                count = facts.values[one].numel()
                numbers[one] = torch.arange(first, first + count, dtype=torch.float64).reshape(facts.values[one].shape)
                first += count

        def before(one: Node) -> Any:
            return numbers.get(one, facts.values[one])

        def after(one: Node) -> Any:
            value = before(old[one])
            return cut(value, self.kept[old[one]]) if isinstance(value, Tensor) else value

        whole = node.target(*map_arg(node.args, before), **map_arg(dict(node.kwargs), before))  # type: ignore[operator]
        try:
            found = new.target(*map_arg(new.args, after), **map_arg(dict(new.kwargs), after))  # type: ignore[operator]
        except (RuntimeError, IndexError, ValueError, TypeError):  # torch refuses the sizes
            return False
        return torch.equal(found, cut(whole, self.kept[node]))

    def program(self) -> Program:
        """The program that was written."""
        erase_unused(self.graph)
        names = {str(node.target) for node in self.graph.find_nodes(op="get_attr")}
        before = self.analysis.program
        new = names - {*before.constants}
        return Program(
            self.graph,
            before.inputs,
            {name: value for name, value in self.constants.items() if name in names},
            before.trained & names | new,
            before.stored & names | new,
            before.structure,
        )


def rewritten(analysis: Analysis) -> tuple[Program, dict[Node, Axes]]:
    """The program without what goes, and the places that are kept of each value; InputError for a random one."""
    whole: set[Node] = set()
    while True:
        kept = analysis.kept(whole)
        writing = Rewriting(analysis, kept)
        wrong = writing.write()
        if wrong is None:
            return writing.program(), kept
        if wrong in whole:  # with the very same operands
            raise refused("net", f"computes other numbers each time, by {name_of(wrong)}, so it is not a function")
        whole.add(wrong)


def same(found: Any, wanted: Tensor, read: Tensor) -> bool:
    """Whether a tensor is what it should be, to rounding, where it is read."""
    if not isinstance(found, Tensor) or found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if not wanted.is_floating_point():
        return torch.equal(found[read], wanted[read])
    one, other = found[read].double(), wanted[read].double()
    finite = other[other.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=TOLERANCE.get(wanted.dtype, 1e-2) * scale, equal_nan=True)
