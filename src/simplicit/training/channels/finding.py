r"""The layers of a graph: which of its weights are trained, with their rows tied, and why others are left alone.

A weight is trained where all that uses it multiplies states (:mod:`~simplicit.training.channels.uses`) by the same
rows, so that nothing else changes with it: an embedding that is also the head's weight stays as it is, and so does a
weight that is computed in a way that cannot be undone (:mod:`~simplicit.training.channels.folding`). In a network that
looks up its inputs in an embedding the layer that makes the outputs, its *head*, is left alone too, unless it is asked
for: it belongs to a vocabulary or a task. Other networks have their last layer trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from simplicit.checks import refused
from simplicit.implicit import ImplicitModel
from simplicit.network.graph import NetworkGraph
from simplicit.training.channels.after import LAYING, added_bias, norm_after, skip_after
from simplicit.training.channels.forms import Linear, same_rows
from simplicit.training.channels.layers import ChannelLayer, Found, Use, nodes_before
from simplicit.training.channels.parts import Part, part_of
from simplicit.training.channels.uses import (
    CONVOLVING,
    KEPT,
    MULTIPLYING,
    Product,
    Weight,
    products,
    seen_through,
    view_of,
)

_aten = torch.ops.aten

#: Where a parameter lies in memory, and which part of it is meant; None for all of it.
Place = tuple[int, Part | None]

_COMPUTED = "a weight is computed from it, in a way that cannot be undone or that something else depends on"
_HEAD = "the head of a network with embeddings"


def has_convolutions(graph: NetworkGraph) -> bool:
    """Whether the graph has a convolution with a parameter as its kernel."""
    names = _parameter_names(graph)
    kernels = (node.args[1] for node in graph.module.graph.nodes if node.target in CONVOLVING)
    return any(isinstance(kernel, Node) and _depends_on(kernel, names) for kernel in kernels)


def has_tied_rows(graph: NetworkGraph) -> bool:
    """Whether a weight stands at several positions of a sample: pixels, tokens, or uses."""
    if has_convolutions(graph):
        return True
    return any(layer.shared or _has_positions(graph, layer.last) for layer in found_layers(graph).layers)


def are_all_weights(graph: NetworkGraph, model: ImplicitModel) -> bool:
    """Whether M of the graph's implicit model has the weights of its layers, each once, and nothing else; if there are
    constants, each layer has its own."""
    layers = found_layers(graph).layers
    own = [part_of(layer.part, graph.constants[layer.weight]).flatten() for layer in layers]
    values = np.sort(torch.cat([torch.zeros(0), *own]).numpy())
    if not np.array_equal(values[values != 0], np.sort(model.matrix.data)):
        return False
    return all(layer.free_bias for layer in layers) or not (model.state_bias.any() or model.output_bias.any())


def check_tied(structure: str) -> None:
    """Refuse another structure than the baseline's for a network with tied rows."""
    if structure != "baseline":
        raise refused(
            "structure",
            f"got {structure!r}; a network with rows tied over positions, of convolutions or tokens, takes 'baseline'; "
            "others go with chosen states, as Matching(states='blocks') has them",
        )


def channel_layers(graph: NetworkGraph) -> list[ChannelLayer]:
    """All layers that are trained unless other ones are asked for, in the order of their last uses."""
    return found_layers(graph).layers


def all_layers(graph: NetworkGraph) -> list[ChannelLayer]:
    """All layers that can be trained, the head among them."""
    found = found_layers(graph)
    return found.layers if found.head is None else [*found.layers, found.head]


def found_layers(graph: NetworkGraph) -> Found:
    """All layers of a graph, and the weights that are left alone."""
    names = _parameter_names(graph)
    uses: dict[Place, list[Product]] = {}
    for one in products(graph.module.graph.nodes, names):
        uses.setdefault((_place(graph, one.weight.placeholder), one.weight.part), []).append(one)
    holders = _holders(graph, names)
    left: dict[str, str] = {}
    layers: dict[Place, ChannelLayer] = {}
    biases = _free_biases(graph, names, uses)
    for (place, part), own in uses.items():
        beside = [(one, some) for one, some in uses.items() if one[0] == place and one[1] != part]
        reason = _refusal(graph, own, holders[place], [one for _, some in beside for one in some])
        if any(part is None or other is None or part.overlaps(other) for (_, other), _ in beside):
            reason = "used as a whole and in parts, or in parts that overlap"
        whole = names[own[0].weight.placeholder.name].removesuffix(".weight")
        name = whole if part is None else f"{whole}{part}"
        if reason is None:
            layers[place, part] = _layer(graph, name, own, [one.name for one in holders[place]], biases)
        else:
            left[name] = reason
    left |= _others(graph, names, {one.node for own in uses.values() for one in own}) | _beside(graph)
    order = {node: number for number, node in enumerate(graph.module.graph.nodes)}
    found = sorted(layers.values(), key=lambda layer: order[layer.node])
    head = _head(graph, found, names)
    if head is None:
        return Found(found, left)
    return Found([layer for layer in found if layer is not head], left | {head.name: _HEAD}, head)


