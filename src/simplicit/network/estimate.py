r"""How much memory a capture will need, from the shapes in the graph, before anything is computed.

Weights are there twice, in the network's copy and in the model. A moving operation is tried on identifiers in float64
(:mod:`~simplicit.network.moving`), one at a time. An operation that has no map of its own is written down entry by
entry, with three copies at its largest. Nothing else is larger than the network itself. A capture is refused where this
comes to more than three times the weights and the states of the samples at hand: for those the network itself needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import permutations
from typing import Any

from torch import Tensor
from torch.fx import Node

from simplicit.network.graph import NetworkGraph
from simplicit.network.linear import is_layer
from simplicit.network.moving import PROBES
from simplicit.network.operations import name_of, unsupported
from simplicit.network.registry import REGISTRY
from simplicit.network.rules import Moving

#: A capture may always take so many bytes.
ALWAYS = 2**28
# Times what the network itself needs; and what an entry takes that is written down: a number and a column, three times.
_TIMES, _ENTRY_BYTES = 3, 3 * 16
_BILINEAR = frozenset(["einsum", "matmul", "bmm", "inner"])
_IDENTIFIER_BYTES = 2 * 8 * max(PROBES)


def check_room(graph: NetworkGraph) -> None:
    """Refuse a graph that would take far more memory to capture than to run; UnsupportedOperationError says where."""
    weights = sum(value.nbytes for value in graph.constants.values())
    nodes = [node for node in graph.module.graph.nodes if node.op == "call_function"]
    states = sum(_size(node) for node in nodes if not _moves(node)) * graph.dtype.itemsize * graph.samples
    moved = max((_size(node) for node in nodes if _moves(node)), default=0) * _IDENTIFIER_BYTES
    written = {node: entries * _ENTRY_BYTES for node, entries in _written_down(graph)}
    need, room = 2 * weights + moved + sum(written.values()), max(ALWAYS, _TIMES * (weights + states))
    if need <= room or not written:
        return
    largest = max(written, key=written.__getitem__)
    raise unsupported(
        largest,
        f"written down entry by entry it would take {_mb(written[largest])} of the {_mb(need)} that the capture needs, "
        f"more than {_mb(room)}, three times the weights and the states of {graph.samples} samples; capture the "
        "network on smaller inputs, or replace this layer by linear or convolutional ones",
    )


def _mb(count: float) -> str:
    return f"{count / 2**20:,.0f} MB"


def _size(node: Node) -> int:
    """How many numbers a node's value has for one sample."""
    value = node.meta.get("val")
    return math.prod(_known(value)) if isinstance(value, Tensor) else 0


def _known(value: Tensor) -> list[int]:
    """The lengths of a tensor's dimensions but those that depend on the number of samples."""
    return [length for length in value.shape if isinstance(length, int)]


def _moves(node: Node) -> bool:
    return isinstance(REGISTRY.get(name_of(node)), Moving)


def _written_down(graph: NetworkGraph) -> Iterator[tuple[Node, int]]:
    """The operations of one varying operand without a map of their own, with the entries of their matrix."""
    varying: set[Node] = set()
    for node in graph.module.graph.nodes:
        if node.op == "placeholder" and node.name not in graph.constants:
            varying.add(node)
        operands = [one for one in node.all_input_nodes if one in varying]
        if operands and node.op == "call_function":
            varying.add(node)
        if len(operands) == 1:
            entries = _entries(node, operands[0])
            if entries:
                yield node, entries


def _entries(node: Node, operand: Node) -> int:
    """The entries of the matrix that an operation is written down as; 0 where it has a form of its own."""
    name, value = name_of(node), operand.meta["val"]
    if name == "cumsum" and isinstance(node.args[1], int) and node.args[1] % value.ndim:
        return _size(operand) * int(value.shape[node.args[1]]) // 2
    constants = [one for one in node.all_input_nodes if one is not operand]
    if name not in _BILINEAR or len(constants) != 1:
        return 0
    other: Tensor = constants[0].meta["val"]
    if name == "einsum":
        operands: Any = node.args[1]
        return _terms(str(node.args[0]), [value, other] if operands[0] is operand else [other, value])
    if name == "matmul" and other.ndim == 2:
        return 0
    contracted = value.shape[-1] if node.args[0] is operand else other.shape[-1]
    return _size(node) * int(contracted)


def _terms(equation: str, operands: list[Tensor]) -> int:
    """How many products an einsum takes for one sample; 0 where its axes have no names, or it has a map of its own."""
    inputs, _, output = equation.replace(" ", "").partition("->")
    names = inputs.split(",")
    if "." in equation or any(len(name) != one.ndim for name, one in zip(names, operands, strict=True)):
        return 0
    if any(is_layer(first, second, output) for first, second in permutations(names)):
        return 0
    shaped = [zip(name, one.shape, strict=True) for name, one in zip(names, operands, strict=True)]
    sizes = {axis: size for pairs in shaped for axis, size in pairs}
    return math.prod(size for size in sizes.values() if isinstance(size, int))
