r"""Programs in operations that a reader of them knows: others are opened into those that torch makes of them.

Whoever reads a program step by step, as interval images and ONNX files are made, has rules for some operations. A step
of another kind is traced, and stands for the operations that torch writes it with, composite ones and those of its own
table of decompositions: index_add is an index_put that adds up, pairwise_distance the norm of a difference. It is
traced at two numbers of samples m; a size is the linear function of m that gives both.

Complex numbers are pairs of real ones, z = a + i b, in an opened program (:mod:`~simplicit.implicit.groups.complexes`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx

from simplicit.errors import InputError
from simplicit.implicit.groups.decompositions import decompositions
from simplicit.implicit.groups.program import GETITEM, Kind, Samples, Step, Value, kind_of, operation, resolved

#: Numbers of samples at which steps are traced, which are no usual lengths.
_TRACED = (11, 13)
_DROPPED = frozenset(["device", "layout", "pin_memory", "memory_format", "generator"])
Shape = tuple[int, ...]


class UnopenedError(Exception):
    """A step cannot be opened; its text is the name of its operation."""


@dataclass(frozen=True, eq=False)
class Held:
    """A value of the opened program, what it is like at both numbers of samples, and whether it varies with z."""

    place: tuple[str, int]
    at: tuple[Tensor, Tensor]
    varies: bool = True


@dataclass(frozen=True, eq=False)
class Pair:
    """A complex value: its real and its imaginary part."""

    real: Held
    imag: Held


@dataclass(frozen=True)
class Opened:
    """A program, with its constants; ``missing`` is the first operation that is not known, "" if there is none."""

    steps: tuple[Step, ...]
    constants: tuple[Tensor, ...]
    missing: str = ""


#: From a writing, the arguments and keywords of a call, some of them pairs, to its result.
Rule = Callable[..., Any]


def opened(
    steps: Sequence[Step],
    operands: Sequence[Shape],
    constants: Sequence[Tensor],
    known: Container[str],
    of_pairs: Callable[[str], Rule | None],
) -> Opened:
    """Return a program in operations whose names without overload are ``known``, the same where that is all of them.

    ``of_pairs`` gives the rule of an operation on complex numbers. What cannot be opened stays as it is; a complex
    number that has no pair leaves the whole program as it is.
    """
    same = Opened(tuple(steps), tuple(constants))
    if all(step.packet in known or step.packet == GETITEM for step in steps):
        return same
    own = _own_dtype(steps)
    if own is None:
        return same
    try:
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            writing = Writing(known, of_pairs, own, mode)
            return writing.program(steps, operands, constants)
    except UnopenedError as error:
        return Opened(same.steps, same.constants, str(error))


def _own_dtype(steps: Sequence[Step]) -> torch.dtype | None:
    """A dtype for the network's own numbers that the program does not name; None if it names all."""
    named = {one.name for step in steps for one in _leaves((step.arguments, step.keywords)) if isinstance(one, Kind)}
    free = [dtype for dtype in (torch.float64, torch.float32) if str(dtype).removeprefix("torch.") not in named]
    return free[0] if free else None


def _leaves(argument: Any) -> Iterable[Any]:
    if isinstance(argument, tuple | list):
        for one in argument:
            yield from _leaves(one)
    elif isinstance(argument, dict):
        yield from _leaves([*argument.values()])
    else:
        yield argument