def _head(graph: NetworkGraph, layers: list[ChannelLayer], names: dict[str, str]) -> ChannelLayer | None:
    """The layer that makes the outputs, in a network that looks up the numbers that it is given in an embedding."""
    lookups = (node for node in graph.module.graph.nodes if node.target is _aten.embedding.default)
    if len(layers) < 2 or not any(_depends_on(node.args[1], names) for node in lookups):
        return None
    last = set(_laid_before(graph.output))
    return next((layer for layer in layers if layer.node in last), None)


def _laid_before(node: Node) -> Iterator[Node]:
    """A node, and those of which it is only another layout, or a sum with a bias."""
    yield node
    while node.target in LAYING or node.target in (_aten.mul.Tensor, _aten.add.Tensor):
        inner = [one for one in node.all_input_nodes if one.op != "placeholder"]
        computed = [one for one in inner if any(own.op != "placeholder" for own in one.all_input_nodes)]
        if len(computed) != 1:
            return
        node = computed[0]
        yield node


def _place(graph: NetworkGraph, placeholder: Node) -> int:
    return graph.constants[placeholder.name].data_ptr()


def _parameter_names(graph: NetworkGraph) -> dict[str, str]:
    """From placeholder to the parameter's name in the network; of a computed weight that of what it is computed of.

    Of several weights that are computed of one parameter each has a number behind that.
    """
    by_place = {tensor.data_ptr(): name for name, tensor in graph.network.named_parameters(remove_duplicate=False)}
    names = {
        name: by_place[t.data_ptr()] for name, t in graph.constants.items() if t.data_ptr() in by_place and t.numel()
    }
    owners = [fold.parameter for fold in graph.folds.values()]
    for number, (name, fold) in enumerate(graph.folds.items()):
        before = owners[:number].count(fold.parameter)
        names[name] = f"{fold.parameter}:{before}" if owners.count(fold.parameter) > 1 else fold.parameter
    return names


def _holders(graph: NetworkGraph, names: dict[str, str]) -> dict[int, list[Node]]:
    """All placeholders of each parameter that something reads."""
    found: dict[int, list[Node]] = {}
    for node in graph.module.graph.find_nodes(op="placeholder"):
        if node.name in names and node.users:
            found.setdefault(_place(graph, node), []).append(node)
    return found


def _refusal(graph: NetworkGraph, uses: list[Product], holders: list[Node], beside: list[Product]) -> str | None:
    """Why a weight is left alone; None where it is a layer's. Other parts of the parameter are used ``beside``."""
    known = {one.node for one in (*uses, *beside)} | {turn for one in (*uses, *beside) for turn in one.weight.turns}
    other = next((user for holder in holders for user in _leaves(holder, known) if user not in known), None)
    if other is not None:
        target: Any = other.target
        return KEPT.get(target, f"also used by {target}")
    first, shape = uses[0], uses[0].weight.shape
    if any(not same_rows((first.form, first.weight.axes), (one.form, one.weight.axes), shape) for one in uses[1:]):
        return "used with its rows as columns too, which are no problems of their own"
    for one in uses:
        if one.bias is not None and view_of(one.bias, graph.constants) is None:
            return "its bias is computed"
        if isinstance(one.bias, Node) and one.bias.meta["val"].ndim != 1:
            return "its bias is no vector"
    return None


def _leaves(node: Node, known: set[Node]) -> Iterator[Node]:
    """What reads a weight, through the nodes that turn it."""
    for user in node.users:
        if user in known and user.target not in MULTIPLYING:
            yield from _leaves(user, known)
        else:
            yield user


def _others(graph: NetworkGraph, names: dict[str, str], known: set[Node]) -> dict[str, str]:
    """The weights that are multiplied by in another way, or of which such a weight is computed."""
    found: dict[str, str] = {}
    for node in graph.module.graph.nodes:
        if node.target not in MULTIPLYING or node in known:
            continue
        for argument in node.all_input_nodes:
            seen = seen_through(argument, names)
            if seen is not None:
                found[names[seen.placeholder.name]] = KEPT.get(node.target, f"multiplied by {node.target}")
            elif (name := _computed_from(graph, argument, names)) is not None:
                found[name] = _COMPUTED
    return {name.split(".parametrizations.")[0].removesuffix(".weight"): reason for name, reason in found.items()}


