"""How a block is written as nodes of an ONNX graph: its program, step by step.

What does not depend on the input is computed here and kept as a constant; every other step has an entry in
:data:`~simplicit.runtime.onnx.operations.OPERATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import refused
from simplicit.implicit import Block
from simplicit.implicit.groups.opening import Opened
from simplicit.implicit.groups.program import GETITEM, Samples, Step, Value, operation, resolved
from simplicit.runtime.onnx.graph import Graph
from simplicit.runtime.onnx.operations import OPERATIONS, WITHOUT_FORM, Call, Held, NotWrittenError, Writer

#: Numbers of samples at which a program is traced: a size is a linear function of them.
_TRACED = (2, 3)


def block(graph: Graph, phi: Block, z: str, group: str) -> str:
    """Write φ(z), (m, a) to (m, b), and return the name of the result.

    InputError is raised where an operation of the block has no form in ONNX; it names the group.
    """
    opened = phi.opened(OPERATIONS)
    program = _Program(graph, phi, z, opened)
    for step in opened.steps:
        try:
            program.add(step)
        except NotWrittenError as reason:
            raise refused(
                "model",
                f"group {group!r} is not written to ONNX: its operation {opened.missing or step.packet!r} {reason}. "
                "Leave that part of the network out of the model, or take simplicit.to_torch(model) and "
                "torch.onnx.export",
            ) from None
    return program.result()


class _Program:
    """A program that is traced and written step by step; values are kept traced, and as what stands for them."""

    def __init__(self, graph: Graph, phi: Block, z: str, opened: Opened) -> None:
        self._missing = opened.missing
        self._own = torch.from_numpy(np.zeros(0, dtype=graph.dtype)).dtype
        self._size = phi.size
        self._writer = Writer(graph, z)
        self._traced: tuple[list[Any], list[Any]] = ([], [])
        self._values: list[Any] = []
        lengths = [math.prod(shape) for shape in phi.operands]
        parts = [z] if len(lengths) == 1 else self._split(z, lengths)
        for part, shape in zip(parts, phi.operands, strict=True):
            for samples, traced in zip(_TRACED, self._traced, strict=True):
                traced.append(torch.zeros(samples, *shape, dtype=self._own))
            name = self._writer.reshape(part, (Samples(1), *shape))
            self._values.append(Held((Samples(1), *shape), self._own, name))
        for tensor in opened.constants:
            self._keep(tensor.to(self._own) if tensor.is_floating_point() else tensor)

    def _split(self, z: str, lengths: Sequence[int]) -> list[str]:
        return self._writer.graph.nodes_of("Split", z, np.array(lengths, dtype=np.int64), outputs=len(lengths), axis=1)

    def _keep(self, constant: Any) -> None:
        for traced in self._traced:
            traced.append(constant)
        self._values.append(_held(constant, constant, known=True))

    def add(self, step: Step) -> None:
        """Trace a step, and write it unless it is constant."""
        if step.operation == GETITEM:
            values, place = step.arguments
            for traced in self._traced:
                traced.append(traced[values.number][place])
            self._values.append(self._values[values.number][place])
            return
        if not self._varies((step.arguments, step.keywords)):
            self._keep(self._run(step, 0))
            return
        few, more = (self._run(step, number) for number in range(2))
        self._traced[0].append(few)
        self._traced[1].append(more)
        held = _held(few, more)
        self._values.append(self._written(step, held))

    def result(self) -> str:
        """Write the last value as the states of the block, and return its name."""
        call = Call(self._writer, "", {"self": self._values[-1]}, [Held((), self._own)])
        return self._writer.reshape(call.x(), (Samples(1), self._size))

    def _run(self, step: Step, number: int) -> Any:
        samples, values = _TRACED[number], self._traced[number]
        arguments = [resolved(one, values, samples, self._own) for one in step.arguments]
        keywords = {name: resolved(one, values, samples, self._own) for name, one in step.keywords}
        return operation(step.operation)(*arguments, **keywords)

    def _varies(self, argument: Any) -> bool:
        """Whether an argument depends on the input or on the number of samples."""
        if isinstance(argument, tuple):
            return any(self._varies(one) for one in argument)
        if isinstance(argument, Value):
            held = self._values[argument.number]
            return any(one.constant is None for one in (held if isinstance(held, list) else [held]))
        return isinstance(argument, Samples)

    def _written(self, step: Step, held: Held | list[Held]) -> Held | list[Held]:
        entry = OPERATIONS.get(step.packet)
        if entry is None:
            raise NotWrittenError(WITHOUT_FORM.get(self._missing or step.packet, "has no form there"))
        call = Call(self._writer, step.packet, self._arguments(step), held if isinstance(held, list) else [held])
        names = entry(call)
        if isinstance(held, Held):
            return _named(held, names if isinstance(names, str) else names[0])
        return [_named(one, name) for one, name in zip(held, [names] if isinstance(names, str) else names, strict=True)]

    def _arguments(self, step: Step) -> dict[str, Any]:
        """The arguments by the names in the schema of the operation, defaults included."""
        schema = operation(step.operation)._schema  # type: ignore[attr-defined]
        given = {one.name: value for one, value in zip(schema.arguments, step.arguments, strict=False)}
        given |= dict(step.keywords)
        return {
            one.name: self._argument(given[one.name]) if one.name in given else _default(one.default_value)
            for one in schema.arguments
        }

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, Samples):
            return argument
        if isinstance(argument, tuple):
            return tuple(self._argument(one) for one in argument)
        return resolved(argument, self._values, 0, self._own)


def _held(few: Any, more: Any, known: bool = False) -> Held | list[Held]:
    """What stands for a result, given as it is at both numbers of samples."""
    if isinstance(few, tuple | list):
        return [_held_one(a, b, known) for a, b in zip(few, more, strict=True)]
    return _held_one(few, more, known)


def _held_one(few: Tensor, more: Tensor, known: bool) -> Held:
    (m, n), sizes = _TRACED, list[Samples | int]()
    if few.ndim != more.ndim:
        raise NotWrittenError("gives a tensor whose dimensions depend on the number of samples")
    for a, b in zip(few.shape, more.shape, strict=True):
        slope = (b - a) // (n - m)
        sizes.append(Samples(slope, a - slope * m) if slope else a)
    return Held(tuple(sizes), few.dtype, constant=few if known else None)


def _named(held: Held, name: str) -> Held:
    return Held(held.sizes, held.dtype, name)


def _default(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