class Writing:
    """An opened program that is being written."""

    def __init__(
        self, known: Container[str], of_pairs: Callable[[str], Rule | None], own: torch.dtype, mode: FakeTensorMode
    ) -> None:
        self.own = own
        self._known, self._of_pairs, self._mode = known, of_pairs, mode
        self._steps: list[Step] = []
        self._constants: list[Tensor] = []

    def program(self, steps: Sequence[Step], operands: Sequence[Shape], constants: Sequence[Tensor]) -> Opened:
        """Write all steps."""
        values: list[Any] = []
        for number, shape in enumerate(operands):
            at = tuple(torch.zeros(m, *shape, dtype=self.own) for m in _TRACED)
            values.append(Held(("operand", number), at))  # type: ignore[arg-type]
        values += [self.constant(one.to(self.own) if one.is_floating_point() else one) for one in constants]
        missing = ""
        for step in steps:
            args, kwargs = self._filled(step.arguments, values), dict(self._filled(step.keywords, values))
            try:
                values.append(self._added(step.operation, args, kwargs))
            except UnopenedError as error:
                if _has_pair((args, kwargs)):
                    raise
                missing = missing or str(error)
                values.append(self.call(step.operation, *args, **kwargs))
        return Opened(self._numbered(values[-1], len(operands)), tuple(self._constants), missing)

    def matrix(self, values: NDArray[np.float64]) -> Held:
        """Keep a matrix of numbers as a constant, and return what stands for it."""
        with unset_fake_temporarily():
            tensor = torch.from_numpy(values).to(self.own)
        return self.constant(tensor)

    def step(self, number: int) -> Step:
        """A step that was written, with places in the place of values."""
        return self._steps[number]

    def constant(self, tensor: Tensor) -> Held:
        """Keep a constant, and return what stands for it."""
        if isinstance(tensor, FakeTensor):
            raise UnopenedError("constant")
        self._constants.append(tensor)
        fake = self._mode.from_tensor(tensor)
        return Held(("constant", len(self._constants) - 1), (fake, fake), varies=False)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Write one call of an operation on real values, and return its result; UnopenedError if torch refuses it."""
        results = []
        for number, m in enumerate(_TRACED):
            given = [_at(one, number, m, self.own) for one in args]
            named = {key: _at(one, number, m, self.own) for key, one in kwargs.items()}
            try:
                results.append(operation(name)(*given, **named))
            except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError, InputError) as error:
                raise UnopenedError(name.partition(".")[0]) from error
        self._steps.append(Step(name, _placed(tuple(args)), tuple((key, _placed(one)) for key, one in kwargs.items())))
        place, varies = ("step", len(self._steps) - 1), _varies((args, kwargs))
        if isinstance(results[0], tuple | list):
            return [self._part(place, number, pair, varies) for number, pair in enumerate(zip(*results, strict=True))]
        self._check_real(results[0], name)
        return Held(place, (results[0], results[1]), varies)

    def _part(self, place: tuple[str, int], number: int, at: Any, varies: bool) -> Held:
        self._check_real(at[0], GETITEM)
        self._steps.append(Step(GETITEM, (place, number)))
        return Held(("step", len(self._steps) - 1), at, varies)

    @staticmethod
    def _check_real(value: Any, name: str) -> None:
        if isinstance(value, Tensor) and value.is_complex():
            raise UnopenedError(name.partition(".")[0])

    def _added(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Write a call as it is if it is known, by a rule where numbers are complex, else as what torch makes of it."""
        packet = name.partition(".")[0]
        if name == GETITEM:
            return args[0][args[1]]
        rule = self._of_pairs(packet)
        if _has_pair((args, kwargs)) or packet in _MAKE_COMPLEX or Kind("complex") in kwargs.values():
            if rule is not None:
                return rule(self, name, *args, **kwargs)
        elif packet in self._known or not _varies((args, kwargs)):
            return self.call(name, *args, **kwargs)
        before = len(self._steps), len(self._constants)
        try:
            written = WRITTEN.get(packet)
            return self._opened(name, args, kwargs) if written is None else written(self, name, *args, **kwargs)
        except UnopenedError:
            del self._steps[before[0] :], self._constants[before[1] :]
            raise

    def _opened(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        packet = name.partition(".")[0]
        held = [*dict.fromkeys(one for one in _leaves((args, kwargs)) if isinstance(one, Held | Pair))]
        graphs = [self._traced(name, args, kwargs, held, number) for number in range(2)]
        nodes = [[*graph.nodes] for graph, _ in graphs]
        if len(nodes[0]) != len(nodes[1]):
            raise UnopenedError(packet)
        env: dict[Node, Any] = dict(zip([one for one in nodes[0] if one.op == "placeholder"], held, strict=True))
        for first, second in zip(*nodes, strict=True):
            if first.op == "output":
                return _merged(first.args[0], second.args[0], env, packet)
            if first.op == "get_attr":
                env[first] = self.constant(getattr(graphs[0][1], str(first.target)))
            elif first.op == "call_function":
                inner = _name_of(first.target, packet)
                if inner == name or first.target != second.target:
                    raise UnopenedError(packet)
                given, named = _merged((first.args, first.kwargs), (second.args, second.kwargs), env, packet)
                env[first] = self._inner(packet, inner, given, named)
        raise UnopenedError(packet)

    def _inner(self, packet: str, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        kwargs = {key: self._kind(one, packet) for key, one in kwargs.items() if key not in _DROPPED}
        args = tuple(self._kind(one, packet) for one in args)
        if any(one is None and key == "dtype" for key, one in kwargs.items()):
            del kwargs["dtype"]
        try:
            return self._added(name, args, kwargs)
        except UnopenedError as error:
            raise UnopenedError(packet) from error

    def _kind(self, value: Any, packet: str) -> Any:
        if not isinstance(value, torch.dtype):
            return value
        try:
            return kind_of(value, self.own)
        except InputError as error:
            raise UnopenedError(packet) from error

    def _traced(self, name: str, args: Any, kwargs: dict[str, Any], held: list[Any], number: int) -> tuple[Graph, Any]:
        """The graph of what torch makes of a call at one number of samples."""
        m, function = _TRACED[number], _known_operation(name)
        table = decompositions(self._known)
        function = table.get(function, function)

        def call(*tensors: Tensor) -> Any:
            by_value = dict(zip(held, tensors, strict=True))
            given = [_swapped(one, by_value, m, self.own) for one in args]
            return function(*given, **{key: _swapped(one, by_value, m, self.own) for key, one in kwargs.items()})

        inputs = [_whole(one, number) for one in held]
        try:
            module = make_fx(call, decomposition_table=table)(*inputs)
        except Exception as error:  # torch raises errors of many unrelated classes
            raise UnopenedError(name.partition(".")[0]) from error
        return module.graph, module

    def _filled(self, argument: Any, values: Sequence[Any]) -> Any:
        """An argument of a step with what stands for its values."""
        if isinstance(argument, Value):
            return values[argument.number]
        return tuple(self._filled(one, values) for one in argument) if isinstance(argument, tuple) else argument

    def _numbered(self, last: Any, operands: int) -> tuple[Step, ...]:
        """The steps up to the one that gives the last value, by their final numbers."""
        if not isinstance(last, Held):
            raise UnopenedError(GETITEM)
        first = {"operand": 0, "constant": operands, "step": operands + len(self._constants)}

        def final(value: Any) -> Any:
            if isinstance(value, tuple) and len(value) == 2 and value[0] in first and isinstance(value[1], int):
                return Value(first[value[0]] + value[1])
            return tuple(final(one) for one in value) if isinstance(value, tuple) else value

        kind, number = last.place
        steps = self._steps[: number + 1] if kind == "step" else [*self._steps, Step("alias.default", (last.place,))]
        return tuple(
            Step(step.operation, final(step.arguments), tuple((key, final(one)) for key, one in step.keywords))
            for step in steps
        )


def _bags(write: Writing, name: str, table: Held, ids: Held, offsets: Held, *rest: Any) -> list[Any]:
    """Sums, means or maxima of rows of a table for bags of one length, which begin at 0, n, 2n, …"""
    kind, number = offsets.place
    made = write.step(number) if kind == "step" else Step("")
    start, _, n, *_ = (*made.arguments, None, None, None)
    defaults: tuple[Any, ...] = (False, 0, False, None, False, None)
    _, mode, _, weights, include_last, padding = (*rest, *defaults[len(rest) :])
    if (
        made.operation != "arange.start_step"
        or start != 0
        or not isinstance(n, int)
        or include_last
        or padding not in (None, -1)
    ):
        raise UnopenedError("embedding_bag")
    rows = write.call("embedding.default", table, write.call("reshape.default", ids, (-1, n)))
    if weights is not None:
        rows = write.call("mul.Tensor", rows, write.call("reshape.default", weights, (-1, n, 1)))
    reduction = ("sum.dim_IntList", "mean.dim", "amax.default")[mode]
    return [write.call(reduction, rows, (1,)), None, None, None]


#: Operations that are written by hand in terms of others.
WRITTEN: dict[str, Rule] = {"embedding_bag": _bags}

# They give complex numbers, whatever they are given.
_MAKE_COMPLEX = frozenset(["view_as_complex", "complex", "polar", "_fft_r2c", "stft"])


def _known_operation(name: str) -> Any:
    try:
        return operation(name)
    except InputError as error:
        raise UnopenedError(name.partition(".")[0]) from error


def _at(argument: Any, number: int, m: int, own: torch.dtype) -> Any:
    """An argument as torch takes it, at one of both numbers of samples."""
    if isinstance(argument, Held):
        return argument.at[number]
    if isinstance(argument, tuple | list):
        return [_at(one, number, m, own) for one in argument]
    return resolved(argument, (), m, own)


def _swapped(argument: Any, by_value: dict[Any, Tensor], m: int, own: torch.dtype) -> Any:
    if isinstance(argument, Held | Pair):
        return by_value[argument]
    if isinstance(argument, tuple | list):
        return [_swapped(one, by_value, m, own) for one in argument]
    return resolved(argument, (), m, own)


def _whole(value: Held | Pair, number: int) -> Tensor:
    return value.at[number] if isinstance(value, Held) else torch.complex(value.real.at[number], value.imag.at[number])


def _placed(argument: Any) -> Any:
    if isinstance(argument, Held):
        return argument.place
    return tuple(_placed(one) for one in argument) if isinstance(argument, tuple | list) else argument


def _varies(argument: Any) -> bool:
    """Whether arguments depend on the input."""
    return any(one.varies for one in _leaves(argument) if isinstance(one, Held)) or _has_pair(argument)


def _has_pair(argument: Any) -> bool:
    return any(isinstance(one, Pair) for one in _leaves(argument))


def _merged(first: Any, second: Any, env: dict[Node, Any], packet: str) -> Any:
    """What arguments of two tracings have in common; UnopenedError where it is no linear function of the samples."""
    if isinstance(first, Node):
        return env[first]
    if isinstance(first, tuple | list):
        if len(first) != len(second):
            raise UnopenedError(packet)
        return tuple(_merged(a, b, env, packet) for a, b in zip(first, second, strict=True))
    if isinstance(first, dict):
        return {key: _merged(one, second[key], env, packet) for key, one in first.items()}
    if type(first) is int and first != second:
        m, n = _TRACED
        slope, left = divmod(second - first, n - m)
        if left:
            raise UnopenedError(packet)
        return Samples(slope, first - slope * m)
    if first != second and not (isinstance(first, float) and first != first):
        raise UnopenedError(packet)
    return first


def _name_of(target: Any, packet: str) -> str:
    """The name that a traced operation has in programs."""
    if getattr(target, "__name__", "") == GETITEM:
        return GETITEM
    if str(target) == "prims.convert_element_type.default":
        return "to.dtype"
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        raise UnopenedError(packet)
    name = str(target).removeprefix("aten.")
    return "reshape.default" if name in ("view.default", "_unsafe_view.default") else name
