r"""From a graph to the implicit model: the affine values of its nodes, one after the other.

The input is the affine value u itself; a linear operation takes affine values to an affine value; an activation φ of
the affine value Σ_s M_s s + c opens a group of states

    x_g = φ(z_g),   z_g = Σ_s M_s s + c,

whose M_s are its blocks of A (s a group) and B (s the input) and whose c is its bias. The output's affine value gives
C, D and d. Every group depends on earlier ones only, so with the last one first, as in the paper, A is strictly block
upper triangular.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

from simplicit.checks import refused
from simplicit.errors import InputError, UnsupportedOperationError, first_line
from simplicit.implicit import Activation, ImplicitModel, LinearMap, StateGroup
from simplicit.implicit.groups import INPUT, OUTPUT
from simplicit.network.affine import Affine, NotAffineError, Vector
from simplicit.network.graph import NetworkGraph, location, module_path
from simplicit.network.moving import BatchSize, contains
from simplicit.network.registry import ADVICE, REGISTRY, spelled, summary
from simplicit.network.rewrites import REFUSALS, REWRITES
from simplicit.network.rules import Call, Elementwise, Filling, Rule

# What the model rounds to at its end holds whatever a network computes in its own dtype or in a wider one.
_WIDE_ENOUGH = {"float32": (torch.float32, torch.float64), "float64": (torch.float64,)}


def read_model(graph: NetworkGraph) -> tuple[ImplicitModel, dict[Node, StateGroup]]:
    """The implicit model, and its groups by the nodes that compute them, in the order of computation.

    UnsupportedOperationError is raised where an operation has no exact implicit form, InputError where the output does
    not depend on the input or a composed weight leaves the range of the dtype.
    """
    reader = _Reader(graph)
    return reader.model(), reader.activations


class _Reader:
    """The affine values of a graph's nodes, read once, front to back."""

    def __init__(self, graph: NetworkGraph) -> None:
        self._graph = graph
        self._pre_activations: dict[str, Affine] = {}
        self.activations: dict[Node, StateGroup] = {}
        self._values: dict[Node, Any] = {}
        for node in graph.module.graph.nodes:
            if node.op != "output":
                self._values[node] = self._value(node)

    def model(self) -> ImplicitModel:
        output = self._values[self._graph.output]
        if not isinstance(output, Affine):
            raise refused("net", "its output does not depend on the input")
        dtype = self._graph.dtype
        groups = tuple(reversed(self.activations.values()))
        blocks = {
            (row, source): _rounded(block, dtype, source, row)
            for row, value in {**self._pre_activations, OUTPUT: output}.items()
            for source, block in value.terms.items()
        }
        state_bias = [_rounded_bias(self._pre_activations[group.name].constant, dtype, group.name) for group in groups]
        return ImplicitModel(
            groups,
            blocks,
            n_inputs=math.prod(self._graph.input_shape),
            n_outputs=output.size,
            state_bias=np.concatenate([np.zeros(0, dtype), *state_bias]),
            output_bias=_rounded_bias(output.constant, dtype, OUTPUT),
            input_shape=self._graph.input_shape,
            output_shape=output.shape,
        )

    def _value(self, node: Node) -> Any:
        """An affine value, or a list of them, if it depends on the input, else what torch computes."""
        if node.op == "placeholder":
            constant = self._graph.constants.get(node.name)
            return Affine.source(INPUT, self._graph.input_shape) if constant is None else constant
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._graph.module)
        args, kwargs = map_arg((node.args, node.kwargs), self._values.__getitem__)
        dtypes = _dtypes(node)
        call = Call(node.target, args, kwargs, dtypes[0] if len(set(dtypes)) == 1 else None)
        try:
            return self._called(node, call)
        except NotAffineError as reason:
            raise _unsupported(node, str(reason)) from None
        except InputError as error:
            raise _unsupported(node, f"composed with the layers before it, {error}") from error
        except (RuntimeError, IndexError) as error:
            raise _unsupported(node, f"torch says: {first_line(error)}") from error

    def _called(self, node: Node, call: Call) -> Any:
        if not contains((Affine, BatchSize), (call.args, call.kwargs)):
            return _folded(call)
        if call.operation is operator.getitem:
            return call.operation(*call.args)
        if not contains(Affine, (call.args, call.kwargs)) and not isinstance(call.operation, torch._ops.OpOverload):
            return BatchSize.combined(call.operation, call.args)
        rule = _rule(node)
        # Constants that are made in another dtype have that dtype's values; nothing is computed with them yet.
        if not isinstance(rule, Filling):
            self._check_dtype(node)
        if not isinstance(rule, Elementwise):
            return rule(call)
        try:
            activation = rule(call)
        except InputError as error:
            raise NotAffineError(str(error)) from None
        return self._opened(node, call.args[0], activation)

    def _check_dtype(self, node: Node) -> None:
        """Refuse what torch computes in a dtype that truncates, wraps or rounds what the network's own keeps."""
        own = str(self._graph.dtype)
        for dtype in _dtypes(node):
            if dtype not in _WIDE_ENOUGH[own]:
                name = str(dtype).removeprefix("torch.")
                raise NotAffineError(f"it computes in {name}, while the network is in {own}")

    def _opened(self, node: Node, pre_activation: Affine, activation: Activation) -> Affine:
        """Open a new group, and return its states."""
        if pre_activation.size == 0:
            raise NotAffineError("it is applied to an empty tensor")
        group = StateGroup(self._group_name(node), pre_activation.size, activation)
        self.activations[node] = group
        self._pre_activations[group.name] = pre_activation
        return Affine.source(group.name, pre_activation.shape)

    def _group_name(self, node: Node) -> str:
        """The path of the activation's module, or of the calling module and the function, numbered if taken."""
        path, _ = module_path(node)
        module = dict(self._graph.network.named_modules()).get(path)
        is_own_module = bool(path) and module is not None and not any(module.children())
        name = path if is_own_module and path not in (INPUT, OUTPUT) else ".".join(filter(None, (path, _name(node))))
        numbered = (f"{name}_{k}" if k else name for k in range(len(self.activations) + 1))
        return next(candidate for candidate in numbered if candidate not in self._pre_activations)


