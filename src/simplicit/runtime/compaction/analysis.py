r"""What varies with a program's inputs, what its outputs read, and which places of each value are kept.

Forwards, an element of a value varies where something that it depends on does; else it is the constant that it is for
the samples that were tried. Backwards, it is read where an element of an output, or one that is read, depends on it.
Then places are kept from none upwards: all of inputs and outputs, those that products need, and what has to stay
together with these, until nothing changes. What is kept is as small as the values can be while they remain tensors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.fx import Node

from simplicit.network.kinds import Kind, kind_of
from simplicit.network.operations import name_of
from simplicit.network.trees import leaves
from simplicit.runtime.compaction.products import Attention, Convolution, Product
from simplicit.runtime.compaction.program import Program
from simplicit.runtime.compaction.rules import (
    Along,
    Axes,
    Channels,
    Facts,
    Halves,
    Lookup,
    Moved,
    Numbers,
    Place,
    Rule,
)

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
_FILLED = frozenset({"fill", "masked_fill", "where", "expand"})
_NORMED = frozenset({"layer_norm", "rms_norm"})
#: Numbers among their arguments are sizes.
_SHAPED = frozenset({"expand", "zeros", "ones", "full", "new_zeros", "new_ones", "new_full"})
#: They read nothing of values but their sizes.
_SIZES = frozenset({"sym_size", "sym_numel", "sym_stride"})


class Analysis:
    """The facts of a program, and the rules of its operations, for the arrays of some samples."""

    def __init__(self, program: Program, arrays: Mapping[str, Tensor]) -> None:
        self.program = program
        self.facts = Facts(program.values(arrays), {}, {})
        self.rules: dict[Node, Rule] = {}
        for node in program.graph.nodes:
            self._see(node)
        self._read()

    def _see(self, node: Node) -> None:
        """What of a node's value varies."""
        values, varies = self.facts.values, self.facts.varies
        value = values.get(node)
        if value is not None and node.op in ("placeholder", "get_attr"):
            varies[node] = torch.full(value.shape, node.op == "placeholder")
        if node.op != "call_function" or not any(isinstance(one, Tensor) for one in leaves(value)):
            return
        self.rules[node] = rule = self._rule(node)
        found = [rule.depends(*one) for one in self._varying(rule)]
        own = torch.zeros(value.shape if isinstance(value, Tensor) else (), dtype=torch.bool)
        for pattern in found:
            own |= pattern > 0
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        varies[node] = own | (random or self._counts_samples(node, rule))

    def _varying(self, rule: Rule) -> Iterator[tuple[int, Tensor]]:
        lists = [one for one in rule.node.all_input_nodes if isinstance(self.facts.values[one], list | tuple)]
        if any(bool(self.facts.varies[one].any()) for one in lists):
            # What comes out of several results varies as a whole.
            rule.depends = lambda number, pattern: torch.ones(rule.value.shape)  # type: ignore[method-assign]
            yield 0, torch.ones(())
        for number, operand in enumerate(rule.operands):
            if bool(self.facts.varies[operand].any()):
                yield number, self.facts.varies[operand].float()

    def _counts_samples(self, node: Node, rule: Rule) -> bool:
        """Whether a value may depend on the number of samples, other than by its size."""
        numbers = [one for one in node.all_input_nodes if isinstance(self.facts.values[one], int | float)]
        return bool(numbers) and not isinstance(rule, Moved) and name_of(node) not in _SHAPED

    def _rule(self, node: Node) -> Rule:
        kind = _class_of(node, self.facts)
        return kind(node, self.facts)

    def _read(self) -> None:
        """What is read of each value, from the outputs on."""
        read, values = self.facts.read, self.facts.values
        for node, value in values.items():
            shape = value.shape if isinstance(value, Tensor) else ()
            read[node] = torch.zeros(shape, dtype=torch.bool)
        for node in leaves(self.program.outputs):
            if isinstance(node, Node):
                read[node] |= True
        for node, rule in reversed(self.rules.items()):
            if not bool(read[node].any()):
                continue
            for number, operand in enumerate(rule.operands):
                if bool(self.facts.varies[operand].any()):
                    read[operand] |= self._read_of(rule, number, operand)
            for one in node.all_input_nodes:
                if isinstance(values[one], list | tuple):
                    read[one] |= True

    def _read_of(self, rule: Rule, number: int, operand: Node) -> Tensor:
        pattern = torch.ones(self.facts.values[operand].shape, requires_grad=True)
        with torch.enable_grad():
            result = rule.depends(number, pattern)
        if not result.requires_grad:
            return torch.zeros(pattern.shape, dtype=torch.bool)
        like = self.facts.read[rule.node].float().expand(result.shape)
        (found,) = torch.autograd.grad(result, pattern, like)
        return found > 0

    def kept(self, whole: Iterable[Node] = ()) -> dict[Node, Axes]:
        """For each value and each of its axes the places that are kept; all of nodes that stay ``whole``."""
        return _Keeping(self, {*whole}).found


