r"""A program of torch.export in pure operations that the reader knows, without tracing the network a second time.

What torch.export hands over has operations that change a tensor in place, composite ones that may return a view or a
copy (``reshape``, ``to``), composite ones that nobody knows (``kl_div``), and those of
:mod:`~simplicit.network.rewrites`. torch's own way to open them,
``run_decompositions``, runs the whole network once more and takes longer than the export. Here only those nodes are
written anew, each as the few operations that it is made of, which are found by tracing it alone and kept for nodes of
the same sizes; all others stay as they are.

An operation in place is its pure form for all that reads the tensor later. That holds where nothing else that lies in
the same memory is read later: the memory was made by an operation in the graph (not a parameter or the input), and its
other names, views of it among them, have no readers after. Otherwise the program is left to torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from simplicit.network.registry import is_opened
from simplicit.network.rewrites import Rewrites
from simplicit.network.trees import contains, leaves

_aten = torch.ops.aten
_BATCH_NORM = _aten.batch_norm.default
_NORMALISED = _aten._native_batch_norm_legit_no_training.default
# They say something of sizes and dtypes, which were the same for all samples when the network was exported.
_ASSERTIONS = frozenset({_aten._assert_tensor_metadata.default})
# They hand on what they are given, with no gradient, or as a constant.
_SAME = frozenset({_aten.detach_.default, _aten.lift_fresh_copy.default})
# They read nothing but sizes and dtypes.
_SIZE = _aten.sym_size.int
_UNREADING = _ASSERTIONS | {_SIZE}


class _Unknown:
    """A size that no operation is known for."""


class _UnclearError(Exception):
    """A node is not written here; torch opens the program as a whole."""


def make_functional(program: Any, rewrites: Rewrites) -> bool:
    """Whether a program was made one of pure operations, in place; else it is as it was.

    ``rewrites`` are the operations that are written in terms of others, and how.
    """
    fakes = (node.meta["val"] for node in program.graph.find_nodes(op="placeholder"))
    writing = _Writing(detect_fake_mode([fake for fake in fakes if isinstance(fake, Tensor)]), rewrites)
    try:
        for node in program.graph.nodes:
            writing.add(node)
    except _UnclearError:
        return False
    program.graph_module.graph = writing.graph
    return True


def _is_composite(operation: OpOverload) -> bool:
    """Whether torch says of a composite operation that its result may be its argument, or a view of it."""
    aliases = any(argument.alias_info is not None for argument in operation._schema.arguments)
    return operation._can_decompose() and (aliases or torch.Tag.maybe_aliasing_or_mutating in operation.tags)


@dataclass(eq=False)
class _Memory:
    """The nodes whose values lie in one memory; ``own`` if it was made by an operation of the graph."""

    own: bool
    nodes: set[Node] = field(default_factory=set)


class _Writing:
    """The new graph, and what nodes of the old one are in it."""

    def __init__(self, mode: Any, rewrites: Rewrites) -> None:
        self.graph = Graph()
        self._mode, self._rewrites = mode, rewrites
        self._new: dict[Node, Any] = {}  # a node, or a list of nodes for an operation of several results
        self._memory: dict[Node, _Memory] = {}
        self._numbers: dict[str, Node] = {}  # sizes that depend on the number of samples, by what they are
        self._fragments: dict[Any, Graph | None] = {}

    def add(self, node: Node) -> None:
        """Write a node of the old graph; _UnclearError where that is left to torch."""
        if node.op != "call_function":
            if node.op == "get_attr":
                raise _UnclearError
            self._new[node] = self.graph.node_copy(node, self._new.__getitem__)
            self._memory[node] = _Memory(own=False, nodes={node})
            return
        if node.target in _ASSERTIONS and not node.users:
            return
        args: Any
        kwargs: Any
        args, kwargs = map_arg((node.args, node.kwargs), self._new.__getitem__)
        target: Any = node.target
        if target is operator.getitem and isinstance(args[0], list | tuple):
            self._new[node] = args[0][args[1]]
        elif not isinstance(target, OpOverload):
            if target is not operator.getitem and not _is_number(node):
                raise _UnclearError
            self._new[node] = self._noted(self.graph.node_copy(node, self._new.__getitem__))
        elif target in _SAME:
            self._new[node] = args[0]
        elif target._schema.is_mutable:
            self._in_place(node, args, kwargs)
            return
        else:
            self._new[node] = self._called(target, args, kwargs, node.meta)
        self._place(node)

    def _place(self, node: Node) -> None:
        """Say in which memory the value of a node lies."""
        target: Any = node.target
        if target is _BATCH_NORM or not _may_alias(target):
            self._memory[node] = _Memory(own=True, nodes={node})
            return
        before = [self._memory[one] for one in node.all_input_nodes if not _is_number(one)]
        together = _Memory(all(one.own for one in before), {node}.union(*(one.nodes for one in before)))
        for one in together.nodes:
            self._memory[one] = together

    def _in_place(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The pure form of an operation that changes its first argument, for all that reads this from here on."""
        changed = node.args[0]
        assert isinstance(changed, Node)
        memory = self._memory[changed]
        others = memory.nodes - {changed}
        if not memory.own or any(self._is_read_later(one, node) for one in others):
            raise _UnclearError
        pure = self._pure(node, args, kwargs)
        self._new[changed] = self._new[node] = self._called(pure, args, kwargs, node.meta)
        self._memory[changed] = self._memory[node] = _Memory(own=True, nodes={changed, node})

    def _pure(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The pure form of a node's operation, which writes into its first argument; _UnclearError if it differs."""
        pure = _pure_form(node.target)
        fakes = map_arg((args, kwargs), lambda one: one.meta["val"])
        with torch.no_grad(), self._mode:
            value = pure(*fakes[0], **fakes[1])
        if _described(value)[:2] != _described(node.meta["val"])[:2]:
            raise _UnclearError  # it is computed in another dtype than the tensor is kept in
        return pure

    def _is_read_later(self, one: Node, place: Node) -> bool:
        """Whether a node's values, not only its sizes, are read at a place or after it."""
        return one in place.all_input_nodes or any(
            user not in self._new and user is not place and user.target not in _UNREADING for user in one.users
        )

    def _called(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: dict[str, Any]) -> Any:
        """A call in the new graph: as it is, or what it is made of."""
        if target is _BATCH_NORM:
            return self._normalised(args, kwargs, meta)
        opened = isinstance(target, OpOverload) and (_is_composite(target) or is_opened(target))
        if opened or target in self._rewrites:
            given = [*dict.fromkeys(one for one in leaves((args, kwargs)) if isinstance(one, Node))]
            fragment = self._fragment(target, args, kwargs, given)
            if fragment is not None:
                return self._inlined(fragment, given, meta)
        return self._written(target, args, kwargs, meta)

    def _written(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: dict[str, Any]) -> Node:
        made = self.graph.call_function(target, args, kwargs)
        made.meta = copy(meta)
        return self._noted(made)

    def _noted(self, node: Node) -> Node:
        if _is_number(node):
            self._numbers.setdefault(str(node.meta["val"]), node)
        return node

    def _normalised(self, args: tuple[Any, ...], kwargs: dict[str, Any], meta: dict[str, Any]) -> Node:
        """Batch norm with running statistics, as torch opens it."""
        x, weight, bias, mean, variance, training, momentum, eps, _ = args
        if training or mean is None or variance is None or kwargs:
            raise _UnclearError
        numbers = (x, weight, bias, mean, variance, momentum, eps)
        both = self._written(_NORMALISED, numbers, {}, meta | {"val": (meta["val"],)})
        return self._written(operator.getitem, (both, 0), {}, meta)

    def _fragment(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Node]) -> Graph | None:
        """The graph of a call alone, whose inputs are the nodes given to it; None where the call is to stay."""
        names = {one: f"%{place}" for place, one in enumerate(given)}
        sizes = tuple(_described(one.meta["val"]) for one in given)
        key = (target, str(map_arg((args, kwargs), lambda one: names[one])), sizes)
        if key not in self._fragments:
            self._fragments[key] = self._traced(target, args, kwargs, given)
        return self._fragments[key]

    def _traced(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Node]) -> Graph | None:
        function: Callable[..., Any] = self._rewrites.get(target, target)
        stays = False

        def call(*values: Any) -> Any:
            nonlocal stays
            by_node = dict(zip(given, values, strict=True))
            own_args, own_kwargs = map_arg((args, kwargs), by_node.__getitem__)
            result = function(*own_args, **own_kwargs)
            stays = result is NotImplemented
            return values if stays else result

        try:
            with torch.no_grad(), self._mode:
                # A rewriting is in torch's functions, which stay; a composite operation is what torch makes of it.
                traced = make_fx(call, pre_dispatch=target in self._rewrites)(*(one.meta["val"] for one in given))
        except Exception as error:  # torch raises errors of many unrelated classes
            raise _UnclearError from error
        return None if stays else traced.graph

    def _inlined(self, fragment: Graph, given: list[Node], meta: dict[str, Any]) -> Any:
        """The nodes of a fragment in the new graph, and what it returns."""
        inside: dict[Node, Any] = dict(zip(fragment.find_nodes(op="placeholder"), given, strict=True))
        for node in fragment.nodes:
            if node.op == "placeholder":
                continue
            args, kwargs = map_arg((node.args, node.kwargs), inside.__getitem__)
            if node.op == "output":
                if contains(_Unknown, args):
                    raise _UnclearError
                return args[0]
            target: Any = node.target
            if node.op != "call_function":
                raise _UnclearError
            if _is_mutable(target):
                made = self._called(
                    self._pure(node, node.args, node.kwargs), args, kwargs, meta | {"val": node.meta["val"]}
                )
                inside.update(dict.fromkeys((node, *_written_into(node)), made))
            elif _is_number(node):
                inside[node] = self._number(node, args)
            elif contains(_Unknown, (args, kwargs)):
                raise _UnclearError
            elif target is operator.getitem and isinstance(args[0], list | tuple):
                inside[node] = args[0][args[1]]
            else:
                inside[node] = self._called(target, args, kwargs, meta | {"val": node.meta["val"]})
        raise AssertionError("a graph has an output")

    def _number(self, node: Node, args: tuple[Any, ...]) -> Any:
        """A size inside of a fragment: one that the graph has already, or one that is written again if it can be."""
        if (known := self._numbers.get(str(node.meta["val"]))) is not None:
            return known
        if contains(_Unknown, args) or (isinstance(node.target, OpOverload) and node.target is not _SIZE):
            return _Unknown()
        return self._written(node.target, args, {}, {"val": node.meta["val"]})


