"""The output of a network that is represented, of those that it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simplicit.errors import InputError

#: All outputs, joined along features.
ALL = "all"
#: What the output is called where there is one only.
ONLY = "output"


@dataclass(frozen=True)
class Choice:
    """One output of a network, or several that are joined.

    Attributes
    ----------
    name : str
        What is chosen: a name, or "all".
    names : tuple of str
        What there was to choose from: the keys of a mapping and the places in a tuple, joined by dots where they are
        nested ("hidden_states.0"); "output" where the network returns one tensor.
    joined : tuple of str
        The outputs that are taken, in order.
    bare : bool
        Whether the network returns the tensor itself.
    """

    name: str
    names: tuple[str, ...]
    joined: tuple[str, ...]
    bare: bool

    def of(self, result: Any) -> Tensor:
        """The chosen output, (m, ...), of what the network returned; joined ones are flattened, (m, q)."""
        tensors = tensors_of(result)
        if self.name != ALL:
            return tensors[self.name]
        parts = [tensors[name] for name in self.joined]
        return torch.cat([part.flatten(1) if part.ndim > 1 else part.unsqueeze(1) for part in parts], dim=1)


def chosen(result: Any, output: str | int | None, samples: int) -> Choice:
    """The choice that ``output`` makes of what a network returned for so many samples.

    It is a name or a place among all tensors, "all", or None for the first floating-point tensor with one entry per
    sample. InputError is raised where there is no such tensor.
    """
    tensors = tensors_of(result)
    names, bare = tuple(tensors), isinstance(result, Tensor)
    if not tensors:
        raise InputError(
            f"net must return a tensor, samples first; it returns a {type(result).__name__}", argument="net"
        )
    fit = [name for name, tensor in tensors.items() if _misfit(tensor, samples) is None]
    if output == ALL or (output is None and not bare):
        if not fit:
            first = next(iter(tensors))
            raise InputError(f"net {_misfit(tensors[first], samples)}; that is of output {first!r}", argument="net")
        return Choice(ALL, names, tuple(fit), bare) if output == ALL else Choice(fit[0], names, (fit[0],), bare)
    name = names[0] if output is None else _known(output, tensors)
    if (misfit := _misfit(tensors[name], samples)) is not None:
        if bare:
            raise InputError(f"net {misfit}", argument="net")
        others = f"; take one of {', '.join(map(repr, fit))}" if fit else ""
        raise InputError(f"output: for {name!r}, net {misfit}{others}", argument="output")
    return Choice(name, names, (name,), bare)


def tensors_of(result: Any) -> dict[str, Tensor]:
    """All tensors in what a network returns, by name."""
    return {ONLY: result} if isinstance(result, Tensor) else dict(_named(result, ""))


def _named(result: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(result, Tensor):
        yield prefix, result
        return
    parts: Mapping[Any, Any] = {}
    if isinstance(result, Mapping):
        parts = result
    elif isinstance(result, tuple | list):
        parts = dict(zip(getattr(result, "_fields", range(len(result))), result, strict=True))
    for key, value in parts.items():
        yield from _named(value, f"{prefix}.{key}" if prefix else str(key))


def _known(output: Any, tensors: Mapping[str, Tensor]) -> str:
    """The name of the output that is meant."""
    names = [*tensors]
    if isinstance(output, int) and not isinstance(output, bool):
        if 0 <= output < len(names):
            return names[output]
    elif output in names:
        return str(output)
    elif isinstance(output, str):
        ends = [name for name in names if name.endswith(f".{output}")]
        if len(ends) == 1:
            return ends[0]
    there = ", ".join(f"{name!r} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    raise InputError(
        f"output {output!r} does not exist; net returns {there}: give a name, a place from 0 or 'all'",
        argument="output",
    )


def _misfit(tensor: Tensor, samples: int) -> str | None:
    """Why a tensor cannot be the output."""
    if tensor.ndim == 0 or tensor.shape[0] != samples:
        return (
            f"must return one output per sample, samples first; for {samples} samples it returns shape "
            f"{tuple(tensor.shape)}"
        )
    if not tensor.is_floating_point():
        return f"must return floating-point numbers; it returns {tensor.dtype}"
    return None
