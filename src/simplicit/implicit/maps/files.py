r"""Blocks on disk: what of a map stands in ``config.json``, and what among the arrays.

A map in compressed sparse rows has the arrays ``values``, ``indices`` and ``indptr``, with indices in the narrowest
unsigned integers that hold them. A convolution has those of its weight as a matrix (O, I / groups · taps), and its
geometry in the config; a gather has ``columns``, one more than it picks, so that 0 stands for none. Composite maps have
those of their parts, under names of their own. Factors are arrays ``factors``, ``left`` and ``right``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from simplicit.errors import DataError, InputError
from simplicit.implicit.maps.base import Csr, CsrMap, LinearMap
from simplicit.implicit.maps.composite import GatheredConvMap, SumMap
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.gather import GatherMap

__all__ = ["Arrays", "CheckedArrays", "describe", "is_plain", "restore"]

Arrays = dict[str, NDArray[Any]]
Entry = Mapping[str, Any]

#: Numbers in one kernel: 16 GB in float64.
LARGEST_WEIGHT = 2**31

_GEOMETRY = ("stride", "padding", "dilation")


def is_plain(block: LinearMap) -> bool:
    """Whether a block is stored as compressed sparse rows, with nothing about it in the config."""
    return not isinstance(block, ConvMap | GatherMap | GatheredConvMap | SumMap)


def describe(block: LinearMap, prefix: str, arrays: Arrays) -> dict[str, Any]:
    """The entry of a block in the config; its arrays go to ``arrays``, under names that begin with ``prefix``."""
    if isinstance(block, ConvMap):
        return _describe_convolution(block, prefix, arrays)
    if isinstance(block, GatherMap):
        arrays[f"{prefix}.columns"] = (block.columns + 1).astype(np.min_scalar_type(block.width))
        if block.factors is not None:
            arrays[f"{prefix}.factors"] = block.factors
        return {"kind": "gather", "factors": block.factors is not None}
    if isinstance(block, GatheredConvMap):
        parts: dict[str, LinearMap] = {"after": block.after, "core": block.core, "before": block.before}
        described = {name: describe(part, f"{prefix}.{name}", arrays) for name, part in parts.items()}
        return {"kind": "gathered convolution", **described}
    if isinstance(block, SumMap):
        return {
            "kind": "sum",
            "parts": [describe(part, f"{prefix}.{number}", arrays) for number, part in enumerate(block.parts)],
        }
    _put_csr(block.to_csr(), prefix, arrays)
    return {"kind": "csr"}


def _describe_convolution(block: ConvMap, prefix: str, arrays: Arrays) -> dict[str, Any]:
    _put_csr(sp.csr_array(block.weight.reshape(block.weight.shape[0], -1)), prefix, arrays)
    sides = [side for side in ("left", "right") if getattr(block, side) is not None]
    for side in sides:
        arrays[f"{prefix}.{side}"] = getattr(block, side)
    return {
        "kind": "convolution",
        "weight_shape": list(block.weight.shape),
        "input_shape": list(block.input_shape),
        "groups": block.groups,
        "factors": sides,
        **{name: list(getattr(block, name)) for name in _GEOMETRY},
    }


def _put_csr(csr: Csr, prefix: str, arrays: Arrays) -> None:
    csr.sort_indices()
    arrays[f"{prefix}.values"] = csr.data
    arrays[f"{prefix}.indices"] = csr.indices.astype(np.min_scalar_type(csr.shape[1] - 1))
    arrays[f"{prefix}.indptr"] = csr.indptr.astype(np.min_scalar_type(csr.nnz))


def restore(
    entry: Entry, prefix: str, shape: tuple[int, int], dtype: np.dtype[Any], arrays: CheckedArrays
) -> LinearMap:
    """The block that an entry and its arrays describe.

    Raises
    ------
    InputError, DataError
        They describe none, or one of another shape than (out, in) = ``shape``.
    KeyError, TypeError, ValueError
        Something in the entry is missing or of another kind.
    """
    if entry["kind"] not in _KINDS:
        raise InputError(f"{prefix}: the kind {entry['kind']!r} is not one of {', '.join(_KINDS)}")
    block = _KINDS[entry["kind"]](entry, prefix, shape, dtype, arrays)
    if block.shape != shape:
        raise InputError(f"{prefix} has shape {block.shape}, expected {shape}")
    return block


def _restore_csr(
    entry: Entry, prefix: str, shape: tuple[int, int], dtype: np.dtype[Any], arrays: CheckedArrays
) -> CsrMap:
    return CsrMap(arrays.csr(prefix, shape, dtype))


def _restore_gather(
    entry: Entry, prefix: str, shape: tuple[int, int], dtype: np.dtype[Any], arrays: CheckedArrays
) -> GatherMap:
    columns = arrays.integers(f"{prefix}.columns", shape[0]) - 1
    factors = arrays.floats(f"{prefix}.factors", dtype, shape[0]) if entry["factors"] else None
    return GatherMap(columns, shape[1], factors, dtype)


def _restore_convolution(
    entry: Entry, prefix: str, shape: tuple[int, int], dtype: np.dtype[Any], arrays: CheckedArrays
) -> ConvMap:
    weight_shape, input_shape = _counts(entry["weight_shape"]), _counts(entry["input_shape"])
    if len(weight_shape) < 3 or math.prod(weight_shape) > LARGEST_WEIGHT or math.prod(input_shape) != shape[1]:
        raise InputError(f"{prefix}: weight {weight_shape} and input {input_shape} do not fit {shape[1]} columns")
    matrix = arrays.csr(prefix, (weight_shape[0], math.prod(weight_shape[1:])), dtype)
    stride, padding, dilation = (_counts(entry[name]) for name in _GEOMETRY)
    plain = ConvMap(
        matrix.toarray().reshape(weight_shape),
        input_shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=int(entry["groups"]),
    )
    sizes, wide = dict(zip(("left", "right"), plain.shape, strict=True)), np.dtype(np.float64)
    factors = {side: arrays.floats(f"{prefix}.{side}", wide, sizes[side]) for side in entry["factors"]}
    return plain.with_(plain.weight, **factors) if factors else plain


def _restore_gathered(
    entry: Entry, prefix: str, shape: tuple[int, int], dtype: np.dtype[Any], arrays: CheckedArrays
) -> GatheredConvMap:
    inner = math.prod(_counts(entry["core"]["input_shape"]))
    before = _restore_gather(entry["before"], f"{prefix}.before", (inner, shape[1]), dtype, arrays)
    # How many results the convolution has follows from its geometry.
    core = _restore_convolution(entry["core"], f"{prefix}.core", (0, inner), dtype, arrays)
    after = _restore_gather(entry["after"], f"{prefix}.after", (shape[0], core.shape[0]), dtype, arrays)
    return GatheredConvMap(after, core, before)


def _restore_sum(
    entry: Entry, prefix: str, shape: tuple[int, int], dtype: np.dtype[Any], arrays: CheckedArrays
) -> SumMap:
    parts = [restore(part, f"{prefix}.{number}", shape, dtype, arrays) for number, part in enumerate(entry["parts"])]
    if not parts:
        raise InputError(f"{prefix} is a sum of no parts")
    return SumMap(parts)


_KINDS: Mapping[str, Callable[..., LinearMap]] = {
    "csr": _restore_csr,
    "gather": _restore_gather,
    "convolution": _restore_convolution,
    "gathered convolution": _restore_gathered,
    "sum": _restore_sum,
}


def _counts(numbers: Any) -> tuple[int, ...]:
    """A list of integers that are not negative."""
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        raise InputError(f"expected a list of integers, got {numbers!r:.80}")
    return tuple(numbers)


class CheckedArrays:
    """The arrays of a file, each checked when it is taken; ``described_in`` is the file that says what they are."""

    def __init__(self, arrays: Arrays, file: Path, described_in: str) -> None:
        self._arrays, self._file, self._described_in = arrays, file, described_in
        self._used: set[str] = set()

    def _take(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            raise DataError(f"{self._file} lacks the array {name!r}")
        self._used.add(name)
        return self._arrays[name]

    def _refuse(self, name: str, defect: str) -> DataError:
        return DataError(f"{self._file}: array {name!r} {defect}")

    def check_all_used(self) -> None:
        """Refuse arrays that nobody took."""
        surplus = sorted(set(self._arrays) - self._used)
        if surplus:
            raise DataError(f"{self._file} holds the array {surplus[0]!r}, which {self._described_in} does not know")

    def floats(self, name: str, dtype: np.dtype[Any], length: int | None = None) -> NDArray[Any]:
        """A finite vector of ``dtype``."""
        array = self._take(name)
        if array.dtype != dtype:
            raise self._refuse(name, f"has dtype {array.dtype}, {self._described_in} says {dtype}")
        if array.ndim != 1 or (length is not None and array.size != length):
            raise self._refuse(name, f"has shape {array.shape}, expected ({'nnz' if length is None else length},)")
        if not np.isfinite(array).all():
            raise self._refuse(name, "holds NaN or infinite values")
        return array

    def integers(self, name: str, length: int) -> NDArray[np.int64]:
        """A vector of unsigned integers."""
        array = self._take(name)
        if array.dtype.kind != "u":
            raise self._refuse(name, f"has dtype {array.dtype}, expected unsigned integers")
        if array.shape != (length,):
            raise self._refuse(name, f"has shape {array.shape}, expected ({length},)")
        return array.astype(np.int64)

    def csr(self, prefix: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> Csr:
        """Consistent compressed sparse rows."""
        values = self.floats(f"{prefix}.values", dtype)
        indices = self.integers(f"{prefix}.indices", values.size)
        indptr = self.integers(f"{prefix}.indptr", shape[0] + 1)
        if indptr[0] != 0 or indptr[-1] != values.size or (np.diff(indptr) < 0).any():
            raise self._refuse(f"{prefix}.indptr", f"does not rise from 0 to {values.size}")
        if ((indices < 0) | (indices >= shape[1])).any():
            raise self._refuse(f"{prefix}.indices", f"goes to {indices.max()}, but there are {shape[1]} columns")
        falls = np.diff(indices) <= 0
        falls[indptr[1:-1][(indptr[1:-1] > 0) & (indptr[1:-1] < values.size)] - 1] = False
        if falls.any():
            raise self._refuse(f"{prefix}.indices", "does not rise within a row")
        return sp.csr_array((values, indices, indptr), shape=shape)
