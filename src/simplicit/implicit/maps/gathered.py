"""Convolutions of gathered inputs, of whose results some are gathered."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simplicit.implicit.maps.base import LinearMap, Product, stored_parts
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.csr import CsrMap
from simplicit.implicit.maps.files import Arrays, Entry, Stored
from simplicit.implicit.maps.gather import GatherMap
from simplicit.implicit.maps.sparse import Csr, canonical_csr


class GatheredConvMap(LinearMap, kind="gathered convolution"):
    """The map P W R: a convolution W (``core``) of gathered inputs R x (``before``), then gathered by P (``after``).

    Every entry of W appears in one row at most for each row of P; where R uses no element twice, none are added up, and
    |P W R| = |P| |W| |R|. Its values are those of the convolution.
    """

    def __init__(self, after: GatherMap, core: ConvMap, before: GatherMap) -> None:
        self.after, self.core, self.before = after, core, before
        self.shape, self.dtype = (after.shape[0], before.shape[1]), core.dtype

    def row_counts(self) -> NDArray[np.int64]:
        if not self.before.injective:
            return super().row_counts()
        pattern = GatheredConvMap(self.after.pattern(), self.core.pattern(), self.before.pattern())
        return pattern.row_sums().astype(np.int64)

    def apply(self, x: Tensor) -> Tensor:
        return self.after.apply(self.core.apply(self.before.apply(x)))

    def apply_transpose(self, y: Tensor) -> Tensor:
        return self.before.apply_transpose(self.core.apply_transpose(self.after.apply_transpose(y)))

    def absolute(self) -> LinearMap:
        """|M|, with all entries written down where the convolution meets an element twice."""
        if not self.before.injective:
            return CsrMap(abs(self.to_csr()))
        return GatheredConvMap(self.after.absolute(), self.core.absolute(), self.before.absolute())

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> GatheredConvMap:
        return GatheredConvMap(self.after.scaled(left=left), self.core, self.before.scaled(right=right))

    def astype(self, dtype: Any) -> GatheredConvMap:
        return GatheredConvMap(self.after.astype(dtype), self.core.astype(dtype), self.before.astype(dtype))

    def to_csr(self) -> Csr:
        return canonical_csr(self.after.to_csr() @ self.core.to_csr() @ self.before.to_csr())

    @property
    def values(self) -> Tensor:
        return self.core.values

    def with_values(self, values: Tensor) -> GatheredConvMap:
        core = self.core.with_values(values)
        return GatheredConvMap(self.after.astype(core.dtype), core, self.before.astype(core.dtype))

    def product(self, values: Tensor | None = None) -> Product:
        core = self.core.product(values)
        return lambda x: self.after.apply(core(self.before.apply(x)))

    def gradient(self, Y_bar: Tensor, X: Tensor) -> Tensor:
        return self.core.gradient(self.after.apply_transpose(Y_bar), self.before.apply(X))

    def to_stored(self) -> tuple[Entry, Arrays]:
        entries, arrays = stored_parts({"after": self.after, "core": self.core, "before": self.before})
        return {"kind": "gathered convolution", **entries}, arrays

    @classmethod
    def from_stored(cls, stored: Stored) -> GatheredConvMap:
        (rows, columns), entry = stored.shape, stored.entry
        inner = math.prod(stored.part("core", entry["core"], (0, 0)).counts("input_shape"))
        before = GatherMap.from_stored(stored.part("before", entry["before"], (inner, columns)))
        # How many results the convolution has follows from its geometry.
        core = ConvMap.from_stored(stored.part("core", entry["core"], (0, inner)))
        after = GatherMap.from_stored(stored.part("after", entry["after"], (rows, core.shape[0])))
        return cls(after, core, before)
