r"""Maps on disk: what of a map stands in ``config.json``, and what among the arrays.

A map in compressed sparse rows has the arrays ``values``, ``indices`` and ``indptr``, with indices in the narrowest
unsigned integers that hold them. A convolution has those of its weight as a matrix (O, I / groups · taps), and its
geometry in the config; a repeated matrix likewise. A gather has ``columns``, one more than it picks, so that 0 stands
for none. Composite maps have those of their parts, under names of their own. Factors are arrays ``factors``, ``left``
and ``right``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from simplicit.errors import DataError, InputError
from simplicit.implicit.maps.sparse import Csr

Arrays = dict[str, NDArray[Any]]
Entry = dict[str, Any]


def csr_arrays(csr: Csr) -> Arrays:
    """The arrays of a canonical matrix."""
    return {
        "values": csr.data,
        "indices": csr.indices.astype(np.min_scalar_type(csr.shape[1] - 1)),
        "indptr": csr.indptr.astype(np.min_scalar_type(csr.nnz)),
    }


@dataclass(frozen=True)
class Stored:
    """What files hold of one map, or of a whole model, each array checked when it is taken.

    ``entry`` is what the file ``described_in`` says of it; it must have ``shape`` (out, in) and entries of ``dtype``.
    ``arrays`` are all that are in ``file``; the names of its own begin with ``name``.
    """

    entry: Mapping[str, Any]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    arrays: Arrays
    file: Path
    described_in: str
    name: str = ""
    _taken: set[str] = field(default_factory=set)

    def part(self, name: str, entry: Mapping[str, Any], shape: tuple[int, int]) -> Stored:
        """What is held of a map that this one is made of."""
        return replace(self, entry=entry, shape=shape, name=self._full(name))

    def _full(self, name: str) -> str:
        return f"{self.name}.{name}" if self.name else name

    def _take(self, name: str) -> NDArray[Any]:
        full = self._full(name)
        if full not in self.arrays:
            raise DataError(f"{self.file} lacks the array {full!r}")
        self._taken.add(full)
        return self.arrays[full]

    def _refused(self, name: str, defect: str) -> DataError:
        return DataError(f"{self.file}: array {self._full(name)!r} {defect}")

    def check_all_taken(self) -> None:
        """Refuse arrays that nobody took."""
        if surplus := sorted(set(self.arrays) - self._taken):
            raise DataError(f"{self.file} holds the array {surplus[0]!r}, which {self.described_in} does not know")

    def floats(self, name: str, length: int | None = None, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """A finite vector, of the map's dtype if None is given; DataError if it is anything else."""
        array, dtype = self._take(name), dtype or self.dtype
        if array.dtype != dtype:
            raise self._refused(name, f"has dtype {array.dtype}, {self.described_in} says {dtype}")
        if array.ndim != 1 or (length is not None and array.size != length):
            raise self._refused(name, f"has shape {array.shape}, expected ({'nnz' if length is None else length},)")
        if not np.isfinite(array).all():
            raise self._refused(name, "holds NaN or infinite values")
        return array

    def integers(self, name: str, length: int) -> NDArray[np.int64]:
        """A vector of unsigned integers as int64; DataError if it is anything else."""
        array = self._take(name)
        if array.dtype.kind != "u":
            raise self._refused(name, f"has dtype {array.dtype}, expected unsigned integers")
        if array.shape != (length,):
            raise self._refused(name, f"has shape {array.shape}, expected ({length},)")
        return array.astype(np.int64)

    def csr(self, shape: tuple[int, int]) -> Csr:
        """The matrix of consistent compressed sparse rows; DataError if they are not."""
        values = self.floats("values")
        indices = self.integers("indices", values.size)
        indptr = self.integers("indptr", shape[0] + 1)
        if indptr[0] != 0 or indptr[-1] != values.size or (np.diff(indptr) < 0).any():
            raise self._refused("indptr", f"does not rise from 0 to {values.size}")
        if ((indices < 0) | (indices >= shape[1])).any():
            raise self._refused("indices", f"goes to {indices.max()}, but there are {shape[1]} columns")
        falls = np.diff(indices) <= 0
        falls[indptr[1:-1][(indptr[1:-1] > 0) & (indptr[1:-1] < values.size)] - 1] = False
        if falls.any():
            raise self._refused("indices", "does not rise within a row")
        return sp.csr_array((values, indices, indptr), shape=shape)

    def of_group(self, number: int) -> Arrays:
        """The arrays of a group's block, of any dtype, by their names within the group; no NaN among them."""
        prefix, found = f"group.{number}.", Arrays()
        for name in [name for name in self.arrays if name.startswith(prefix)]:
            found[name.removeprefix(prefix)] = array = self._take(name)
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise self._refused(name, "holds NaN")
        return found

    def count(self, key: str) -> int:
        """An integer >= 0 from the entry; InputError if it is anything else."""
        number = self.entry[key]
        if type(number) is not int or number < 0:
            raise InputError(f"{self.name}: {key} must be an integer, got {number!r:.80}")
        return number

    def counts(self, key: str) -> tuple[int, ...]:
        """A list of integers >= 0 from the entry; InputError if it is anything else."""
        numbers = self.entry[key]
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            raise InputError(f"{self.name}: {key} must be a list of integers, got {numbers!r:.80}")
        return tuple(numbers)