def _beside(graph: NetworkGraph) -> dict[str, str]:
    """The other parameters that a weight is computed of, which stay as they are."""
    own = {fold.parameter for fold in graph.folds.values()}
    found = {name: fold.parameter for fold in graph.folds.values() for name in fold.beside if name not in own}
    return {name.removesuffix(".weight"): f"part of the weight that {whole} makes" for name, whole in found.items()}


def _computed_from(graph: NetworkGraph, node: Node, names: dict[str, str]) -> str | None:
    """A parameter that a value is computed from, where it does not depend on the input."""
    before = [one for one in nodes_before(node) if one.op == "placeholder"]
    if node.op == "placeholder" or any(one.name not in graph.constants for one in before):
        return None
    known = [one for one in before if one.name in names]
    return next((names[one.name] for one in sorted(known, key=lambda one: -one.meta["val"].numel())), None)


def _free_biases(graph: NetworkGraph, names: dict[str, str], uses: dict[Place, list[Product]]) -> dict[Place, Place]:
    """The vectors, or parts of them, that are the bias of one weight alone, with the place of that weight."""
    owners: dict[Place, set[Place]] = {}
    counts: dict[Place, int] = {}
    nodes: dict[int, tuple[set[Node], set[Node]]] = {}
    for place, own in uses.items():
        for one in own:
            bias, _ = _bias_of(graph, one)
            if bias is not None and bias.placeholder.name in names:
                at = _place(graph, bias.placeholder)
                owners.setdefault((at, bias.part), set()).add(place)
                counts[at, bias.part] = counts.get((at, bias.part), 0) + 1
                turns, adding = nodes.setdefault(at, (set(), set()))
                turns.update(bias.turns)
                adding.add(one.node)
    holders = _holders(graph, names)
    free: dict[Place, Place] = {}
    for (at, part), places in owners.items():
        others = [other for one, other in owners if one == at and other != part]
        if part is None:
            alone = not others and sum(len(one.users) for one in holders[at]) == counts[at, part]
        else:
            turns, adding = nodes[at]
            read = {user for holder in holders[at] for user in _leaves(holder, turns)}
            alone = read <= adding and not any(other is None or part.overlaps(other) for other in others)
        if alone and len(places) == 1:
            free[at, part] = next(iter(places))
    return free


def _bias_of(graph: NetworkGraph, one: Product) -> tuple[Weight | None, Node]:
    """The bias of a product, in it or added after it, and the node behind it."""
    if isinstance(one.bias, Node):
        return view_of(one.bias, graph.constants), one.node
    added = added_bias(one.node) if one.bias is None and isinstance(one.form, Linear) else None
    return (None, one.node) if added is None else (view_of(added[0], graph.constants), added[1])


def _layer(
    graph: NetworkGraph, name: str, uses: list[Product], placeholders: list[str], free: dict[Place, Place]
) -> ChannelLayer:
    weight = uses[0].weight
    place = _place(graph, weight.placeholder), weight.part
    found = []
    for one in uses:
        bias, after = _bias_of(graph, one)
        norm = norm_after(after) if len(uses) == 1 else None
        result = after if norm is None else norm.result
        inside, name_of_bias = isinstance(one.bias, Node), None if bias is None else bias.placeholder.name
        found.append(
            Use(
                one.node,
                one.source,
                one.form,
                one.weight.axes,
                name_of_bias,
                inside,
                norm,
                result,
                skip_after(result),
                None if bias is None else bias.part,
            )
        )
    biases = {None if use.bias is None else (graph.constants[use.bias].data_ptr(), use.bias_part) for use in found}
    only = biases.pop() if len(biases) == 1 else None
    shape = weight.shape
    kernel = found[-1].form.kernel(torch.empty(shape, device="meta").permute(found[-1].axes))
    return ChannelLayer(
        name=name,
        placeholders=tuple(placeholders),
        shape=shape,
        uses=tuple(found),
        rows=int(kernel.shape[0] * kernel.shape[1]),
        free_bias=only is not None and free.get(only) == place,
        part=weight.part,
    )


def _has_positions(graph: NetworkGraph, use: Use) -> bool:
    """Whether a result has more than one position for each sample."""
    sizes = use.node.meta["val"].shape
    own = [node for node in graph.module.graph.find_nodes(op="placeholder") if node.name not in graph.constants]
    samples = {str(node.meta["val"].shape[0]) for node in own}
    return len(sizes) > 2 or not (isinstance(sizes[0], int) or str(sizes[0]) in samples)


def _depends_on(node: Node, names: dict[str, str]) -> bool:
    """Whether a value depends on a parameter or on the input, rather than on constants alone."""
    placeholders = (one.name for one in nodes_before(node) if one.op == "placeholder")
    return any(name in names or not name.startswith(("b_", "c_")) for name in placeholders)
