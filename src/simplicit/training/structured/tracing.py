r"""Which rows of a network each of its values depends on: labels, carried through the graph.

Every row of a layer has a label. A value has the label of the row that it depends on; where it depends on several,
their labels are put into one class, and stand for one *unit*: what is read of it is read of all. So the labels at a
layer's columns say which unit each column reads, whatever stands between: activations and norms of a channel, pooling,
views; products of gates, whose rows go together; attention, in which the rows of queries, keys and values of a head do,
and heads do not. A layer starts anew: its rows depend on its columns, which a weight of zero cuts.

An operation that is not known here puts all labels that it is given into one class. That is right for every operation,
if coarse: the label of a value names *at least* the rows that it depends on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg

from simplicit.checks import lookups_checked
from simplicit.network.graph import NetworkGraph
from simplicit.network.kinds import PLACES, Kind, arguments_of, axes_of, image_rank, kind_of
from simplicit.network.operations import name_of
from simplicit.network.trees import leaves, mapped
from simplicit.training.channels.layers import ChannelLayer, Use
from simplicit.training.structured.classes import Classes

_aten = torch.ops.aten

_SUMS = frozenset({"add", "sub", "rsub"})


class Traced(Interpreter):
    """The labels of a graph, found by running it on the samples that it was traced with.

    ``classes`` are those of all labels, ``rows`` the labels of each layer's rows, (rows,), and ``columns`` those of its
    columns, (groups, columns), by its name; ``outputs`` are the labels that the network's output has. ``positions``
    says at how many positions of a sample each layer is used.
    """

    def __init__(self, graph: NetworkGraph, layers: Sequence[ChannelLayer]) -> None:
        super().__init__(graph.module)
        self.classes = Classes()
        self.rows = {one.name: self.classes.add(one.rows, number) for number, one in enumerate(layers)}
        self.columns = {one.name: torch.zeros(one.groups, one.columns, dtype=torch.int64) for one in layers}
        self.positions = dict.fromkeys(self.rows, 0)
        self._uses = {use.node: (layer, use) for layer in layers for use in layer.uses}
        self._labels: dict[Node, Any] = {}
        own = next(n for n in graph.module.graph.find_nodes(op="placeholder") if n.name not in graph.constants)
        self._labels[own] = torch.zeros(graph.example.shape, dtype=torch.int64)
        self._samples = len(graph.example)
        with torch.no_grad(), lookups_checked():
            self.run(*graph.constants.values(), graph.example)
        self.outputs = self.classes.roots(torch.unique(self._labels[graph.output]))

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and any(one in self._labels for one in n.all_input_nodes):
            self._labels[n] = self._of(n, value)
        return value

    def _of(self, node: Node, value: Any) -> Any:
        """The labels of a node's value: a tensor like it, or a list of them; None for what is no tensor."""
        if node.target is operator.getitem:
            inner = self._labels[node.all_input_nodes[0]]
            return inner[int(node.args[1])] if isinstance(inner, list | tuple) else inner  # type: ignore[arg-type]
        if not any(isinstance(leaf, Tensor) for leaf in leaves(value)):
            return None
        if node in self._uses:
            return self._of_layer(*self._uses[node], value)
        labels = [one for one in map(self._labels.get, node.all_input_nodes) if one is not None]
        if not labels or any(isinstance(one, list | tuple) for one in labels):
            return self._of_unknown(labels, value)
        rule = self._rule(node)
        found = None if rule is None else rule(node, value)
        return self._of_unknown(labels, value) if found is None else found

    def _rule(self, node: Node) -> Callable[[Node, Any], Any] | None:
        return {
            Kind.ATTENTION: self._of_attention,
            Kind.PRODUCT: self._of_product,
            Kind.CONTRACTION: self._of_contraction,
            Kind.STATISTICS: self._of_statistics,
            Kind.IMAGE: self._of_image,
            Kind.MOVED: self._of_moved,
            Kind.NUMBERS: self._of_numbers,
            None: None,
        }[kind_of(node)]

    def _of_layer(self, layer: ChannelLayer, use: Use, value: Tensor) -> Tensor:
        """Note what a layer's columns read, and give its rows their own labels."""
        features = use.form.features(self._label(use.source).double()).long()
        self.positions[layer.name] += features.shape[2] // self._samples
        columns = self.columns[layer.name]
        columns = self.classes.join(columns, self.classes.join_along(features, [2])[:, :, 0])
        self.columns[layer.name] = columns
        rows = self.rows[layer.name]
        if passes(layer):
            channels = self.classes.join_along(columns, [1])
            rows = self.classes.join(rows.reshape(layer.groups, -1), channels).reshape(-1)
        places = use.form.laid(torch.arange(value.numel()).reshape(value.shape))
        shape = [1] * places.ndim
        shape[use.form.channel] = len(rows)
        labels = torch.zeros(value.numel(), dtype=torch.int64)
        labels[places] = rows.reshape(shape).expand(places.shape)
        return labels.reshape(value.shape)

    def _of_unknown(self, labels: list[Any], value: Any) -> Any:
        """All in one class."""
        flat = [one.reshape(-1) for one in leaves(labels) if isinstance(one, Tensor)]
        whole = torch.cat([*flat, torch.zeros(1, dtype=torch.int64)])
        label = self.classes.join_along(whole, [0])
        if isinstance(value, Tensor):
            return label.reshape([1] * value.ndim).expand(value.shape)
        return [label.reshape([1] * one.ndim).expand(one.shape) for one in leaves(value) if isinstance(one, Tensor)]

    def _of_numbers(self, node: Node, value: Any) -> Any:
        """An operation on numbers at the same place of all operands."""
        given = [self._labels[one] for one in node.all_input_nodes if self._labels.get(one) is not None]
        result = given[0]
        for other in given[1:]:
            result = self.classes.join(result, other, adding=name_of(node) in _SUMS)
        first = value if isinstance(value, Tensor) else value[0]
        if result.shape != first.shape:
            if first.ndim < result.ndim or first.numel() < result.numel():
                return None
            result = result.expand(first.shape)
        return result if isinstance(value, Tensor) else [result, *[None] * (len(value) - 1)]

    def _of_moved(self, node: Node, value: Any) -> Any:
        """An operation that moves elements, done to their labels."""
        arguments = arguments_of(node)
        places = {name: arguments[name] for name in arguments.keys() & PLACES}
        if any(one in self._labels for one in leaves(places) if isinstance(one, Node)):
            return None
        operands = {name: one for name, one in arguments.items() if name not in places and name != "value"}
        target: Any = node.target
        # Not every operation that moves elements is there for integers.
        moved = mapped(lambda one: one.double() if isinstance(one, Tensor) else one, map_arg(operands, self._label))
        given = moved | map_arg(places, self.env.__getitem__)
        if "value" in arguments and name_of(node) in ("fill", "masked_fill"):
            given["value"] = 0
        return mapped(lambda one: one.long() if isinstance(one, Tensor) else one, target(**given))

    def _label(self, node: Node) -> Any:
        """What stands for a node in an operation that moves elements: labels for tensors, or sizes as they are."""
        if (labels := self._labels.get(node)) is not None:
            return labels
        value = self.env[node]
        return torch.zeros(value.shape, dtype=torch.int64) if isinstance(value, Tensor) else value

    def _of_statistics(self, node: Node, value: Any) -> Any:
        """What is computed along some axes: sums, softmax, norms."""
        labels, arguments = self._labels.get(node.all_input_nodes[0]), arguments_of(node)
        if labels is None or sum(one in self._labels for one in node.all_input_nodes) > 1:
            return None
        first = value if isinstance(value, Tensor) else value[0]
        if name_of(node) == "group_norm":
            parts = labels.reshape(len(labels), int(arguments["num_groups"]), -1)
            return self.classes.join_along(parts, [2]).expand(parts.shape).reshape(labels.shape)
        axes = axes_of(node, arguments, labels.ndim)
        largest = self.classes.join_along(labels, axes)
        if first.ndim < labels.ndim:
            largest = largest.squeeze(axes) if axes else largest
        result = largest.expand(first.shape)
        return result if isinstance(value, Tensor) else [result, *[None] * (len(value) - 1)]

    def _of_image(self, node: Node, value: Any) -> Any:
        """What is computed within a channel of an image."""
        labels = self._labels.get(node.all_input_nodes[0])
        rank = image_rank(node)
        if labels is None or not rank:
            return None
        largest = self.classes.join_along(labels, [*range(labels.ndim - rank, labels.ndim)])
        if isinstance(value, Tensor):
            return largest.expand(value.shape)
        return [largest.expand(one.shape) for one in value]

    def _of_product(self, node: Node, value: Tensor) -> Any:
        """A product of matrices of states."""
        one, other = (self._labels.get(argument) for argument in node.args[:2])  # type: ignore[arg-type]
        if one is None or other is None or min(one.ndim, other.ndim) < 2:
            return None
        rows, columns = self.classes.join_along(one, [one.ndim - 1]), self.classes.join_along(other, [other.ndim - 2])
        return self.classes.join(rows, columns).expand(value.shape)

    def _of_contraction(self, node: Node, value: Tensor) -> Any:
        """A sum of products of states that is written out."""
        equation, operands = node.args[:2]
        inputs, arrow, result = str(equation).replace(" ", "").partition("->")
        if not arrow or "." in inputs or any(len(set(one)) < len(one) for one in inputs.split(",")):
            return None
        found = torch.zeros([1] * value.ndim, dtype=torch.int64)
        for names, operand in zip(inputs.split(","), operands, strict=True):  # type: ignore[arg-type]
            kept = "".join(name for name in names if name in result)
            largest = self.classes.join_along(
                self._label(operand),
                [axis for axis, name in enumerate(names) if name not in result],
            ).reshape([value.shape[result.index(name)] for name in kept])
            order = sorted(range(len(kept)), key=lambda axis: result.index(kept[axis]))
            places = [value.shape[axis] if name in kept else 1 for axis, name in enumerate(result)]
            found = self.classes.join(found, largest.permute(order).reshape(places))
        return found.expand(value.shape)

    def _of_attention(self, node: Node, value: Tensor) -> Any:
        """Scaled dot product attention: a head is one unit."""
        arguments = arguments_of(node)
        given = [arguments["query"], arguments["key"], arguments["value"]]
        mask = arguments.get("attn_mask")
        if isinstance(mask, Node) and bool((self._label(mask) != 0).any()):
            return None
        heads = value.shape[:-2]
        result = torch.zeros(*heads, 1, 1, dtype=torch.int64)
        for one in given:
            labels = self.classes.join_along(self._label(one), [value.ndim - 2, value.ndim - 1])
            if labels.shape[:-2] != heads and arguments.get("enable_gqa"):
                labels = labels.repeat_interleave(heads[-1] // labels.shape[-3], -3)
            result = self.classes.join(result, labels)
        return result.expand(value.shape)


def passes(layer: ChannelLayer) -> bool:
    """Whether every row of a layer is computed from one channel alone, and goes with it: a depthwise convolution."""
    return layer.geometry is not None and layer.groups > 1 and layer.columns == prod(layer.geometry.kernel)