def _pure_form(operation: Any) -> Any:
    """The operation that returns what another one, with an underscore, writes into its first argument."""
    name, overload = operation._schema.name.partition("::")[2], operation._overloadname
    infos = [argument.alias_info for argument in operation._schema.arguments]
    written = [info is not None and info.is_write for info in infos]
    tags = {torch.Tag.nondeterministic_seeded, torch.Tag.inplace_view}
    pure = getattr(_aten, name.removesuffix("_"), None)
    known = pure is not None and overload in pure.overloads()
    if operation.namespace != "aten" or not name.endswith("_") or tags & {*operation.tags} or name == "copy_":
        raise _UnclearError
    if not known or written != [True, *[False] * (len(written) - 1)]:
        raise _UnclearError
    return getattr(pure, overload)


def _written_into(node: Node) -> list[Node]:
    """The nodes of a fragment whose value an operation in place changes; _UnclearError if others may see it change."""
    changed = [node.args[0]]
    while isinstance(changed[-1], Node) and _is_mutable(changed[-1].target):
        changed.append(changed[-1].args[0])
    found = [one for one in changed if isinstance(one, Node)]
    made = found[-1].target
    fresh = isinstance(made, OpOverload) and not _may_alias(made)
    if not fresh or any(_may_alias(user.target) for one in found for user in one.users if user not in (*found, node)):
        raise _UnclearError
    return found


def _is_mutable(target: Any) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable


def _may_alias(target: Any) -> bool:
    """Whether the result of an operation may lie in the memory of its argument."""
    if not isinstance(target, OpOverload):
        return True
    return _is_composite(target) or any(one.alias_info for one in target._schema.returns)


def _is_number(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool | int | float)


def _described(value: Any) -> tuple[str, ...]:
    """The dtype, the shape and the strides of a tensor, or a number, in words."""
    if isinstance(value, Tensor):
        return str(value.dtype), str(tuple(value.shape)), str(value.stride())
    return (str(value),)
