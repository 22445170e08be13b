"""Sums of maps that have no short form as one map."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, reduce
from operator import add
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit.maps.base import LinearMap, Product, restored, stored_parts
from simplicit.implicit.maps.csr import CsrMap
from simplicit.implicit.maps.files import Arrays, Entry, Stored
from simplicit.implicit.maps.sparse import Csr, canonical_csr


class SumMap(LinearMap, kind="sum"):
    """A sum of one map or more, of one shape and with any entries; its values are those of its parts in turn."""

    def __init__(self, parts: Sequence[LinearMap]) -> None:
        self._parts = tuple(parts)
        self.shape, self.dtype = parts[0].shape, parts[0].dtype

    def __repr__(self) -> str:
        return f"SumMap(shape={self.shape}, parts={self.parts})"

    @property
    def parts(self) -> tuple[LinearMap, ...]:
        return self._parts

    def apply(self, x: Tensor) -> Tensor:
        return reduce(add, (part.apply(x) for part in self.parts))

    def apply_transpose(self, y: Tensor) -> Tensor:
        return reduce(add, (part.apply_transpose(y) for part in self.parts))

    def add_to_(self, sums: Tensor, x: Tensor) -> None:
        for part in self.parts:
            part.add_to_(sums, x)

    @property
    def work(self) -> int:
        return sum(part.work for part in self.parts)

    @property
    def stored(self) -> int:
        return sum(part.stored for part in self.parts)

    @cached_property
    def _apart(self) -> bool:
        """Whether no row has entries in two parts, so that none are added up."""
        filled = np.sum([part.row_counts() > 0 for part in self.parts], axis=0)
        return bool((filled <= 1).all())

    def row_counts(self) -> NDArray[np.int64]:
        if not self._apart:
            return super().row_counts()
        counts: NDArray[np.int64] = np.sum([part.row_counts() for part in self.parts], axis=0, dtype=np.int64)
        return counts

    def absolute(self) -> LinearMap:
        """|M|, with all entries written down where some may have been added up."""
        if self._apart:
            return SumMap([part.absolute() for part in self.parts])
        return CsrMap(abs(self.to_csr()))

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> SumMap:
        return SumMap([part.scaled(left, right) for part in self.parts])

    def astype(self, dtype: Any) -> SumMap:
        return SumMap([part.astype(dtype) for part in self.parts])

    def to_csr(self) -> Csr:
        return canonical_csr(reduce(add, (part.to_csr() for part in self.parts)))

    @property
    def values(self) -> Tensor | None:
        known = [values for part in self.parts if (values := part.values) is not None]
        return torch.cat(known) if len(known) == len(self.parts) else None

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        """The values of each part."""
        return torch.split(values, [0 if part.values is None else len(part.values) for part in self.parts])

    def with_values(self, values: Tensor) -> SumMap:
        parts = [part.with_values(own) for part, own in zip(self.parts, self._split(values), strict=True)]
        return SumMap(parts).astype(values.detach().numpy().dtype)

    def product(self, values: Tensor | None = None) -> Product:
        given = [None] * len(self.parts) if values is None else self._split(values)
        products = [part.product(own) for part, own in zip(self.parts, given, strict=True)]
        return lambda x: reduce(add, (product(x) for product in products))

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        return torch.cat([part.gradient(Y_bar, X) for part in self.parts])

    def to_stored(self) -> tuple[Entry, Arrays]:
        entries, arrays = stored_parts({str(number): part for number, part in enumerate(self.parts)})
        return {"kind": "sum", "parts": [*entries.values()]}, arrays

    @classmethod
    def from_stored(cls, stored: Stored) -> SumMap:
        entries = enumerate(stored.entry["parts"])
        parts = [restored(stored.part(str(number), entry, stored.shape)) for number, entry in entries]
        if not parts:
            raise InputError(f"{stored.name} is a sum of no parts")
        return cls(parts)
