"""Checks of arguments that come from outside, each with one clear error that names the argument."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from simplicit.errors import InputError, first_line

#: Largest magnitude of an entry, and the smallest of a column that is not zero.
LARGEST, SMALLEST = 1e60, 1e-60
#: Arrays are read in parts of about this many numbers, so that a memory map is never in memory as a whole.
_PART_NUMBERS = 2**22


def refused(argument: str, what: str, value: object = None) -> InputError:
    """The error that says what is wrong with an argument, or with the ``value`` of it that is named."""
    place = argument if value is None else f"{argument} {value}"
    return InputError(f"{place}: {what}", argument=argument)


def as_array(name: str, value: Any) -> npt.NDArray[Any]:
    """``value`` as a NumPy array of real numbers or booleans, not copied where it is one already.

    A torch tensor is detached and may be on any device. InputError is raised for a network, a sparse or meta tensor, a
    masked array, ragged lists, and anything else but real numbers.
    """
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            raise InputError(f"{name} must have values, got a tensor on the device meta", argument=name)
        if value.layout != torch.strided or value.is_quantized:
            kind, remedy = ("quantised", "dequantize") if value.is_quantized else ("sparse", "to_dense")
            defect = f"must be a dense tensor, got a {kind} one; convert it with .{remedy}()"
            raise InputError(f"{name} {defect}", argument=name)
        if value.dtype == torch.bfloat16:  # NumPy has no such type
            value = value.float()
        value = value.detach().cpu().resolve_neg().resolve_conj().numpy()
    if isinstance(value, torch.nn.Module):
        defect = f"must be an array, got the network {type(value).__name__}; see simplicit.from_torch"
        raise InputError(f"{name} {defect}", argument=name)
    if isinstance(value, np.ma.MaskedArray):
        defect = "must not be a masked array: masks are not followed; convert it with .filled(…)"
        raise InputError(f"{name} {defect}", argument=name)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        defect = f"must be an array with rows of equal length, got {short(value)}"
        raise InputError(f"{name} {defect}", argument=name) from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} must hold real numbers, got dtype {array.dtype} from {short(value)}", argument=name)
    return array


def as_float_array(name: str, value: Any, *, ndim: int | None = None) -> npt.NDArray[np.floating[Any]]:
    """``value`` as a NumPy array of floats, float32 or float64 in the byte order of the machine.

    Such an array is not copied, nor is a memory map in the other byte order, or of half precision, of which parts are
    converted as they are read. Half precision becomes float32, which has all of its values; what is longer is rounded
    to float64. InputError is raised for integers, booleans and objects, for another number of dimensions than
    ``ndim``, and for an empty array.
    """
    array = as_array(name, value)
    if array.dtype.kind != "f":
        raise refused(name, f"expected floats, got {array.dtype}; convert with {name}.astype('float64')")
    if array.dtype not in (np.float32, np.float64) and not (isinstance(array, np.memmap) and array.itemsize <= 8):
        array = array.astype(np.float32 if array.itemsize <= 4 else np.float64)
    if ndim is not None and array.ndim != ndim:
        raise refused(name, f"expected {ndim} dimensions, got shape {array.shape}")
    if not array.size:
        raise refused(name, f"is empty, shape {array.shape}; give at least one entry in every dimension")
    return array


def as_positive_array(
    name: str, value: Any, shapes: Sequence[tuple[int, ...]], *, or_zero: bool = False
) -> npt.NDArray[np.float64]:
    """``value``, a number or an array of one of the ``shapes``, all finite and > 0 (≥ 0 with ``or_zero``), as float64.

    InputError is raised for anything else, with the first entry out of range.
    """
    values = as_array(name, value).astype(np.float64)
    if values.shape not in ((), *shapes):
        allowed = " or ".join(map(str, shapes))
        defect = f"has shape {values.shape}; give one number, or an array of shape {allowed}"
        raise InputError(f"{name} {defect}", argument=name)
    valid = np.isfinite(values) & ((values >= 0) if or_zero else (values > 0))
    if not valid.all():
        defect = f"must be finite and {'>= 0' if or_zero else '> 0'}, got {values.ravel()[np.argmin(valid)]:g}"
        raise InputError(f"{name} {defect}", argument=name)
    return values


def as_count(name: str, value: Any, *, minimum: int = 1) -> int:
    """``value``, a Python or NumPy integer of at least ``minimum``; InputError otherwise (booleans too)."""
    if not _is_integer(value) or value < minimum:
        raise InputError(f"{name} must be an integer of at least {minimum}, got {short(value)}", argument=name)
    return int(value)


def as_seed(name: str, value: Any, *, bits: int = 64) -> int:
    """``value``, a Python or NumPy integer in [0, 2 ** bits); InputError otherwise.

    torch's generators take 64 bits; AutoAttack, and what may run it, 63.
    """
    if not _is_integer(value) or not 0 <= value < 2**bits:
        raise InputError(f"{name} must be an integer in [0, 2**{bits}), got {short(value)}", argument=name)
    return int(value)


def as_number(name: str, value: Any, *, positive: bool = False) -> float:
    """``value``, a finite real number of at least 0, above 0 if ``positive``; arrays of one entry are no numbers."""
    if not _is_number(value) or value < 0 or (positive and value == 0):
        kind = "positive and finite" if positive else "a finite number of at least 0"
        remedy = ""
        if isinstance(value, str):
            remedy = "; give a number, such as 8 / 255" if not _numeral(value) else f"; give the number {value.strip()}"
        raise InputError(f"{name} must be {kind}, got {short(value)}{remedy}", argument=name)
    return float(value)


def as_network(name: str, value: Any) -> torch.nn.Module:
    """``value``, a network; InputError otherwise, which says how to come from what is given to one."""
    if isinstance(value, torch.nn.Module):
        return value
    kind = type(value).__name__
    remedy = ""
    if isinstance(value, str | os.PathLike):
        remedy = "; make the network, and put the weights of such a file into it by simplicit.load_weights(net, path)"
    elif isinstance(value, Mapping):
        remedy = "; such weights go into a network by net.load_state_dict(…)"
    elif isinstance(value, type):
        remedy = f"; give a network of this class, {value.__name__}(…)"
    elif isinstance(getattr(value, "__self__", None), torch.nn.Module):
        remedy = "; give the module whose method this is"
    elif isinstance(value, torch.Tensor | np.ndarray):
        remedy = "; the network comes first, then what it takes"
    elif kind == "FitResult":
        remedy = "; of a fit, give result.network()"
    raise InputError(f"{name} must be a torch.nn.Module, got {kind}{remedy}", argument=name)


def as_interval(name: str, value: Any) -> tuple[float, float]:
    """``value``, a pair (low, high) of finite numbers with low < high, as floats; InputError otherwise."""
    pair = tuple(value) if isinstance(value, tuple | list | np.ndarray) and np.shape(value) == (2,) else ()
    if not pair or not all(_is_number(end) for end in pair) or not pair[0] < pair[1]:
        raise InputError(f"{name} must be (low, high) with low < high, both finite, got {short(value)}", argument=name)
    return float(pair[0]), float(pair[1])


def as_path(name: str, value: Any) -> Path:
    """``value``, a text or path, as a path; InputError otherwise."""
    if not isinstance(value, str | os.PathLike) or "\0" in str(value):
        raise InputError(f"{name} must be a path, got {short(value)}", argument=name)
    return Path(value)


def check_flag(name: str, value: Any) -> None:
    """Raise :class:`InputError` for what is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} must be True or False, got {short(value)}", argument=name)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise :class:`InputError` for a value that is none of the ``choices``."""
    known = tuple(choices)
    if not isinstance(value, str) or value not in known:
        raise refused(name, f"{value!r} is unknown; choose one of {', '.join(map(repr, known))}")


