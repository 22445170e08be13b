r"""The layers of a graph whose rows are tied: convolutions and linear maps, with what follows them.

A convolution with kernel K computes, at every output position, the same linear map of the patch that it sees:
z = W φ + b, with W the kernel as a matrix (channels out, channels in × kernel size). Its rows in A are copies of the
rows of W, so that they are trained together: they are *tied*. A linear layer is the case of one patch.

What follows decides what a row may use and is measured by: a batch normalisation takes up any constant, a residual sum
lets the branch answer for the error of the skip path.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from simplicit.checks import refused
from simplicit.errors import InputError
from simplicit.network.graph import NetworkGraph, location
from simplicit.training.channels.patches import Geometry

_aten = torch.ops.aten

_CONVOLUTIONS = {
    _aten.conv1d.default,
    _aten.conv2d.default,
    _aten.conv3d.default,
    _aten.conv1d.padding,
    _aten.conv2d.padding,
    _aten.conv3d.padding,
    _aten.convolution.default,
}
_LINEAR = {_aten.linear.default}
#: Operations that multiply by a weight in a way that is not trained here.
_OTHER = {
    *(_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input),
    *(_aten.mm.default, _aten.matmul.default, _aten.bmm.default, _aten.mv.default, _aten.einsum.default),
    *(_aten.bilinear.default, _aten.embedding.default),
}
_NORMS = {_aten._native_batch_norm_legit_no_training.default: 6, _aten.batch_norm.default: 7}  # place of eps


@dataclass(frozen=True)
class Norm:
    """The batch normalisation right after a layer, y = γ(z − μ)/√(v + ε) + β, with statistics of its own.

    ``weight``, ``mean`` and ``variance`` are the placeholders of γ, μ and v, and ``result`` is y.
    """

    weight: str | None
    mean: str
    variance: str
    eps: float
    result: Node


@dataclass(frozen=True, eq=False)
class ChannelLayer:
    """A convolution or a linear map whose weight is a parameter of the network.

    ``name`` is the module's path, or the parameter's name. ``node`` is z, ``source`` what the layer is applied to, and
    ``skip`` what is added to the (normalised) result. ``weight``, of that ``shape``, and ``bias`` are placeholders; a
    bias is free if it is a parameter, which takes up a constant, and not a buffer, which stays. A linear map has no
    ``geometry``.
    """

    name: str
    node: Node
    source: Node
    weight: str
    bias: str | None
    free_bias: bool
    shape: tuple[int, ...]
    geometry: Geometry | None
    norm: Norm | None
    skip: Node | None

    @property
    def result(self) -> Node:
        """z, or what the norm makes of it."""
        return self.node if self.norm is None else self.norm.result

    @property
    def groups(self) -> int:
        """Parts of the channels that do not see each other."""
        return self.geometry.groups if self.geometry else 1

    @property
    def rows(self) -> int:
        """Output channels."""
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(torch.Size(self.shape).numel())

    @property
    def constant(self) -> bool:
        """Whether a constant per row is free."""
        return self.free_bias or self.norm is not None


def has_convolutions(graph: NetworkGraph) -> bool:
    """Whether the graph has a convolution with a parameter as its kernel."""
    names = _parameter_names(graph)
    convolutions = (node for node in graph.module.graph.nodes if node.target in _CONVOLUTIONS)
    return any(isinstance(node.args[1], Node) and _depends_on(node.args[1], names) for node in convolutions)


def in_layers(graph: NetworkGraph) -> bool:
    """Whether all weights of a graph are those of convolutions and linear layers of their own."""
    try:
        return len(channel_layers(graph)) > 0
    except InputError:
        return False


def check_tied(structure: str) -> None:
    """Refuse another structure than the baseline's for a network with convolutions."""
    if structure != "baseline":
        raise refused(
            "structure",
            f"got {structure!r}; a network with convolutions takes 'baseline', for the rows of a convolution are tied "
            "to its kernel; others go with chosen states, as Matching(states='blocks') has them",
        )


def channel_layers(graph: NetworkGraph) -> list[ChannelLayer]:
    """All layers with weights, in the order of evaluation.

    InputError is raised if a weight is computed from other parameters, used more than once, or used in another way, and
    if a bias is computed, or shared by two layers.
    """
    names = _parameter_names(graph)
    layers: list[ChannelLayer] = []
    for node in graph.module.graph.nodes:
        if node.target in _CONVOLUTIONS or node.target in _LINEAR:
            if (layer := _layer(graph, node, names)) is not None:
                layers.append(layer)
        elif node.target in _OTHER and (name := _weight_of(node, names)) is not None:
            raise refused(
                "net",
                f"parameter {name!r} is the weight of {node.target}, {location(node)}; tied rows are those of "
                "convolutions and linear layers: write it as one of them",
            )
    _check_shared(graph, "weight of", {layer: layer.weight for layer in layers})
    corrected = {layer: layer.bias for layer in layers if layer.bias and layer.free_bias and layer.norm is None}
    _check_shared(graph, "bias of", corrected)
    return layers


