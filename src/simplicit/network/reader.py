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
from copy import copy
from dataclasses import replace
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from simplicit.checks import refused
from simplicit.errors import InputError, first_line
from simplicit.implicit import Activation, Block, GatherMap, ImplicitModel, StateGroup
from simplicit.implicit.groups import INPUT, OUTPUT
from simplicit.implicit.maps import TooLargeError
from simplicit.network.affine import Affine, MixingError, NotAffineError, Shape, joined
from simplicit.network.assembling import Row, model_of
from simplicit.network.chains import (
    Chain,
    Origins,
    chained,
    is_affine_step,
    is_wanted_by_chains,
    times_used,
    with_root,
)
from simplicit.network.comparing import compared
from simplicit.network.expressions import (
    Expression,
    MadeBlock,
    NotFiniteError,
    arranged,
    block_of,
    check_kept,
    converted,
    inputs_to_try,
    operands_of,
)
from simplicit.network.graph import NetworkGraph, module_path
from simplicit.network.layouts import Layout
from simplicit.network.moving import BatchSize
from simplicit.network.operations import (
    RANDOM_WITH_DROPOUT,
    check_dtypes,
    common_layout,
    dtypes_of,
    folded,
    laid_out,
    name_of,
    reason_against,
    rule_of,
    unsupported,
)
from simplicit.network.pooling import INDICES
from simplicit.network.reading import OpenedGroup, Reading
from simplicit.network.registry import ADVICE, REGISTRY
from simplicit.network.repeated import remembering
from simplicit.network.rules import Call, Elementwise, Filling, Linear, Moving
from simplicit.network.trees import contains, exchanged, leaves, mapped

# Sums of two values, in which large constants may cancel.
_ADDITIONS = frozenset(["add", "sub", "rsub"])

# A value gets states of its own where its maps would take so many products again, for each use or for each part of it.
_WORK_AGAIN = 2**18


def read_model(graph: NetworkGraph, *, consumed: bool = False) -> tuple[ImplicitModel, dict[Node, OpenedGroup]]:
    """The implicit model, and its groups by the nodes that compute them, in the order of computation.

    Where the graph may be ``consumed``, its weights are let go of as they are used, and it is of no use afterwards.
    UnsupportedOperationError is raised where an operation has no exact implicit form, InputError where the output does
    not depend on the input or a composed weight leaves the range of the dtype.
    """
    with remembering():
        reader = _Reader(graph, rounded=True, consumed=consumed)
        output = reader.output()  # may open the last group
    groups = tuple(opened.group for opened in reversed(reader.groups.values()))
    model = model_of(groups, reader.pre_activations, output, dtype=graph.dtype, input_shape=graph.input_shape)
    return model, reader.groups


def read_values(graph: NetworkGraph) -> Reading:
    """Read the affine values of a graph; errors are those of :func:`read_model`."""
    with remembering():
        reader = _Reader(graph, rounded=False)
        output = reader.output()  # may open the last group
    values = {name: value for name, value in reader.pre_activations.items() if isinstance(value, Affine)}
    return Reading(reader.groups, values, output)