def check_finite(name: str, array: npt.NDArray[Any]) -> None:
    """Raise :class:`InputError` with the first offending index if ``array`` has a NaN or an infinity."""
    for first, part in _parts(array):
        finite = np.isfinite(part)
        if not finite.all():
            place, *rest = (int(i) for i in np.argwhere(~finite)[0])
            index = (place + first, *rest)
            found = f"holds {array[index]} at index ({', '.join(map(str, index))})"
            raise refused(name, f"{found}; remove or replace non-finite values first")


def check_magnitudes(name: str, array: npt.NDArray[Any], *, or_tiny: bool = False) -> None:
    """Raise :class:`InputError` for a value that is not finite, or a column whose squares leave float64.

    Squares of norms, and products of such squares, must stay within float64. With ``or_tiny`` columns that are
    everywhere below SMALLEST pass beside others that are not, for whoever takes them as zero then.
    """
    check_finite(name, array)
    largest = np.zeros(array.shape[1])
    for _, part in _parts(array):
        largest = np.maximum(largest, np.maximum(part.max(axis=0), -part.min(axis=0)))
    tiny = (largest > 0) & (largest < SMALLEST)
    odd = largest > LARGEST
    if not or_tiny or (largest < SMALLEST).all():
        odd |= tiny
    if odd.any():
        column = int(np.argmax(odd))
        found = f"the largest magnitude in column {column} is {largest[column]:.3g}"
        limits = f"outside {SMALLEST:.0e} to {LARGEST:.0e}, where its square is not a float64 any more"
        raise refused(name, f"{found}, {limits}; measure it in other units")


