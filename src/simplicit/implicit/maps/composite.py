r"""Maps made of other maps, applied one after the other or side by side, where no single map is worth writing down."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simplicit.implicit.maps.base import Csr, CsrMap, LinearMap, canonical_csr, row_counts_of
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.gather import GatherMap

__all__ = ["GatheredConvMap", "SumMap"]


class GatheredConvMap:
    """P W R: a convolution W of gathered inputs R x, of whose results P gathers some.

    Every entry of W appears in one row at most for each row of P; where R uses no element twice, none are added up, and
    |P W R| = |P| |W| |R|.

    Parameters
    ----------
    after : GatherMap
        P.
    core : ConvMap
        W.
    before : GatherMap
        R.
    """

    def __init__(self, after: GatherMap, core: ConvMap, before: GatherMap) -> None:
        self.after, self.core, self.before = after, core, before

    def __repr__(self) -> str:
        return f"GatheredConvMap(shape={self.shape}, core={self.core})"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.after.shape[0], self.before.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.core.dtype

    @cached_property
    def nnz(self) -> int:
        """How many entries differ from zero."""
        return int(self.row_counts().sum())

    def row_counts(self) -> NDArray[np.int64]:
        """How many entries of each row differ from zero, (out,)."""
        if not self.before.injective:
            return row_counts_of(self.to_csr())
        ones = torch.ones(1, self.shape[1], dtype=torch.float64)
        pattern = GatheredConvMap(self.after.pattern(), self.core.pattern(), self.before.pattern())
        return pattern.apply(ones)[0].to(torch.int64).numpy()

    def apply(self, x: Tensor) -> Tensor:
        """X Mᵀ: (m, in) to (m, out)."""
        return self.after.apply(self.core.apply(self.before.apply(x)))

    def apply_transpose(self, y: Tensor) -> Tensor:
        """Y M: (m, out) to (m, in)."""
        return self.before.apply_transpose(self.core.apply_transpose(self.after.apply_transpose(y)))

    def absolute(self) -> LinearMap:
        """|M|; all entries are written down where the convolution meets an element twice."""
        if not self.before.injective:
            return CsrMap(abs(self.to_csr()))
        return GatheredConvMap(self.after.absolute(), self.core.absolute(), self.before.absolute())

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> GatheredConvMap:
        """diag(left) M diag(right), in the dtype of M."""
        return GatheredConvMap(self.after.scaled(left=left), self.core, self.before.scaled(right=right))

    def astype(self, dtype: Any) -> GatheredConvMap:
        """The same map with entries of ``dtype``."""
        return GatheredConvMap(self.after.astype(dtype), self.core.astype(dtype), self.before.astype(dtype))

    def to_csr(self) -> Csr:
        """All entries, canonical."""
        return canonical_csr(self.after.to_csr() @ self.core.to_csr() @ self.before.to_csr())


class SumMap:
    """Σ of maps of one shape, which may have entries in common places.

    Parameters
    ----------
    parts : sequence of LinearMap, at least one
    """

    def __init__(self, parts: Sequence[LinearMap]) -> None:
        self.parts = tuple(parts)

    def __repr__(self) -> str:
        return f"SumMap(shape={self.shape}, parts={self.parts})"

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.parts[0].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64."""
        return self.parts[0].dtype

    @cached_property
    def nnz(self) -> int:
        """How many entries differ from zero; they are all written down to be counted."""
        return int(self.row_counts().sum())

    def row_counts(self) -> NDArray[np.int64]:
        """How many entries of each row differ from zero, (out,)."""
        return row_counts_of(self.to_csr())

    def apply(self, x: Tensor) -> Tensor:
        """X Mᵀ: (m, in) to (m, out)."""
        total = self.parts[0].apply(x)
        for part in self.parts[1:]:
            total = total + part.apply(x)
        return total

    def apply_transpose(self, y: Tensor) -> Tensor:
        """Y M: (m, out) to (m, in)."""
        total = self.parts[0].apply_transpose(y)
        for part in self.parts[1:]:
            total = total + part.apply_transpose(y)
        return total

    def absolute(self) -> CsrMap:
        """|M|, with all entries written down, for they may have been added up."""
        return CsrMap(abs(self.to_csr()))

    def scaled(self, left: NDArray[Any] | None = None, right: NDArray[Any] | None = None) -> SumMap:
        """diag(left) M diag(right), in the dtype of M."""
        return SumMap([part.scaled(left, right) for part in self.parts])

    def astype(self, dtype: Any) -> SumMap:
        """The same map with entries of ``dtype``."""
        return SumMap([part.astype(dtype) for part in self.parts])

    def to_csr(self) -> Csr:
        """All entries, canonical."""
        total = self.parts[0].to_csr()
        for part in self.parts[1:]:
            total = total + part.to_csr()
        return canonical_csr(total)
