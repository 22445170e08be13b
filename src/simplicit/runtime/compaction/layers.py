"""The layers of a program: products with weights of their own, as modules of torch that others may exchange."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import Node

from simplicit.network.kinds import arguments_of
from simplicit.runtime.compaction.program import Program

_aten = torch.ops.aten
_WEIGHT, _BIAS = "weight", "bias"


def take_layers(program: Program) -> dict[str, nn.Module]:
    """Write products as calls of layers, in the graph, and return these by their places; they hold no values yet.

    A layer is a linear map or a two-dimensional convolution by parameters ``place.weight`` and ``place.bias`` that
    nothing else reads, and beside which nothing stands. What else multiplies stays the function that it is.
    """
    layers: dict[str, nn.Module] = {}
    calls: dict[str, list[Node]] = {}
    for node in program.graph.nodes:
        if (place := _place_of(node, program)) is not None:
            calls.setdefault(place, []).append(node)
    for place, nodes in calls.items():
        own = {name for name in program.constants if name.startswith(f"{place}.")}
        read = [one for one in program.graph.find_nodes(op="get_attr") if str(one.target) in own]
        alike = len({(str(node.target), repr(_options(node)), node.args[2:3] == ()) for node in nodes}) == 1
        named = {str(one.target) for node in nodes for one in node.all_input_nodes[1:]}
        if not alike or named != own or any(user not in nodes for one in read for user in one.users):
            continue
        layers[place] = _layer(nodes[0], program)
        for node in nodes:
            with program.graph.inserting_before(node):
                node.replace_all_uses_with(program.graph.call_module(place, (node.args[0],)))
            program.graph.erase_node(node)
        for one in read:
            program.graph.erase_node(one)
    return layers


def _place_of(node: Node, program: Program) -> str | None:
    """Where the layer stands that a node may be; None where it is none."""
    if node.target not in (_aten.linear.default, _aten.conv2d.default) or node.kwargs:
        return None
    x, weight, *rest = node.args
    bias = rest[0] if rest else None
    place, _, own = str(weight.target).rpartition(".") if isinstance(weight, Node) else ("", "", "")
    if not isinstance(weight, Node) or weight.op != "get_attr" or not place or own != _WEIGHT or x is weight:
        return None
    if bias is not None and not (isinstance(bias, Node) and bias.target == f"{place}.{_BIAS}" and x is not bias):
        return None
    trained = {one.target for one in (weight, bias) if one is not None} <= program.trained
    return place if trained else None


def _options(node: Node) -> dict[str, Any]:
    """What a convolution is told beside its operands."""
    names = ("stride", "padding", "dilation", "groups")
    given = arguments_of(node)
    return {name: given[name] for name in names if name in given}


def _layer(node: Node, program: Program) -> nn.Module:
    """The layer of a node, without values."""
    weight = node.args[1]
    assert isinstance(weight, Node)
    shape, has_bias = program.constants[str(weight.target)].shape, len(node.all_input_nodes) > 2
    if node.target == _aten.linear.default:
        return nn.Linear(shape[1], shape[0], bias=has_bias, device="meta")
    options = _options(node)
    options = {name: tuple(value) if isinstance(value, list | tuple) else value for name, value in options.items()}
    inputs = shape[1] * int(options.get("groups", 1))
    return nn.Conv2d(inputs, shape[0], (shape[2], shape[3]), bias=has_bias, device="meta", **options)