def _class_of(node: Node, facts: Facts) -> type[Rule]:
    """The kind of rule that an operation has."""
    name, kind, value = name_of(node), kind_of(node), facts.values[node]
    operands = Rule(node, facts).operands
    if not isinstance(value, Tensor) or not operands or len(operands) > len([*leaves((node.args, dict(node.kwargs)))]):
        return Rule
    if any(isinstance(facts.values[one], list | tuple) for one in node.all_input_nodes):
        return Rule
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and kind is not Kind.ATTENTION:
        return Rule
    given = Rule(node, facts).given
    if name in _CONVOLUTIONS:
        weight = given["weight"]
        batched = facts.values[operands[0]].ndim == facts.values[weight].ndim
        still = not any(bool(facts.varies[one].any()) for one in operands[1:])
        return Convolution if batched and still else Rule
    if name in ("linear", "addmm") or kind in (Kind.PRODUCT, Kind.CONTRACTION):
        return Product if name != "einsum" or _is_plain(node) else Rule
    if name == "embedding":
        return Lookup
    if name == "glu":
        return Halves
    return _other_class(node, facts, operands)


def _other_class(node: Node, facts: Facts, operands: list[Node]) -> type[Rule]:
    name, kind, value = name_of(node), kind_of(node), facts.values[node]
    given = Rule(node, facts).given
    if kind is Kind.ATTENTION:
        return Attention if value.ndim > 2 else Rule
    if name == "prelu" or (name == "batch_norm" and not given["training"]):
        return Channels if facts.values[operands[0]].ndim > 1 else Rule
    if (kind is Kind.STATISTICS and name != "group_norm" and "norm" not in name) or name in _NORMED:
        return Along
    if kind is Kind.IMAGE and given.get("return_indices") is None:
        return Along if value.ndim == facts.values[operands[0]].ndim else Rule
    if kind is Kind.NUMBERS or name in _FILLED:
        shape = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
            *(facts.values[one].shape for one in operands)
        )
        return Numbers if name == "expand" or shape == value.shape else Rule
    if kind is Kind.MOVED:
        still = Moved(node, facts).still
        return Rule if any(bool(facts.varies[operands[number]].any()) for number in still) else Moved
    return Rule


def _is_plain(node: Node) -> bool:
    """Whether a sum of products that is written out is one of two operands, without repeated or missing letters."""
    inputs, arrow, result = str(node.args[0]).replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow or "." in inputs or len(terms) != 2 or any(len({*term}) < len(term) for term in terms):
        return False
    one, other = ({*term} for term in terms)
    return one - other <= {*result} and other - one <= {*result} and inputs.islower()


class _Keeping:
    """Places that are kept, from none upwards."""

    def __init__(self, analysis: Analysis, whole: set[Node]) -> None:
        self._analysis = analysis
        values = analysis.facts.values
        self.found: dict[Node, Axes] = {
            node: [torch.zeros(length, dtype=torch.bool) for length in value.shape]
            for node, value in values.items()
            if isinstance(value, Tensor)
        }
        self._links: dict[Place, list[Place]] = defaultdict(list)
        self._grown: dict[Node, list[Rule]] = defaultdict(list)
        self._left: dict[Node, None] = {}
        self._start(whole)
        self._spread()
        while self._fill():
            self._spread()

    def _start(self, whole: set[Node]) -> None:
        """All that is kept whatever else is, and what stays together."""
        graph = self._analysis.program.graph
        ends = [one for one in leaves(self._analysis.program.outputs) if isinstance(one, Node)]
        for node in (*graph.find_nodes(op="placeholder"), *ends, *whole):
            self._keep_all(node)
        for node in graph.nodes:
            if name_of(node) in _SIZES:
                for one in node.all_input_nodes:
                    self.keep((one, int(node.args[1])), True)
        for node, rule in self._analysis.rules.items():
            if node in whole:
                for one in rule.operands:
                    self._keep_all(one)
            for place in rule.fixed():
                self.keep(place, True)
            for place, needed in rule.needs():
                self.keep(place, needed)
            for one, other in rule.links():
                self._links[one].append(other)
                self._links[other].append(one)
            if type(rule).grow is not Rule.grow:
                for one in {node, *rule.operands}:
                    self._grown[one].append(rule)
                self._left[node] = None

    def _keep_all(self, node: Node) -> None:
        for axis in range(len(self.found.get(node, ()))):
            self.keep((node, axis), True)

    def keep(self, place: Place, more: Tensor | bool) -> None:
        """Keep more places along an axis."""
        node, axis = place
        before = self.found[node][axis]
        after = before | more
        if not torch.equal(after, before):
            self.found[node][axis] = after
            self._left[node] = None

    def _spread(self) -> None:
        while self._left:
            node = next(iter(self._left))
            del self._left[node]
            for axis, places in enumerate(self.found[node]):
                for other in self._links.get((node, axis), ()):
                    self.keep(other, places)
            for rule in self._grown.get(node, ()):
                for one, axes in rule.grow(self.found):
                    for axis, places in enumerate(axes):
                        self.keep((one, axis), places)

    def _fill(self) -> bool:
        """Keep the first place where an axis has none, since most operations refuse tensors without elements."""
        for node, axes in self.found.items():
            for axis, places in enumerate(axes):
                if len(places) and not bool(places.any()):
                    self.keep((node, axis), torch.arange(len(places)) == 0)
        return bool(self._left)