@contextmanager
def lookups_checked() -> Iterator[None]:
    """Raise :class:`InputError` where torch finds an index, such as a token id, that is none of its table."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        text = first_line(error)
        if not any(words in text for words in _NO_SUCH_INDEX):
            raise
        raise InputError(
            f"an input holds a number that the network cannot look up ({text.rstrip('.')}); token ids and other "
            "indices lie between 0 and the rows of its table less 1"
        ) from error


#: What torch says of an index that is none.
_NO_SUCH_INDEX = ("index out of range", "out of bounds", "Class values must be")


def spelled(parse: Callable[[str], Any], joint: str = ",") -> dict[str, Any]:
    """The metadata of a dataclass field whose parts, joined by ``joint``, are typed as one word: ``"64-32-16"``.

    ``parse`` makes the value of the word, and raises :class:`InputError`.
    """
    return {"parse": parse, "joint": joint}


def named(names: Collection[str]) -> dict[str, Any]:
    """The metadata of a dataclass field that is one of some names, such as the keys of a registry, or may be one."""
    return {"known": names}


def _parts(array: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The rows of an array, some at a time, each time with the number of the first."""
    step = max(1, _PART_NUMBERS // max(1, array[:1].size))
    for first in range(0, len(array), step):
        yield first, array[first : first + step]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """A Python or NumPy real number that float64 holds; NaN, infinities and booleans are none."""
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    largest = sys.float_info.max if isinstance(value, int) else np.finfo(np.float64).max
    return real and bool(abs(value) <= largest)


def _numeral(text: str) -> bool:
    """Whether a text is a number as Python writes it."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def short(value: Any) -> str:
    """``value`` as one line of a message can show it."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a value of type {type(value).__name__}"


def one_line(settings: Any) -> str:
    """A dataclass of settings as its ``__repr__`` shows it, arrays by their shapes alone.

    It serves as ``__repr__`` itself: ``__repr__ = one_line``.
    """
    values = ((entry.name, getattr(settings, entry.name)) for entry in dataclasses.fields(settings) if entry.repr)
    return f"{type(settings).__name__}({', '.join(f'{name}={_named(value)}' for name, value in values)})"


def _named(value: Any) -> str:
    arrays = isinstance(value, np.ndarray | torch.Tensor) and value.ndim > 0
    return f"<array of shape {tuple(value.shape)}>" if arrays else repr(value)
