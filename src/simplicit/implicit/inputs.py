"""Several inputs of a network as one U (m, p), and back.

A network may take several arrays, of several dtypes: token ids, a mask, an image. An implicit model has one input u in
R^p. An :class:`InputLayout` says how the one becomes the other: each array, (m, *shape), is flattened in C order to
(m, size), and they stand side by side in the order of the layout,

    U = [ flat(first) | flat(second) | … ],   p = the sum of their sizes,

in the network's own dtype, float32 or float64. Integers and truth values are numbers there: a float32 holds every
integer up to 2²⁴ exactly and a float64 up to 2⁵³, and larger ones are refused. :meth:`InputLayout.pack` checks names,
shapes, kinds of numbers and numbers of samples; :meth:`InputLayout.unpack` is its inverse, and what a captured graph
begins with. All that works on U (states, rows, attacks) need not know that there were several inputs.

Values that are no arrays (``use_cache=False``) are *constants*: the network is captured with them and they have no part
in U. They are kept so that a call with others is refused, not misread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import as_array
from simplicit.errors import InputError
from simplicit.implicit.batch import Batch, as_batch, like

#: A value of a call that is no array.
Constant: TypeAlias = bool | int | float | str | None

_FLOATS = ("float32", "float64")
_INTEGERS = ("uint8", "int8", "int16", "int32", "int64")
DTYPES = (*_FLOATS, *_INTEGERS, "bool")


@dataclass(frozen=True)
class InputSpec:
    """One input of a network.

    Attributes
    ----------
    name : str
        The argument of the network's ``forward``.
    shape : tuple of int
        The shape of one sample; () where a sample is a number.
    dtype : str
        What the network takes, "float32", "int64", "bool" and so on. Floating-point inputs have the dtype of U.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        whole = isinstance(self.shape, tuple) and all(type(size) is int and size > 0 for size in self.shape)
        if not isinstance(self.name, str) or not self.name or not whole or self.dtype not in DTYPES:
            raise InputError(
                f"an input has a name, a shape of positive integers and a dtype of {', '.join(DTYPES)}, got "
                f"{self.name!r}, {self.shape!r}, {self.dtype!r}"
            )

    @property
    def size(self) -> int:
        """How many columns of U it takes."""
        return math.prod(self.shape)

    @property
    def floating(self) -> bool:
        """Whether it holds floating-point numbers; otherwise integers or truth values."""
        return self.dtype in _FLOATS

    def check(self, values: Tensor, argument: str) -> None:
        """Refuse ``values``, integers or whole numbers of any dtype, that its integers or truth values do not hold."""
        known = torch.bool if self.dtype == "bool" else getattr(torch, self.dtype)
        low, high = (0, 1) if known == torch.bool else (torch.iinfo(known).min, torch.iinfo(known).max)
        if values.numel() and (values.min() < low or values.max() > high):
            defect = f"{self.name!r} holds numbers outside {low} to {high}, the range of its dtype {self.dtype}"
            raise InputError(f"{argument}: {defect}; the example had that dtype", argument=argument)


