r"""A weight repeated over positions, as a linear layer does that treats every token alike.

The map takes x (r, I, s) to y (r, O, s), both flattened in C order,

    y[t, o, k] = l[t, o, k] · Σ over c   W[o, c] · r[t, c, k] x[t, c, k],

which is the Kronecker product I_r ⊗ W ⊗ I_s between two diagonals. W is kept once, densely; with r = s = 1 it is a
matrix that few zeros are left out of.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simplicit.errors import InputError
from simplicit.implicit.maps.base import as_factors
from simplicit.implicit.maps.files import Arrays, Entry, Stored
from simplicit.implicit.maps.sparse import Csr
from simplicit.implicit.maps.weighted import LARGEST_WEIGHT, WeightedMap


class RepeatedMap(WeightedMap, kind="repeated"):
    """The map I_r ⊗ W ⊗ I_s, for r = ``repeats`` and s = ``inner``.

    Parameters
    ----------
    weight : array, shape (O, I)
        W.
    repeats, inner : int
        r and s, at least 1.
    left, right : array, shapes (r O s,) and (r I s,), optional
        l and r, flattened; ones if None.
    copy : bool
        As of every :class:`~simplicit.implicit.maps.weighted.WeightedMap`, and so are errors.
    """

    _what = "a repeated matrix"

    def __init__(
        self,
        weight: ArrayLike,
        repeats: int = 1,
        inner: int = 1,
        *,
        left: NDArray[Any] | None = None,
        right: NDArray[Any] | None = None,
        copy: bool = True,
    ) -> None:
        self._take_weight(weight, copy=copy)
        self.repeats, self.inner = int(repeats), int(inner)
        if self.weight.ndim != 2:
            defect = f"must be a matrix with two dimensions, got shape {self.weight.shape}"
            raise InputError(f"weight {defect}", argument="weight")
        if min(self.repeats, self.inner) < 1:
            raise InputError(f"a matrix is repeated at least once, got repeats={repeats} and inner={inner}")
        rows, columns = self.weight.shape
        self.shape = self.repeats * rows * self.inner, self.repeats * columns * self.inner
        self._take_factors(left, right)

    def __repr__(self) -> str:
        return (
            f"RepeatedMap(shape={self.shape}, weight={self.weight.shape}, repeats={self.repeats}, inner={self.inner}, "
            f"dtype={self.dtype})"
        )

    def _folded(self, factors: NDArray[Any], side: str) -> NDArray[np.float64] | None:
        length = self.weight.shape[side == "right"]
        given = as_factors(factors, self.shape[side == "right"], side)
        places = given.reshape(self.repeats, length, self.inner)
        if (places != places[:1, :, :1]).any():
            return given
        one = places[0, :, 0]
        self._scale_weight_(one[:, None] if side == "left" else one)
        return None

    def with_weight(self, weight: NDArray[Any], **changes: Any) -> RepeatedMap:
        kept = {name: getattr(self, name) for name in ("repeats", "inner", "left", "right")}
        return RepeatedMap(weight, **(kept | changes), copy=False)

    @property
    def work(self) -> int:
        return self.weight.size * self.repeats * self.inner

    def row_counts(self) -> NDArray[np.int64]:
        if not self.plain:
            return super().row_counts()
        return np.tile(np.repeat(np.count_nonzero(self.weight, axis=1), self.inner), self.repeats)

    def _multiplied(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._by(x, weight)

    def _multiplied_back(self, y: Tensor, weight: Tensor) -> Tensor:
        return self._by(y, weight.T)

    def _by(self, x: Tensor, weight: Tensor) -> Tensor:
        """The product of every place with the same matrix."""
        m, width = x.shape[0], weight.shape[1]
        if self.inner == 1:
            return (x.reshape(m * self.repeats, width) @ weight.T).reshape(m, -1)
        return (weight @ x.reshape(m * self.repeats, width, self.inner)).reshape(m, -1)

    def to_csr(self) -> Csr:
        core = sp.csr_array(self.weight)
        if self.inner > 1:
            core = sp.kron(core, sp.eye_array(self.inner, dtype=self.dtype), format="csr")
        if self.repeats > 1:
            core = sp.kron(sp.eye_array(self.repeats, dtype=self.dtype), core, format="csr")
        core.sort_indices()
        return self._times_factors(sp.csr_array(core))

    def to_stored(self) -> tuple[Entry, Arrays]:
        return self._stored_as("repeated", repeats=self.repeats, inner=self.inner)

    @classmethod
    def from_stored(cls, stored: Stored) -> RepeatedMap:
        shape, columns = stored.counts("weight_shape"), stored.shape[1]
        repeats, inner = (stored.count(name) for name in ("repeats", "inner"))
        if len(shape) != 2 or math.prod(shape) > LARGEST_WEIGHT or shape[1] * repeats * inner != columns:
            defect = f"a matrix {shape} repeated {repeats} x {inner} times does not fit {columns} columns"
            raise InputError(f"{stored.name}: {defect}")
        plain = cls(stored.csr((shape[0], shape[1])).toarray(), repeats, inner, copy=False)
        return plain._with_stored_factors(stored)