def _check_shared(graph: NetworkGraph, what: str, placeholders: dict[ChannelLayer, str]) -> None:
    """Refuse a tensor that two layers would change."""
    seen: dict[int, ChannelLayer] = {}
    for layer, placeholder in placeholders.items():
        place = graph.constants[placeholder].data_ptr()
        if place in seen:
            raise refused(
                "net",
                f"the {what} {layer.name!r} is used twice, {location(seen[place].node)} and {location(layer.node)}; "
                "each use would need one of its own: give every use its own module",
            )
        seen[place] = layer


def _parameter_names(graph: NetworkGraph) -> dict[str, str]:
    """From placeholder to the parameter's name in the network."""
    by_place = {tensor.data_ptr(): name for name, tensor in graph.network.named_parameters(remove_duplicate=False)}
    return {
        name: by_place[t.data_ptr()] for name, t in graph.constants.items() if t.data_ptr() in by_place and t.numel()
    }


def _weight_of(node: Node, names: dict[str, str]) -> str | None:
    """The parameter with two dimensions or more that a node multiplies by, seen through transposes."""
    turns = {_aten.t.default, _aten.transpose.int, _aten.permute.default}
    for argument in node.all_input_nodes:
        source = argument
        while source.target in turns:
            source = source.all_input_nodes[0]
        if source.op == "placeholder" and source.name in names and source.meta["val"].ndim >= 2:
            return names[source.name]
    return None


def _layer(graph: NetworkGraph, node: Node, names: dict[str, str]) -> ChannelLayer | None:
    source, weight, bias = (*node.args, None)[:3]
    assert isinstance(source, Node)
    if not isinstance(weight, Node) or weight.name not in names:
        if isinstance(weight, Node) and not _depends_on(weight, names):
            return None  # a kernel that is a constant, such as a blur
        raise refused(
            "net",
            f"the weight of {node.target}, {location(node)}, is computed from other parameters or from the input; "
            "remove the parametrisation first (torch.nn.utils.parametrize.remove_parametrizations)",
        )
    shape, norm = tuple(weight.meta["val"].shape), _norm(node)
    return ChannelLayer(
        name=names[weight.name].removesuffix(".weight"),
        node=node,
        source=source,
        weight=weight.name,
        bias=_bias(graph, node, bias),
        free_bias=isinstance(bias, Node) and bias.name in names,
        shape=shape,
        geometry=None if node.target in _LINEAR else _geometry(node, shape),
        norm=norm,
        skip=_skip(node if norm is None else norm.result),
    )


def _bias(graph: NetworkGraph, node: Node, bias: Any) -> str | None:
    """The placeholder of a layer's bias."""
    if bias is None:
        return None
    if not isinstance(bias, Node) or bias.name not in graph.constants:
        raise refused(
            "net", f"the bias of {node.target}, {location(node)}, is computed; store it as a parameter or a buffer"
        )
    return bias.name


def _depends_on(node: Node, names: dict[str, str]) -> bool:
    """Whether a value depends on a parameter or on the input, rather than on constants alone."""
    placeholders = (one.name for one in nodes_before(node) if one.op == "placeholder")
    return any(name in names or not name.startswith(("b_", "c_")) for name in placeholders)


def _geometry(node: Node, shape: tuple[int, ...]) -> Geometry:
    kernel = shape[2:]
    given: list[Any] = list(node.args[3:])
    if node.target is _aten.convolution.default:
        stride, padding, dilation, transposed, _, groups = given
        if transposed:
            raise refused(
                "net",
                f"{location(node)} is a transposed convolution, whose rows are tied in another way; it cannot be "
                "trained here",
            )
    else:
        defaults: list[Any] = [1, 0, 1, 1]
        stride, padding, dilation, groups = given + defaults[len(given) :]
    return Geometry.of(kernel, stride, padding, dilation, groups)


def _only_user(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _norm(node: Node) -> Norm | None:
    """The batch norm that alone reads a layer's result and whose statistics no other node reads."""
    user = _only_user(node)
    if user is None or user.target not in _NORMS or user.args[0] is not node:
        return None
    _, weight, _, mean, variance = user.args[:5]
    eps = user.args[_NORMS[user.target]]
    result: Node | None = user
    if user.target is _aten._native_batch_norm_legit_no_training.default:
        result = _only_user(user)
        if result is None or result.target is not operator.getitem or result.args[1] != 0:
            return None
    if result is None or not (isinstance(mean, Node) and isinstance(variance, Node)):
        return None
    if any(part.op != "placeholder" or len(part.users) != 1 for part in (mean, variance)):
        return None
    assert isinstance(eps, float)
    return Norm(weight.name if isinstance(weight, Node) else None, mean.name, variance.name, eps, result)


def _skip(after: Node) -> Node | None:
    """What is added to a node's value where it is only read by a sum."""
    user = _only_user(after)
    if user is None or user.target is not _aten.add.Tensor or user.kwargs.get("alpha", 1) != 1:
        return None
    others = [part for part in user.args[:2] if part is not after]
    if len(others) != 1 or not isinstance(others[0], Node):
        return None
    return others[0] if others[0].meta["val"].shape == after.meta["val"].shape else None


def nodes_before(node: Node) -> Iterator[Node]:
    """All that a node's value is computed from, itself included, in some order."""
    seen, left = {node}, [node]
    while left:
        one = left.pop()
        yield one
        for argument in one.all_input_nodes:
            if argument not in seen:
                seen.add(argument)
                left.append(argument)