@dataclass(frozen=True)
class InputLayout:
    """How the inputs of a network lie in U; see :mod:`simplicit.implicit.inputs`.

    Parameters
    ----------
    specs : tuple of InputSpec
        The inputs in the order of their columns, at least one.
    constants : tuple of (str, value)
        The arguments that were no arrays, with their values.
    clip : (float, float), optional
        The range of floating-point inputs, where what is proved of the model holds in a range only; others are refused.

    Raises
    ------
    InputError
        There is no input, or a name stands twice.
    """

    specs: tuple[InputSpec, ...]
    constants: tuple[tuple[str, Constant], ...] = ()
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        names = [*(spec.name for spec in self.specs), *dict(self.constants)]
        if not self.specs or len({*names}) < len(self.specs) + len(self.constants):
            raise InputError(f"a layout has at least one input, each with a name of its own, got {names}")

    @property
    def width(self) -> int:
        """The number p of columns of U."""
        return sum(spec.size for spec in self.specs)

    @property
    def shape(self) -> tuple[int, ...]:
        """The form of one sample of U: that of the input where there is one only, which has a shape, else (p,)."""
        return self.specs[0].shape if len(self.specs) == 1 and self.specs[0].shape else (self.width,)

    @property
    def columns(self) -> dict[str, slice]:
        """The columns of U that belong to each input, by its name."""
        ends = np.cumsum([0, *(spec.size for spec in self.specs)]).tolist()
        return {spec.name: slice(a, b) for spec, a, b in zip(self.specs, ends, ends[1:], strict=False)}

    def unpack(self, U: Tensor) -> tuple[Tensor, ...]:
        """The inputs that a batch U, (m, p) or ``(m, *self.shape)``, stands for, each in the dtype that it has.

        It is made of differentiable operations of torch, which torch.export traces for any m.
        """
        alone = len(self.specs) == 1
        # One operation for each part: U[:, columns] would be two, and a split has others to take its parts.
        cut = torch.ops.aten.slice.Tensor
        parts = [U] if alone else [cut(U, 1, part.start, part.stop) for part in self.columns.values()]
        return tuple(_as_given(part, spec) for part, spec in zip(parts, self.specs, strict=True))

    def pack(self, inputs: Any, dtype: np.dtype[Any], argument: str = "inputs") -> Tensor:
        """One U (m, p) in ``dtype`` for inputs in any form: named, in order, one alone, or U itself.

        Parameters
        ----------
        inputs : mapping, tuple or list of arrays, or one array
            Arrays ``(m, *shape)`` by name or in the order of the layout, with or without the constants; one array where
            the layout has one input; or U, (m, p) or ``(m, *self.shape)``.
        dtype : float32 or float64
            That of the model or the network.
        argument : str
            What the caller calls ``inputs``, for errors.

        Raises
        ------
        InputError
            A name is missing or unknown, a constant is another; an array has another shape, another number of samples,
            none, fractions where integers belong, integers that ``dtype`` does not hold, or NaN or infinite values.
        """
        if is_array(inputs) and len(self.specs) == 1 and not self.specs[0].floating and not _fractional(inputs):
            inputs = (inputs,)
        if not is_several(inputs):
            return self._valid(
                self._checked(as_batch(inputs, self.width, self.shape, dtype, argument), argument), argument
            )
        given = self._named(inputs, argument)
        parts = [_flat(spec, given[spec.name], dtype, argument) for spec in self.specs]
        check_samples({spec.name: part for spec, part in zip(self.specs, parts, strict=True)}, argument)
        return self._valid(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), argument)

    def attached(self, U: Tensor, inputs: Any, argument: str = "inputs") -> Tensor:
        """The same U, (m, p), as :meth:`pack` made it of tensors, with gradients by those of them that ask for any.

        Only floating-point numbers have gradients: integers and truth values are copied from U.
        """
        if not is_several(inputs):
            alone: Tensor = inputs.reshape(U.shape).to("cpu", U.dtype)
            return alone
        given, parts = self._named(inputs, argument), []
        for name, columns in self.columns.items():
            value = given.get(name)
            if isinstance(value, Tensor) and value.requires_grad:
                parts.append(value.reshape(len(U), -1).to("cpu", U.dtype))
            else:
                parts.append(U[:, columns])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def by_name(self, in_order: tuple[Any, ...], by_name: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a call by their names, where some are named: the others come in the order of the layout.

        InputError is raised where one is given twice, or there are too many.
        """
        names = {True: iter(self.columns), False: iter(dict(self.constants))}
        found = {next(names[is_array(value)], ""): value for value in in_order}
        twice = [name for name in found if name in by_name]
        if twice or "" in found:
            defect = f"{twice[0]!r} is given twice" if twice else f"there are more than {self.said()}"
            raise InputError(f"inputs: {defect}; give all of them by name", argument="inputs")
        return found | dict(by_name)

    def restored(self, U: Tensor, inputs: Any) -> Any:
        """Other values U, (m, p), in the form in which ``inputs`` were given, from which only floats may differ.

        Arrays of floating-point numbers are replaced, by ones of their kind and device in the dtype of U; integers,
        truth values and constants are handed back as they were given.
        """
        if not is_several(inputs):
            return like(U.reshape(np.shape(inputs)), inputs)
        found = {
            spec.name: U[:, columns].reshape(len(U), *spec.shape)
            for spec, columns in zip(self.specs, self.columns.values(), strict=True)
            if spec.floating
        }
        if isinstance(inputs, Mapping):
            return {name: like(found[name], value) if name in found else value for name, value in inputs.items()}
        names = iter(self.columns)
        named = [(next(names) if is_array(value) else "", value) for value in inputs]
        return tuple(like(found[name], value) if name in found else value for name, value in named)

    def _checked(self, U: Tensor, argument: str) -> Tensor:
        """U itself, where the columns of integers hold integers."""
        for spec, columns in zip(self.specs, self.columns.values(), strict=True):
            if not spec.floating:
                part = U[:, columns]
                if not torch.equal(part, part.round()):
                    raise _not_whole(spec, argument, "fractions")
                spec.check(part, argument)
        return U

    def _valid(self, U: Tensor, argument: str) -> Tensor:
        """U itself, where its floating-point columns lie in the range."""
        for spec, columns in zip(self.specs, self.columns.values(), strict=True) if self.clip else ():
            part, (low, high) = U[:, columns], self.clip or (0.0, 0.0)
            if spec.floating and not bool(((part >= low) & (part <= high)).all()):
                defect = f"{spec.name!r} must lie in clip = {self.clip}, where the model is proved well-posed"
                raise InputError(f"{argument}: {defect}; scale it, or prove it in a wider range", argument=argument)
        return U

    def _named(self, inputs: Any, argument: str) -> dict[str, Any]:
        """The arrays by their names."""
        constants, names = dict(self.constants), [spec.name for spec in self.specs]
        if not isinstance(inputs, Mapping):
            arrays = [value for value in inputs if is_array(value)]
            others = [value for value in inputs if not is_array(value)]
            if len(arrays) != len(names) or (others and len(others) != len(constants)):
                raise InputError(
                    f"{argument} must hold {len(names)} arrays, {self.said()}, got {len(arrays)}", argument=argument
                )
            inputs = dict(zip(names, arrays, strict=True)) | dict(zip(constants, others, strict=False))
        unknown = [name for name in inputs if name not in names and name not in constants]
        missing = [name for name in names if name not in inputs]
        if unknown or missing:
            defect = f"has no input {missing[0]!r}" if missing else f"has the unknown input {unknown[0]!r}"
            raise InputError(f"{argument} {defect}; the network was captured with {self.said()}", argument=argument)
        for name, value in constants.items():
            if name in inputs and (is_array(inputs[name]) or plain(inputs[name]) != value):
                found = f"{argument} has another {name!r} than the example, which had {value!r}"
                raise InputError(f"{found}; capture the network with it", argument=argument)
        return {name: inputs[name] for name in names}

    def said(self) -> str:
        """The names of the inputs, in words."""
        return " and ".join(repr(spec.name) for spec in self.specs)

    def to_config(self) -> dict[str, Any]:
        """Return the layout as plain values, ready for JSON."""
        clip = {} if self.clip is None else {"clip": [*self.clip]}
        arrays, constants = [asdict(spec) for spec in self.specs], [list(pair) for pair in self.constants]
        return {"arrays": arrays, "constants": constants, **clip}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> InputLayout:
        """Return the layout that :meth:`to_config` described; InputError for anything else."""
        lists = set(config) - {"clip"} == {"arrays", "constants"} and all(
            isinstance(one, list) for one in config.values()
        )
        clip = config.get("clip")
        if not lists or (clip is not None and [type(end) for end in clip] != [float, float]):
            raise InputError(f'"inputs" must hold lists of arrays and constants, got {dict(config)!r:.80}')
        for entry in config["arrays"]:
            if not isinstance(entry, dict) or set(entry) != {"name", "shape", "dtype"}:
                raise InputError(f"an input must have name, shape and dtype and nothing else, got {entry!r:.80}")
        for pair in config["constants"]:
            if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str) or not is_constant(pair[1]):
                raise InputError(f"a constant input must be a name and a value, got {pair!r:.80}")
        specs = (InputSpec(one["name"], _sizes(one["shape"]), one["dtype"]) for one in config["arrays"])
        constants = tuple((name, value) for name, value in config["constants"])
        return cls(tuple(specs), constants, None if clip is None else (clip[0], clip[1]))


def is_array(value: Any) -> TypeGuard[Batch]:
    """Whether a value of a call is an array, rather than a constant."""
    return isinstance(value, np.ndarray | Tensor)


def is_constant(value: Any) -> bool:
    """Whether a value of a call is handed to the network as it is."""
    return value is None or isinstance(value, bool | int | float | str | np.bool_ | np.integer | np.floating)


def plain(value: Any) -> Any:
    """A constant as Python has it, also where NumPy made it."""
    return value.item() if isinstance(value, np.generic) else value


def is_several(inputs: Any) -> bool:
    """Whether arrays come by name or in order, rather than as one array, which may be spelled as nested lists."""
    return isinstance(inputs, Mapping) or (isinstance(inputs, tuple | list) and any(map(is_array, inputs)))


def first_array(inputs: Any) -> Any:
    """The first array of inputs in any form."""
    if not is_several(inputs):
        return inputs
    values: Iterable[Any] = inputs.values() if isinstance(inputs, Mapping) else inputs
    return next(filter(is_array, values), None)


def check_samples(arrays: Mapping[str, Batch], argument: str) -> None:
    """Refuse arrays of different numbers of samples."""
    counts = {name: len(array) for name, array in arrays.items()}
    if len({*counts.values()}) > 1:
        found = " and ".join(f"{count} in {name!r}" for name, count in counts.items())
        remedy = "pad sequences of unequal length to one, with a mask where the network takes one"
        raise InputError(
            f"{argument} must hold as many samples in every array, got {found}; {remedy}", argument=argument
        )


def _as_given(part: Tensor, spec: InputSpec) -> Tensor:
    if tuple(part.shape[1:]) != spec.shape:
        part = part.view(part.shape[0], *spec.shape)  # which one dimension always allows
    return part if spec.floating else part.to(getattr(torch, spec.dtype))


def _flat(spec: InputSpec, values: Any, dtype: np.dtype[Any], argument: str) -> Tensor:
    """One input as columns (m, size) of U."""
    if not is_array(values):
        got = type(values).__name__
        raise InputError(f"{argument}: {spec.name!r} must be a NumPy array or a tensor, got {got}", argument=argument)
    shape = tuple(values.shape)
    if not shape or shape[1:] != spec.shape:
        wanted = ", ".join(map(str, ("m", *spec.shape)))
        remedy = "capture the network with samples of that shape, or cut or pad them"
        raise InputError(
            f"{argument}: {spec.name!r} must have shape ({wanted}), as the example had, got {shape}; {remedy}",
            argument=argument,
        )
    name = f"{argument}: {spec.name!r}"
    if isinstance(values, Tensor) and (values.layout != torch.strided or values.is_meta or values.is_quantized):
        _named(as_array, name, values, argument=argument)  # it says what is wrong
    flat = values.reshape(len(values), spec.size)
    if spec.floating:
        batch: Tensor = _named(as_batch, flat, spec.size, None, dtype, name, argument=argument)
        return batch
    whole = _whole_numbers(spec, flat, argument)
    limit = 2 ** (24 if dtype == np.float32 else 53)
    if whole.numel() and max(int(whole.max()), -int(whole.min())) > limit:
        remedy = "" if dtype == np.float64 else "; use net.double()"
        defect = f"holds integers beyond {limit:,}, which {np.dtype(dtype)} does not hold exactly"
        raise InputError(f"{name} {defect}{remedy}", argument=argument)
    spec.check(whole, argument)
    return as_batch(whole, spec.size, None, dtype, argument)


def _whole_numbers(spec: InputSpec, values: Batch, argument: str) -> Tensor:
    """Integers or truth values as a tensor of int64; unsigned ones beyond it are refused as too large later."""
    if _fractional(values):
        raise _not_whole(spec, argument, str(values.dtype).removeprefix("torch."))
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.int64)
    wide = values.astype(np.uint64).clip(max=np.uint64(2**62)) if values.dtype.kind == "u" else values
    return torch.from_numpy(np.require(wide, dtype=np.int64, requirements=["C", "W"]))


def _fractional(values: Batch) -> bool:
    """Whether an array has another dtype than integers or truth values."""
    if isinstance(values, Tensor):
        return values.is_floating_point() or values.is_complex()
    return values.dtype.kind not in "iub"


def _not_whole(spec: InputSpec, argument: str, found: str) -> InputError:
    return InputError(
        f"{argument}: {spec.name!r} must hold {'truth values' if spec.dtype == 'bool' else 'integers'}, as the "
        f"example had ({spec.dtype}), got {found}; convert it before",
        argument=argument,
    )


def _named(check: Any, *arguments: Any, argument: str) -> Any:
    """What a check returns, whose errors belong to the ``argument`` that the caller knows."""
    try:
        return check(*arguments)
    except InputError as error:
        raise InputError(str(error), argument=argument) from error


def _sizes(shape: Any) -> Any:
    return tuple(shape) if isinstance(shape, list) else shape
