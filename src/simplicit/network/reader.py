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
from contextlib import suppress
from dataclasses import dataclass, replace
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
from simplicit.implicit import Activation, Block, ImplicitModel, LinearMap, StateGroup
from simplicit.implicit.groups import INPUT, OUTPUT
from simplicit.network.affine import Affine, MixingError, NotAffineError, Shape, Vector, joined
from simplicit.network.chains import Chain, Origins, chained, is_affine_step, is_wanted_by_chains, mapped_chains
from simplicit.network.expressions import Expression, MadeBlock, NotFiniteError, arranged, block_of, converted, is_leaf, mapped, operands_of
from simplicit.network.graph import NetworkGraph, location, module_path
from simplicit.network.layouts import Layout
from simplicit.network.moving import BatchSize, contains
from simplicit.network.registry import ADVICE, REGISTRY, spelled, summary
from simplicit.network.rewrites import REFUSALS, REWRITES
from simplicit.network.rules import Call, Elementwise, Filling, Moving, Rule

# What the model rounds to at its end holds whatever a network computes in its own dtype or in a wider one.
_WIDE = ("float32", "float64")
_WIDE_ENOUGH = {"float32": (torch.float32, torch.float64), "float64": (torch.float64,)}


@dataclass(frozen=True)
class OpenedGroup:
    """A group of states, and the nodes whose values are its pre-activations, one after the other, in their layouts.

    ``layout`` is that of the states in the value of the node that makes them, unless the group is a block.
    """

    group: StateGroup
    operands: tuple[tuple[Node, Layout | None], ...]
    layout: Layout | None


def read_model(graph: NetworkGraph) -> tuple[ImplicitModel, dict[Node, OpenedGroup]]:
    """The implicit model, and its groups by the nodes that compute them, in the order of computation.

    UnsupportedOperationError is raised where an operation has no exact implicit form, InputError where the output does
    not depend on the input or a composed weight leaves the range of the dtype.
    """
    reader = _Reader(graph)
    return reader.model(), reader.groups


