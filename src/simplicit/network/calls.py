"""How a network is called: which arguments are arrays, which constants, and the two samples that it is traced with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from simplicit.errors import InputError
from simplicit.implicit.batch import Batch
from simplicit.implicit.inputs import (
    DTYPES,
    Constant,
    InputLayout,
    InputSpec,
    check_samples,
    first_array,
    is_array,
    is_constant,
    plain,
)


@dataclass(frozen=True)
class Call:
    """One way to call a network, for any number of samples.

    Attributes
    ----------
    layout : InputLayout
        The arrays and constants.
    names : tuple of str
        All arguments in the order of the call.
    positional : bool
        Whether they are handed over in order rather than by name.
    """

    layout: InputLayout
    names: tuple[str, ...]
    positional: bool

    @classmethod
    def of(cls, network: nn.Module, example: Any, dtype: np.dtype[Any], argument: str) -> Call:
        """The call that an example stands for: an array, or a tuple, list or mapping of arrays and constants.

        ``dtype`` is the network's, and that of floating-point inputs. InputError is raised for anything else.
        """
        if isinstance(example, Mapping):
            given, positional = dict(example), False
            if not all(isinstance(name, str) and name for name in given):
                raise InputError(
                    f"{argument} must have names of arguments as its keys, got {[*given]}", argument=argument
                )
        else:
            values = example if isinstance(example, tuple | list) else (example,)
            names = _names(network, len(values))
            given, positional = dict(zip(names, values, strict=True)), True
        alone = positional and len(given) == 1
        specs: list[InputSpec] = []
        constants: list[tuple[str, Constant]] = []
        for name, value in given.items():
            if is_array(value):
                specs.append(_spec(name, value, dtype, argument, alone=alone))
            elif is_constant(value) and not alone:
                constants.append((name, plain(value)))
            else:
                raise _not_an_input(example, value, argument)
        if not specs:
            raise _not_an_input(example, example, argument)
        check_samples({spec.name: given[spec.name] for spec in specs}, argument)
        return cls(InputLayout(tuple(specs), tuple(constants)), tuple(given), positional)

    @property
    def alone(self) -> bool:
        """Whether the network is called with one array and nothing else, not by its name."""
        return self.positional and len(self.names) == 1

    @property
    def plain(self) -> bool:
        """Whether U is handed to the network as it is."""
        return self.alone and self.layout.specs[0].floating

    def with_floats(self, dtype: np.dtype[Any]) -> Call:
        """The same call with all arrays in the network's dtype."""
        specs = tuple(replace(spec, dtype=str(dtype)) for spec in self.layout.specs)
        return replace(self, layout=replace(self.layout, specs=specs))

    def arguments(self, U: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the network is called with for a batch U: arguments in order, and by name."""
        return self.arranged(self.layout.unpack(U))

    def arranged(self, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the network is called with for arrays in the order of the layout: arguments in order, and by name."""
        named = zip((spec.name for spec in self.layout.specs), arrays, strict=True)
        values = dict(self.layout.constants) | dict(named)
        if self.positional:
            return tuple(values[name] for name in self.names), {}
        return (), {name: values[name] for name in self.names}

    def given(self, U: Tensor) -> Any:
        """A batch U in the form of the example: an array, a tuple or a mapping."""
        in_order, by_name = self.arguments(U)
        return in_order[0] if self.alone else in_order if self.positional else by_name

    def two_samples(self, example: Any, dtype: np.dtype[Any], argument: str) -> Tensor:
        """Two samples as U (2, *shape); a single one, which torch.export would take for fixed, counts twice."""
        if isinstance(example, Mapping):
            first: Any = {name: value[:2] if is_array(value) else value for name, value in example.items()}
        elif isinstance(example, tuple | list):
            first = tuple(value[:2] if is_array(value) else value for value in example)
        else:
            first = example[:2]
        U = self.layout.pack(first, dtype, argument)
        return U.expand(2, self.layout.width).reshape(2, *self.layout.shape).clone()

    def said(self, argument: str) -> str:
        """What the network was given, for errors: the shape of the array, or of each by its name."""
        shapes = {spec.name: ", ".join(map(str, ("m", *spec.shape))) for spec in self.layout.specs}
        if self.alone:
            return f"{argument} of shape ({next(iter(shapes.values()))})"
        return f"{argument} with " + ", ".join(f"{name!r} of shape ({shape})" for name, shape in shapes.items())


def check_kind(batch: Any, argument: str, name: str | None = None) -> None:
    """Refuse what is no array with values of its own; ``name`` is that of an array among several."""
    if not isinstance(batch, np.ndarray | Tensor):
        defect = f"must be a NumPy array or a tensor, got {type(batch).__name__}"
    elif isinstance(batch, Tensor) and (batch.layout != torch.strided or batch.is_quantized):
        layout = "quantised" if batch.is_quantized else batch.layout
        defect = f"must be a dense tensor, got a {layout} one; convert it before"
    elif isinstance(batch, Tensor) and batch.is_meta:
        defect = "must have values, got a tensor on the device meta"
    else:
        return
    place = argument if name is None else f"{argument}: {name!r}"
    raise InputError(f"{place} {defect}", argument=argument)


def network_dtype(weight: Tensor | None, example: Any) -> np.dtype[Any]:
    """The dtype of a weight; without any, that of the first array if it is float64, else float32."""
    dtype = getattr(first_array(example) if weight is None else weight, "dtype", None)
    wide = dtype == torch.float64 if isinstance(dtype, torch.dtype) else dtype is not None and _is_wide(dtype)
    return np.dtype(np.float64 if wide else np.float32)


def _is_wide(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" and dtype.itemsize >= 8


def _spec(name: str, value: Batch, dtype: np.dtype[Any], argument: str, *, alone: bool) -> InputSpec:
    check_kind(value, argument, None if alone else name)
    place, shape = argument if alone else f"{argument}: {name!r}", tuple(value.shape)
    if len(shape) < 1 + alone or 0 in shape:
        remedy = "" if shape else "; a number that is the same for all samples goes in as value.item()"
        if alone and len(shape) == 1 and shape[0]:
            remedy = f"; one sample alone is {argument}[None], and labels are not needed"
        form = "(m, ...)" if alone else "(m,) or (m, ...)"
        raise InputError(
            f"{place} must have shape {form}, samples first and m >= 1, got {shape}{remedy}", argument=argument
        )
    found = str(value.dtype).removeprefix("torch.")
    if isinstance(value, Tensor):
        floating, complex_ = value.is_floating_point(), value.is_complex()
    else:
        floating, complex_ = value.dtype.kind == "f", value.dtype.kind not in "iubf"
    if complex_:
        raise InputError(f"{place} must hold real numbers, got dtype {value.dtype}", argument=argument)
    if floating:
        return InputSpec(name, shape[1:], str(dtype))
    # torch computes little with wider unsigned integers.
    return InputSpec(name, shape[1:], found.lstrip("<>=|") if found in DTYPES else "int64")


def _names(network: nn.Module, count: int) -> list[str]:
    """What ``forward`` calls its first ``count`` arguments; whether it takes them is seen when it is called."""
    names: list[str] = []
    for parameter in inspect.signature(network.forward).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind == parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{place}" for place in range(max(0, count - len(names)))]
    names += [f"input_{place}" for place in range(len(names), count)]
    return names[:count]


def _not_an_input(example: Any, value: Any, argument: str) -> InputError:
    got = type(example).__name__
    if value is not example:
        got += f" that holds a {type(value).__name__}, which is neither an array nor a bool, int, float, str or None"
    form, remedy = "must be a NumPy array or a tensor, or a tuple or mapping of them", ""
    if isinstance(example, Dataset):
        remedy = "; give batches of it, torch.utils.data.DataLoader(dataset, batch_size=100)"
    elif isinstance(example, list) and isinstance(value, list | int | float):
        got, remedy = "a list of numbers", f"; give np.array({argument}, dtype=np.float32)"
    elif isinstance(value, tuple | list | Mapping):
        remedy = "; wrap the network in a module that takes the arrays one by one"
    return InputError(f"{argument} {form}, got {got}{remedy}", argument=argument)
