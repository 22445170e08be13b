r"""The kinds of entries in the registry: how one call of a torch operation is carried over to affine values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from simplicit.baseline.affine import Affine, NotAffineError, as_vector
from simplicit.baseline.moving import PROBES, BatchSize, at_probe, contains, move
from simplicit.implicit import Activation

__all__ = ["Call", "Elementwise", "Filling", "Linear", "Moving", "Rule"]


@dataclass(frozen=True)
class Call:
    """One call of a torch operation, with affine values in place of the tensors that depend on the input."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that are given, by the names of the operation's schema."""
        names = (argument.name for argument in self.operation._schema.arguments)
        return dict(zip(names, self.args, strict=False)) | dict(self.kwargs)

    def bound_to(self, function: Callable[..., Any]) -> inspect.BoundArguments:
        """The arguments as those of ``function``."""
        try:
            return inspect.signature(function).bind(*self.args, **self.kwargs)
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
        if any(leaf.size == 0 for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Affine)):
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
class Filling:
    """An operation that makes constants, in the form of another tensor or of a size."""

    def __call__(self, call: Call) -> Affine | Tensor:
        made = [self._made(call, probe) for probe in range(len(PROBES))]
        if made[0].shape == made[1].shape and torch.equal(*made):
            return made[0]
        alike = [
            m.shape[0] == samples and bool((m == made[0][0]).all()) for m, samples in zip(made, PROBES, strict=True)
        ]
        if not all(alike):
            raise NotAffineError("its result depends on the number of samples")
        return Affine(tuple(made[0].shape[1:]), {}, as_vector(made[0][0]))

    @staticmethod
    def _made(call: Call, probe: int) -> Tensor:
        def stand_in(leaf: Any) -> Any:
            shape = (PROBES[probe], *leaf.shape) if isinstance(leaf, Affine) else None
            return leaf if shape is None else torch.zeros(shape, dtype=torch.float64)

        result: Tensor = call.operation(**at_probe(tree_map(stand_in, call.arguments), probe))
        return result


Rule: TypeAlias = Elementwise | Linear | Moving | Filling