class _Reader:
    """The affine values of a graph's nodes, read once, front to back."""

    def __init__(self, graph: NetworkGraph) -> None:
        self._graph = graph
        self._own = torch.float32 if graph.dtype == np.float32 else torch.float64
        self._pre_activations: dict[str, Affine] = {}
        self.groups: dict[Node, OpenedGroup] = {}
        self._values: dict[Node, Any] = {}
        self._settled: dict[Chain, Affine | Expression] = {}
        self._nodes: dict[int, Node] = {}  # that compute affine values, by the ids of these
        self._origins = Origins()
        for node in graph.module.graph.nodes:
            if node.op != "output":
                self._keep(node, self._value(node))

    def _keep(self, node: Node, value: Any) -> None:
        self._values[node] = value
        if isinstance(value, Affine):
            self._nodes.setdefault(id(value), node)

    def model(self) -> ImplicitModel:
        output = self._settle(self._values[self._graph.output])
        if isinstance(output, Expression):
            found = output.refusal or "its result is not one of floating-point numbers"
            raise _unsupported(self._graph.output, found)
        if not isinstance(output, Affine):
            raise refused("net", "its output does not depend on the input")
        if output.layout is not None:
            raise _unsupported(self._graph.output, "it moves the batch dimension, which must be the first of the output")
        dtype = self._graph.dtype
        groups = tuple(opened.group for opened in reversed(self.groups.values()))
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
        try:
            if not contains((Affine, BatchSize, Expression, Chain), (args, kwargs)):
                return _folded(Call(node.target, args, kwargs))
            return self._called(node, args, kwargs)
        except NotAffineError as reason:
            raise _unsupported(node, str(reason)) from None
        except InputError as error:
            raise _unsupported(node, f"composed with the layers before it, {error}") from error
        except (RuntimeError, IndexError) as error:
            raise _unsupported(node, f"torch says: {first_line(error)}") from error

    def _called(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.target is operator.getitem and not isinstance(args[0], Expression):
            return args[0][args[1]]
        if not contains((Affine, Expression, Chain), (args, kwargs)):
            if not isinstance(node.target, torch._ops.OpOverload):
                return BatchSize.combined(node.target, args)
            return self._applied(node, args, kwargs)
        if self._floats(node) and (chain := chained(node, args, kwargs, self._origins)) is not None:
            if not is_affine_step(node) or contains(Chain, (args, kwargs)):
                return chain if is_wanted_by_chains(node) or chain.expression.dtype == torch.bool else self._settle(chain)
        args, kwargs = mapped_chains(self._settle, (args, kwargs))
        return self._applied(node, args, kwargs)

    def _floats(self, node: Node) -> bool:
        """Whether all that a node is given are floating-point numbers, or truth values of a chain."""
        given = [self._values[one] for one in node.all_input_nodes]
        return all(
            not isinstance(value, Affine) or one.meta["val"].is_floating_point()
            for one, value in zip(node.all_input_nodes, given, strict=True)
            if isinstance(one.meta.get("val"), Tensor)
        )

    def _applied(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The affine value that an operation makes by its rule, else its expression or the states of its block."""
        if not contains(Expression, (args, kwargs)):
            try:
                return self._by_rule(node, args, kwargs)
            except MixingError:
                raise
            except NotAffineError as reason:
                return self._expressed(node, args, kwargs, str(reason))
        return self._expressed(node, args, kwargs, _reason(node))

    def _by_rule(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        dtypes, rule = _dtypes(node), _rule(node)
        # What only moves numbers, or makes constants, computes nothing in the dtype that it has them in.
        if not isinstance(rule, Filling | Moving):
            self._check_dtype(node)
        layout = None
        if not isinstance(rule, Filling | Moving) and _name(node) != "sym_size":
            layout = _common_layout(_name(node), args, kwargs)
        plain, named = (args, kwargs) if layout is None else mapped(lambda leaf: _laid_out(leaf, None), (args, kwargs))
        call = Call(node.target, plain, named, dtypes[0] if len(set(dtypes)) == 1 else None)
        if isinstance(rule, Elementwise):
            try:
                activation = rule(call)
            except InputError as error:
                raise NotAffineError(str(error)) from None
            return self._opened(node, [args[0]], activation, args[0].shape, layout)
        result = rule(call)
        if isinstance(result, Affine):
            result = result if isinstance(rule, Filling | Moving) else result.laid_out(layout)
            if is_affine_step(node):
                self._origins.note(result, Expression(node.target, args, kwargs, call.dtype))
        return result

    def _settle(self, value: Any) -> Any:
        """What a chain is, once and for all: an affine value, or the expression of its truth values."""
        if not isinstance(value, Chain):
            return value
        if value not in self._settled:
            self._settled[value] = settled = self._made(value)
            self._keep(value.node, settled)
        return self._settled[value]

    def _made(self, chain: Chain) -> Affine | Expression:
        node = chain.node
        if is_affine_step(node) or isinstance(REGISTRY.get(_name(node)), Elementwise):
            args, kwargs = map_arg((node.args, node.kwargs), lambda one: self._settle(self._values[one]))
            try:
                made: Affine = self._by_rule(node, args, kwargs)
                return made
            except NotAffineError:
                pass
        expression, root = chain.expression, chain.root
        if expression.dtype is None or not expression.dtype.is_floating_point:
            return arranged(expression, root.shape, root.layout)
        try:
            block = block_of(expression, self._own).block
        except NotFiniteError as refusal:
            return arranged(replace(expression, refusal=str(refusal)), root.shape, root.layout)
        return self._opened(node, operands_of(expression), block, root.shape, root.layout)

    def _expressed(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], reason: str) -> Any:
        """The states of a block, or an expression for those that use it, where a call is no affine value."""
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if random and _name(node) not in _RANDOM_WITH_DROPOUT:
            raise NotAffineError(reason)
        dtypes = _dtypes(node)
        if any(dtype.is_complex for dtype in dtypes):
            raise NotAffineError(reason)
        args, kwargs = map_arg((node.args, node.kwargs), self._operand)
        if isinstance(node.meta["val"], Tensor):
            return self._as_states(node, Expression(node.target, args, kwargs, dtypes[0]), reason)
        expression = Expression(node.target, args, kwargs)
        # The first of several results shows whether samples stay apart; it is thrown away.
        first = Expression(operator.getitem, (expression, 0), {}, dtypes[0])
        with suppress(NotFiniteError):
            self._written(node, first, reason)
        return expression

    def _operand(self, node: Node) -> Any:
        """The value of a node as an expression has it, in the dtype that the network has it in."""
        value, meta = self._settle(self._values[node]), node.meta.get("val")
        if isinstance(value, Affine):
            if isinstance(meta, Tensor) and str(meta.dtype).removeprefix("torch.") not in _WIDE:
                return arranged(converted(value, meta.dtype), value.shape, value.layout)
            return arranged(value, value.shape, value.layout)
        if isinstance(value, list | tuple):
            return tuple(value)
        return value

    def _as_states(self, node: Node, expression: Expression, reason: str) -> Affine | Expression:
        if expression.dtype is None or not expression.dtype.is_floating_point:
            return expression
        try:
            made = self._written(node, expression, reason)
        except NotFiniteError as refusal:
            return replace(expression, refusal=str(refusal))
        if all(one.is_constant for one in made.operands):
            z = torch.from_numpy(np.concatenate([np.zeros(0), *(one.constant for one in made.operands)]))
            return Affine(made.shape, {}, made.block(z[None])[0].numpy(), made.layout)
        return self._opened(node, made.operands, made.block, made.shape, made.layout)

    def _written(self, node: Node, expression: Expression, reason: str) -> MadeBlock:
        try:
            return block_of(expression, self._own)
        except NotFiniteError:
            raise
        except NotAffineError as refusal:
            known = reason if "unknown operation" in str(refusal) or _name(node) in ADVICE else str(refusal)
            raise NotAffineError(known) from None

    def _check_dtype(self, node: Node) -> None:
        """Refuse what torch computes in a dtype that truncates, wraps or rounds what the network's own keeps."""
        own = str(self._graph.dtype)
        for dtype in _dtypes(node):
            if dtype not in _WIDE_ENOUGH[own]:
                name = str(dtype).removeprefix("torch.")
                raise NotAffineError(f"it computes in {name}, while the network is in {own}")

    def _opened(
        self, node: Node, operands: list[Affine], phi: Activation | Block, shape: Shape, layout: Layout | None
    ) -> Affine:
        """Open a new group, and return its states."""
        if any(one.size == 0 for one in operands):
            raise NotAffineError("it is applied to an empty tensor")
        group = StateGroup(self._group_name(node), math.prod(shape), phi)
        sources = [(self._nodes[id(one)], one.layout) for one in operands]
        self.groups[node] = OpenedGroup(group, tuple(sources), layout)
        self._pre_activations[group.name] = joined(operands)
        return Affine.source(group.name, shape).laid_out(layout)

    def _group_name(self, node: Node) -> str:
        """The path of the activation's module, or of the calling module and the function, numbered if taken."""
        path, _ = module_path(node)
        module = dict(self._graph.network.named_modules()).get(path)
        is_own_module = bool(path) and module is not None and not any(module.children())
        name = path if is_own_module and path not in (INPUT, OUTPUT) else ".".join(filter(None, (path, _name(node))))
        numbered = (f"{name}_{k}" if k else name for k in range(len(self.groups) + 1))
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


#: Operations that act on the last dimension alone, and those that broadcast from it.
_LAST, _BROADCAST = frozenset({"linear", "matmul", "mm"}), frozenset("add sub rsub mul div neg".split())


def _common_layout(name: str, args: Any, kwargs: Any) -> Layout | None:
    """The layout that an operation's operands share and its result has; NotAffineError where there is none."""
    leaves = tree_leaves((args, kwargs), is_leaf=is_leaf)
    affine = [leaf for leaf in leaves if isinstance(leaf, Affine)]
    layouts = {leaf.layout for leaf in affine}
    if layouts <= {None}:
        return None
    layout = next(iter(layouts))
    constants = [leaf.ndim for leaf in leaves if isinstance(leaf, Tensor)]
    if len(layouts) > 1 or layout is None:
        raise NotAffineError("its operands have their samples in different places")
    right = min(layout.right(leaf.shape) for leaf in affine)
    of_last = name in _LAST and right >= 1 and args[0] is affine[0] and max(constants, default=0) <= 2
    broadcast = name in _BROADCAST and max(constants, default=0) <= right
    same = len({leaf.shape for leaf in affine}) == 1
    if not (of_last or (broadcast and same) or len(leaves) == 1 or name in _UNARY):
        raise NotAffineError("its samples are not the first dimension")
    return layout


#: Random only where they drop out, which shows when they are run.
_RANDOM_WITH_DROPOUT = frozenset("scaled_dot_product_attention lstm gru rnn_tanh rnn_relu".split())
_UNARY = frozenset("dropout feature_dropout alpha_dropout _to_copy type_as".split())


def _laid_out(leaf: Any, layout: Layout | None) -> Any:
    return leaf.laid_out(layout) if isinstance(leaf, Affine) else leaf


def _rule(node: Node) -> Rule:
    rule = REGISTRY.get(_name(node))
    if rule is None:
        raise NotAffineError(_reason(node))
    return rule


def _reason(node: Node) -> str:
    """Why an operation has no affine rule."""
    if REGISTRY.get(_name(node)) is None:
        packet = getattr(node.target, "overloadpacket", None)
        reason = REFUSALS.get(node.target) or ADVICE.get(_name(node), "there is no entry for it in the registry")
        if any(packet == known.overloadpacket for known in REWRITES) and node.target not in REWRITES:
            reason = f"of this operation, the form {spelled(node.target)!r} is not known; {reason}"
        return str(reason)
    return "it is not affine in what it is given"


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
