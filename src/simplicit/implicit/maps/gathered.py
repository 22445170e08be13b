"""Maps with a shared weight of gathered inputs, of whose results some are gathered."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit.maps.base import KINDS, LinearMap, Product, stored_parts
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.csr import CsrMap
from simplicit.implicit.maps.files import Arrays, Entry, Stored
from simplicit.implicit.maps.gather import GatherMap
from simplicit.implicit.maps.sparse import Csr, canonical_csr
from simplicit.implicit.maps.transposed import TransposedMap
from simplicit.implicit.maps.weighted import WeightedMap


class GatheredMap(LinearMap, kind="gathered"):
    """The map P W R: gathered results of a convolution or a repeated weight W of gathered inputs R x.

    P is ``after``, W the ``core``, R ``before``. Every entry of W appears in one row at most for each row of P; where
    R uses no element twice, none are added up, and |P W R| = |P| |W| |R|. Its values are those of the core.
    """

    def __init__(self, after: GatherMap, core: WeightedMap, before: GatherMap) -> None:
        self.after, self.core, self.before = after, core, before
        self.shape, self.dtype = (after.shape[0], before.shape[1]), core.dtype

    @property
    def work(self) -> int:
        return self.core.work

    @property
    def stored(self) -> int:
        return self.after.stored + self.core.stored + self.before.stored

    @property
    def is_zero(self) -> bool:
        if self.core.is_zero:
            return True
        # Where R uses elements twice, entries are counted by writing them all down, gigabytes for a small weight with
        # many places. One product that is not zero says enough.
        some = torch.rand(1, self.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        if bool(self.apply(some.to(self.core.values.dtype)).any()):
            return False
        return self.nnz == 0

    def row_counts(self) -> NDArray[np.int64]:
        if not self.before.injective:
            return super().row_counts()
        pattern = GatheredMap(self.after.pattern(), self.core.pattern(), self.before.pattern())
        return pattern.row_sums().astype(np.int64)

    def apply(self, x: Tensor) -> Tensor:
        return self.after.apply(self.core_of(x)) if not self.after.is_identity else self.core_of(x)

    def core_of(self, x: Tensor) -> Tensor:
        """W R x, as a new tensor."""
        return self.core.apply(x if self.before.is_identity else self.before.apply(x))

    def add_to_(self, sums: Tensor, x: Tensor) -> None:
        self.after.add_to_(sums, self.core_of(x))

    def write_(self, sums: Tensor, x: Tensor, bias: Tensor) -> None:
        """Write X Mᵀ + bias as :meth:`GatherMap.write_` does."""
        self.after.write_(sums, self.core_of(x), bias)

    def apply_transpose(self, y: Tensor) -> Tensor:
        return self.before.apply_transpose(self.core.apply_transpose(self.after.apply_transpose(y)))

    def absolute(self) -> LinearMap:
        """|M|, with all entries written down where the core meets an element twice."""
        if not self.before.injective:
            return CsrMap(abs(self.to_csr()))
        return GatheredMap(self.after.absolute(), self.core.absolute(), self.before.absolute())

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> GatheredMap:
        return GatheredMap(self.after.scaled(left=left), self.core, self.before.scaled(right=right))

    def astype(self, dtype: Any) -> GatheredMap:
        return GatheredMap(self.after.astype(dtype), self.core.astype(dtype), self.before.astype(dtype))

    def to_csr(self) -> Csr:
        return canonical_csr(self.after.to_csr() @ self.core.to_csr() @ self.before.to_csr())

    @property
    def values(self) -> Tensor:
        return self.core.values

    def with_values(self, values: Tensor) -> GatheredMap:
        core = self.core.with_values(values)
        return GatheredMap(self.after.astype(core.dtype), core, self.before.astype(core.dtype))

    def product(self, values: Tensor | None = None) -> Product:
        core = self.core.product(values)
        return lambda x: self.after.apply(core(self.before.apply(x)))

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        return self.core.gradient(self.after.apply_transpose(Y_bar), self.before.apply(X))

    def to_stored(self) -> tuple[Entry, Arrays]:
        entries, arrays = stored_parts({"after": self.after, "core": self.core, "before": self.before})
        kind = _OF_CONVOLUTIONS if isinstance(self.core, ConvMap) else "gathered"
        return {"kind": kind, **entries}, arrays

    @classmethod
    def from_stored(cls, stored: Stored) -> GatheredMap:
        (rows, columns), entry = stored.shape, stored.entry
        inner = _width(stored.part("core", entry["core"], (0, 0)))
        before = GatherMap.from_stored(stored.part("before", entry["before"], (inner, columns)))
        # How many results the core has follows from its geometry.
        core = KINDS[entry["core"]["kind"]].from_stored(stored.part("core", entry["core"], (0, inner)))
        if not isinstance(core, WeightedMap):
            raise InputError(f"{stored.name}: its core is neither a convolution nor a repeated matrix")
        after = GatherMap.from_stored(stored.part("after", entry["after"], (rows, core.shape[0])))
        return cls(after, core, before)


#: What files call it where the core is a convolution.
_OF_CONVOLUTIONS = "gathered convolution"
KINDS[_OF_CONVOLUTIONS] = GatheredMap


def _width(core: Stored) -> int:
    """How many numbers a core takes."""
    if core.entry["kind"] == "convolution":
        return math.prod(core.counts("input_shape"))
    if core.entry["kind"] == "transposed":
        return TransposedMap.from_stored(core).shape[1]
    return core.counts("weight_shape")[-1] * core.count("repeats") * core.count("inner")
