r"""The kinds of entries in the registry: each says how one call of an operation is carried over to affine values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from simplicit.implicit import Activation
from simplicit.network.affine import Affine, MixingError, NotAffineError, as_vector
from simplicit.network.moving import NUMBER_OF_SAMPLES, PROBES, BatchSize, at_probe, move
from simplicit.network.trees import contains, leaves, mapped

_TO_THE_END = 2**63 - 1


_signature = cache(inspect.signature)


@dataclass(frozen=True)
class Call:
    """One call of a torch operation, with affine values in place of the tensors that depend on the input.

    ``dtype`` is that of its result in the network; None where the result is no tensor, or a list of several dtypes.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    dtype: torch.dtype | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that are given, by the names of the operation's schema."""
        names = (argument.name for argument in self.operation._schema.arguments)
        return dict(zip(names, self.args, strict=False)) | dict(self.kwargs)

    @property
    def defaults(self) -> dict[str, Any]:
        """The default values of the operation's schema."""
        arguments = self.operation._schema.arguments
        return {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}

    def bound_to(self, function: Callable[..., Any]) -> inspect.BoundArguments:
        """The arguments as those of ``function``; NotAffineError where it does not take them."""
        try:
            return _signature(function).bind(*self.args, **self.kwargs)
        except TypeError as error:
            raise NotAffineError(f"this form of it is not known ({error})") from None


@dataclass(frozen=True)
class Elementwise:
    """An activation; ``make`` takes the arguments of the operation after the first."""

    make: Callable[..., Activation]

    def __call__(self, call: Call) -> Activation:
        rest = Call(call.operation, call.args[1:], call.kwargs)
        if contains((Affine, BatchSize), (rest.args, rest.kwargs)):
            raise NotAffineError("its parameters depend on the input")
        bound = rest.bound_to(self.make)
        return self.make(*bound.args, **bound.kwargs)


@dataclass(frozen=True)
class Linear:
    """A linear (or affine) operation; ``function`` takes its arguments."""

    function: Callable[..., Any]

    def __call__(self, call: Call) -> Any:
        if contains(BatchSize, (call.args, dict(call.kwargs))):
            raise NotAffineError("its result depends on the number of samples")
        if any(leaf.size == 0 for leaf in leaves((call.args, call.kwargs)) if isinstance(leaf, Affine)):
            raise NotAffineError("it is applied to an empty tensor")
        bound = call.bound_to(self.function)
        return self.function(*bound.args, **bound.kwargs)


@dataclass(frozen=True)
class Moving:
    """An operation that only moves elements; ``numbers`` names the arguments in which a number is an element."""

    numbers: tuple[str, ...] = ()

    def __call__(self, call: Call) -> Any:
        arguments = call.arguments
        if arguments.get("accumulate") or "dtype" in arguments:
            raise NotAffineError("this form of it does more than move elements")
        return move(call.operation, arguments, self.numbers)


@dataclass(frozen=True)
class Along(Moving):
    """An operation that moves elements along certain dimensions, by numbers that may be larger than any batch tried.

    Along the batch dimension only the whole slice is let through; ``x[20:]`` or ``x.roll(132, 0)`` do nothing to a few
    samples. ``default`` are its dimensions where it does not say them; None stands for all.
    """

    default: tuple[int, ...] | None = None

    def __call__(self, call: Call) -> Any:
        arguments = call.arguments
        operand = arguments["self"]
        if type(arguments.get("repeats")) is int:  # which does the same to every sample, however many there are
            return super().__call__(call)
        if isinstance(operand, Affine) and _batch_axis(operand) in self._dimensions(call, _dimensions(operand)):
            if "step" not in call.defaults or not _is_whole(arguments):
                raise MixingError("it mixes the samples of a batch, or takes some of them")
            return arguments.get("src", operand)
        return super().__call__(call)

    def _dimensions(self, call: Call, count: int) -> set[int]:
        given = call.defaults | call.arguments
        named = [given[name] for name in ("dim", "dims", "dim1", "dim2", "dimension") if name in given]
        dims = [dim for dim in leaves(named) if dim is not None]
        if not dims:
            dims = list(range(count) if self.default is None else self.default)
        return {dim % count for dim in dims}


def _dimensions(value: Affine) -> int:
    """How many dimensions the network's tensor has."""
    return len(value.shape) + (1 if value.layout is None else -1)


def _batch_axis(value: Affine) -> int:
    return 0 if value.layout is None else value.layout.axis


def _is_whole(arguments: Mapping[str, Any]) -> bool:
    """Whether a slice of the samples is all of them."""
    until_last = arguments.get("end") in (None, NUMBER_OF_SAMPLES, _TO_THE_END)
    return until_last and arguments.get("start") in (None, 0) and arguments.get("step", 1) == 1


@dataclass(frozen=True)
class Filling:
    """An operation that makes constants, in the form of another tensor or of a size."""

    def __call__(self, call: Call) -> Affine | Tensor:
        first, second = (self._made(call, probe) for probe in range(len(PROBES)))
        if first.shape == second.shape and torch.equal(first, second):
            return first
        sample = tuple(first.shape[1:])
        samples_first = all(
            tuple(made.shape) == (samples, *sample) and bool((made == first[:1]).all())
            for made, samples in zip((first, second), PROBES, strict=True)
        )
        if not samples_first:
            raise NotAffineError("its result depends on the number of samples")
        return Affine(sample, {}, as_vector(first[0]))

    @staticmethod
    def _made(call: Call, probe: int) -> Tensor:
        def stand_in(leaf: Any) -> Any:
            if not isinstance(leaf, Affine):
                return leaf
            zeros = torch.zeros(PROBES[probe], *leaf.shape)
            return zeros if leaf.layout is None else leaf.layout.arranged(zeros)

        arguments = at_probe(mapped(stand_in, call.arguments), probe)
        # The dtype rounds or wraps the constants: that of the network's own result, not that of the stand-ins.
        result: Tensor = call.operation(**{**arguments, "dtype": call.dtype})
        return result


Rule: TypeAlias = Elementwise | Linear | Moving | Filling