def _rounded(block: LinearMap, dtype: np.dtype[Any], source: str, row: str) -> LinearMap:
    try:
        with np.errstate(over="ignore"):
            return block.astype(dtype)
    except InputError as error:
        raise _overflow(f"its linear layers from {source!r} to {row!r} compose to weights", dtype) from error


def _rounded_bias(bias: Vector, dtype: np.dtype[Any], row: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        rounded = bias.astype(dtype)
    if not np.isfinite(rounded).all():
        raise _overflow(f"the linear layers before {row!r} compose to a bias", dtype)
    return rounded


def _overflow(what: str, dtype: np.dtype[Any]) -> InputError:
    return refused("net", f"{what} beyond the range of {dtype}; use smaller weights, or net.double()")


def _folded(call: Call) -> Any:
    """What torch computes where nothing depends on the input."""
    if torch.Tag.nondeterministic_seeded in getattr(call.operation, "tags", ()):
        raise NotAffineError("it is random")
    with torch.no_grad():
        return call.operation(*call.args, **call.kwargs)


def _rule(node: Node) -> Rule:
    rule = REGISTRY.get(_name(node))
    if rule is None:
        packet = getattr(node.target, "overloadpacket", None)
        reason = REFUSALS.get(node.target) or ADVICE.get(_name(node), "there is no entry for it in the registry")
        if any(packet == known.overloadpacket for known in REWRITES) and node.target not in REWRITES:
            reason = f"of this operation, the form {spelled(node.target)!r} is not known; {reason}"
        raise NotAffineError(reason)
    return rule


def _dtypes(node: Node) -> list[torch.dtype]:
    """The dtypes of the tensors that a node computes."""
    return [leaf.dtype for leaf in tree_leaves(node.meta.get("val")) if isinstance(leaf, Tensor)]


def _name(node: Node) -> str:
    """The operation as the registry calls it: "relu" for aten.relu.default, "own.op" for another library's."""
    return spelled(getattr(node.target, "overloadpacket", getattr(node.target, "__name__", node.target)))


def _unsupported(node: Node, reason: str) -> UnsupportedOperationError:
    name, where = _name(node), location(node)
    message = f"operation {name!r} ({where}) has no exact implicit form: {reason}. {summary(name)}"
    return UnsupportedOperationError(message, operation=name, where=where)