class _Reader:
    """The affine values of a graph's nodes, read once, front to back."""

    def __init__(self, graph: NetworkGraph, *, rounded: bool, consumed: bool = False) -> None:
        self._graph, self._constants = graph, graph.taken() if consumed else dict(graph.constants)
        self._own = torch.float32 if graph.dtype == np.float32 else torch.float64
        self.pre_activations: dict[str, Affine | Row] = {}
        self._opened_since: list[str] = []  # groups whose pre-activations are not rounded yet
        self.groups: dict[Node, OpenedGroup] = {}
        self._values: dict[Node, Any] = {}
        self._settled: WeakKeyDictionary[Chain, Affine | Expression] = WeakKeyDictionary()
        self._nodes: WeakKeyDictionary[Affine, Node] = WeakKeyDictionary()  # that compute affine values
        self._origins = Origins()
        self._compared = compared(graph.module.graph)
        self._tried = inputs_to_try(graph.layout)
        self._modules = dict(graph.network.named_modules())
        self._named: dict[str, int] = {}  # the numbers of the last groups of a name
        for node in graph.module.graph.nodes:
            if node.op != "output":
                self._keep(node, self._value(node))
                if rounded:
                    self._round()
                self._forget(node)

    def _keep(self, node: Node, value: Any) -> Any:
        """Keep the value of a node, as states of its own where it is used so often that these are cheaper."""
        if isinstance(value, Affine) and value in self._nodes and dtypes_of(self._nodes[value]) != dtypes_of(node):
            value = copy(value)  # the same numbers in another dtype, in which chains that begin here compute
        self._values[node] = value
        if isinstance(value, Affine):
            self._nodes.setdefault(value, node)
            if node in self._compared:
                return self._as_own_states(value)
            again = times_used(node) - 1
            if again > 0 and again * value.work > _WORK_AGAIN:
                return self._as_own_states(value)
        return value

    def _round(self) -> None:
        """Keep of the groups that were opened what the model has of them, and nothing wider."""
        for name in self._opened_since:
            value = self.pre_activations[name]
            assert isinstance(value, Affine)
            self.pre_activations[name] = Row.of(value, name, self._graph.dtype)
        self._opened_since.clear()

    def _forget(self, node: Node) -> None:
        """Let go of values that were used for the last time; those of chains are used when these are settled."""
        for one in node.all_input_nodes:
            over = all(user in self._values for user in one.users)
            if over and not any(isinstance(self._values.get(user), Chain) for user in one.users):
                self._values[one] = None

    def output(self) -> Affine:
        output = self._settle(self._values[self._graph.output])
        if isinstance(output, Expression):
            found = output.refusal or "its result is not one of floating-point numbers"
            raise unsupported(self._graph.output, found)
        if not isinstance(output, Affine):
            raise refused("net", "its output does not depend on the input")
        if output.layout is not None:
            raise unsupported(self._graph.output, "it moves the batch dimension, which must be the first of the output")
        return output

    def _value(self, node: Node) -> Any:
        """An affine value, or a list of them, if it depends on the input, else what torch computes."""
        if node.op == "placeholder":
            constant = self._constants.pop(node.name, None)
            return Affine.source(INPUT, self._graph.input_shape) if constant is None else constant
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._graph.module)
        args, kwargs = map_arg((node.args, node.kwargs), self._values.__getitem__)
        try:
            if not contains((Affine, BatchSize, Expression, Chain), (args, kwargs)):
                return folded(Call(node.target, args, kwargs))
            return self._called(node, args, kwargs)
        except NotAffineError as reason:
            raise unsupported(node, str(reason)) from None
        except InputError as error:
            raise unsupported(node, f"composed with the layers before it, {error}") from error
        except (RuntimeError, IndexError) as error:
            raise unsupported(node, f"torch says: {first_line(error)}") from error

    def _called(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.target is operator.getitem and not isinstance(args[0], Expression):
            return args[0][args[1]]
        if name_of(node) == "sym_size" and isinstance(args[0], Expression):
            return BatchSize.of(node.meta["val"])
        if not contains((Affine, Expression, Chain), (args, kwargs)):
            if callable(node.target) and not isinstance(node.target, torch._ops.OpOverload):
                return BatchSize.combined(node.target, args)
            return self._applied(node, args, kwargs)
        chain = chained(node, args, kwargs, self._origins) if self._floats(node) else None
        if chain is not None and (not is_affine_step(node) or contains(Chain, (args, kwargs))):
            wanted = is_wanted_by_chains(node) or chain.expression.dtype == torch.bool
            return chain if wanted else self._settle(chain)
        args, kwargs = mapped(self._settle, (args, kwargs))
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
            if name_of(node) in _ADDITIONS:
                args = mapped(self._apart_if_cancelling, args)
            try:
                try:
                    return self._cheaper(node, args, kwargs, self._by_rule(node, args, kwargs))
                except TooLargeError:
                    return self._by_rule(node, *mapped(self._as_own_states, (args, kwargs)))
            except MixingError:
                raise
            except NotAffineError as reason:
                return self._expressed(node, str(reason))
        return self._expressed(node, reason_against(node))

    def _cheaper(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> Any:
        """What a linear operation made, or makes of a pooled value, say, whose parts would all take its products."""
        sums = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Affine) and len(leaf.terms) > 1]
        if not sums or not isinstance(made, Affine) or not isinstance(rule_of(node), Linear):
            return made
        spare = made.work - sum(one.work for one in sums)
        if spare > _WORK_AGAIN:
            alone = self._by_rule(node, *exchanged(sums, Affine.renamed, (args, kwargs)))
            if spare - alone.work > _WORK_AGAIN:
                return self._by_rule(node, *exchanged(sums, self._own_states_of, (args, kwargs)))
        return made

    def _by_rule(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        dtypes, rule = dtypes_of(node), rule_of(node)
        if any(dtype.is_complex for dtype in dtypes):
            raise NotAffineError("its result is complex")
        # What only moves numbers, or makes constants, computes nothing in the dtype that it has them in.
        if not isinstance(rule, Filling | Moving):
            check_dtypes(dtypes, self._graph.dtype)
        elif dtypes:
            check_dtypes(self._changed(node, dtypes[0]), self._graph.dtype)
        layout = None
        if not isinstance(rule, Filling | Moving) and name_of(node) != "sym_size":
            layout = common_layout(name_of(node), args, kwargs)
        plain, named = (args, kwargs) if layout is None else mapped(lambda leaf: laid_out(leaf, None), (args, kwargs))
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

    def _apart_if_cancelling(self, value: Any) -> Any:
        """A summand as states of its own where its parts cancel, so that they do before it meets what is small."""
        return self._own_states_of(value) if isinstance(value, Affine) and value.cancels else value

    def _as_own_states(self, value: Any) -> Any:
        """An affine value as states of its own with φ the identity, so that two linear maps in a row stay two."""
        if not isinstance(value, Affine) or all(isinstance(block, GatherMap) for block in value.terms.values()):
            return value
        return self._own_states_of(value)

    def _own_states_of(self, value: Affine) -> Affine:
        node = self._nodes[value]
        self._values[node] = states = self._opened(node, [value], Activation("identity"), value.shape, value.layout)
        self._nodes[states] = node
        return states

    def _settle(self, value: Any) -> Any:
        """What a chain is, once and for all: an affine value, or the expression of its truth values."""
        if not isinstance(value, Chain):
            return value
        if value not in self._settled:
            self._settled[value] = self._keep(value.node, self._made(value))
            self._forget(value.node)
        return self._settled[value]

    def _made(self, chain: Chain) -> Affine | Expression:
        node = chain.node
        alone = isinstance(REGISTRY.get(name_of(node)), Elementwise | Linear) and len(node.all_input_nodes) == 1
        if is_affine_step(node) or alone:
            args, kwargs = map_arg((node.args, node.kwargs), lambda one: self._settle(self._values[one]))
            try:
                made: Affine = self._by_rule(node, args, kwargs)
                return made
            except NotAffineError:
                pass
        expression, root = chain.expression, chain.root
        if expression.dtype is None or not expression.dtype.is_floating_point:
            return arranged(expression, root.shape, root.layout)
        if (dtype := self._nodes[root].meta["val"].dtype) != self._own:
            expression = with_root(expression, root, converted(root, dtype))
        try:
            block = block_of(expression, self._own, self._tried).block
        except NotFiniteError as refusal:
            return arranged(replace(expression, refusal=str(refusal)), root.shape, root.layout)
        return self._opened(node, operands_of(expression), block, root.shape, root.layout)

    def _expressed(self, node: Node, reason: str) -> Any:
        """The states of a block, or an expression for those that use it, where a call is no affine value."""
        random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if random and name_of(node) not in RANDOM_WITH_DROPOUT:
            raise NotAffineError(reason)
        dtypes = dtypes_of(node)
        check_kept(node.meta["val"], self._own)
        args, kwargs = map_arg((node.args, node.kwargs), self._operand)
        if (with_maxima := INDICES.get(node.target)) is not None:
            return Expression(operator.getitem, (Expression(with_maxima, args, kwargs), 1), {}, dtypes[0])
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
            if isinstance(meta, Tensor) and meta.dtype != self._own:
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
            return block_of(expression, self._own, self._tried)
        except NotFiniteError:
            raise
        except NotAffineError as refusal:
            known = reason if "unknown operation" in str(refusal) or name_of(node) in ADVICE else str(refusal)
            raise NotAffineError(known) from None

    def _changed(self, node: Node, dtype: torch.dtype) -> list[torch.dtype]:
        """The dtype of a result, once for every affine value of another dtype that is moved into it."""
        moved = [one for one in node.all_input_nodes if isinstance(self._settle(self._values[one]), Affine)]
        metas = [one.meta.get("val") for one in moved]
        return [dtype for meta in metas if isinstance(meta, Tensor) and meta.dtype != dtype]

    def _opened(
        self, node: Node, operands: list[Affine], phi: Activation | Block, shape: Shape, layout: Layout | None
    ) -> Affine:
        """Open a new group, and return its states."""
        if any(one.size == 0 for one in operands):
            raise NotAffineError("it is applied to an empty tensor")
        group = StateGroup(self._group_name(node), math.prod(shape), phi)
        sources = [(self._nodes[one], one.layout) for one in operands]
        self.groups[node] = OpenedGroup(group, tuple(sources), layout)
        self.pre_activations[group.name] = joined(operands)
        self._opened_since.append(group.name)
        return Affine.source(group.name, shape).laid_out(layout)

    def _group_name(self, node: Node) -> str:
        """The path of the activation's module, or of the calling module and the function, numbered if taken."""
        path, _ = module_path(node)
        module = self._modules.get(path)
        is_own_module = bool(path) and module is not None and not any(module.children())
        name = path if is_own_module and path not in (INPUT, OUTPUT) else ".".join(filter(None, (path, name_of(node))))
        # Names are never given back, so that all numbers before the last one that was given are taken.
        taken = self._named.get(name, -1)
        numbered = ((k, f"{name}_{k}" if k else name) for k in count(taken + 1))
        self._named[name], free = next(one for one in numbered if one[1] not in self.pre_activations)
        return free
