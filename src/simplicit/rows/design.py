r"""Φ in the units of the solver, and what is computed from it once for all rows.

Every column is divided by the power of two nearest to its norm, so that all columns count alike and nothing is rounded.
The Gram matrix G = ΦᵀΦ is formed where it fits: not for d ≫ m, where the polish forms the blocks of it that it needs.
ADMM takes its resolvent ρ(G + ρI)⁻¹, which with few samples is cheaper as I − PᵀP, where P = L⁻¹Φ and LLᵀ = ΦΦᵀ + ρI:
P has no more rows than there are samples, and no singular value beyond 1, so that float32 is enough for it.
Where Φ is never whole in memory, G and Φᵀz are all there is (:class:`simplicit.Gram`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Design", "Resolvent", "by_samples", "forms_gram", "power_of_two"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: With more columns than this, and than so many times the samples, G is not formed as a whole.
MOST_COLUMNS, COLUMNS_PER_SAMPLE = 4096, 4
#: For how many values of ρ resolvents are kept: by a d × d matrix, and by samples, which take half of that or less.
KEPT, KEPT_BY_SAMPLES = 4, 6


def power_of_two(size: Array) -> Array:
    """The power of two nearest to each entry in the logarithm; 1 for zero."""
    return np.exp2(np.round(np.log2(np.where(size > 0, size, 1.0))))


def forms_gram(n_samples: int | None, n_columns: int) -> bool:
    """Whether G is formed as a whole for so many samples (None: only G is known) and columns."""
    return n_samples is None or n_columns <= max(MOST_COLUMNS, COLUMNS_PER_SAMPLE * n_samples)


def by_samples(n_samples: int | None, n_columns: int) -> bool:
    """Whether ρ(G + ρI)⁻¹ is applied by samples: that takes no more products than a d × d matrix."""
    return n_samples is not None and 2 * n_samples <= n_columns


@dataclass(frozen=True, eq=False)
class Resolvent:
    """The resolvent of G, y ↦ ρ(G + ρI)⁻¹y, for many y at once.

    Attributes
    ----------
    matrix : (k, k) or (m, k) tensor
        ρ(G + ρI)⁻¹ itself, or P.
    by_samples : bool
        Whether it is P.
    """

    matrix: Tensor
    by_samples: bool

    def apply(self, rows: Tensor, out: Tensor) -> Tensor:
        """Of the rows of a tensor (r, k), written to another one."""
        if not self.by_samples:
            return torch.mm(rows, self.matrix, out=out)
        return torch.addmm(rows, rows @ self.matrix.T, self.matrix, alpha=-1, out=out)


@dataclass(eq=False)
class Design:
    """Φ on k columns in play.

    Parameters
    ----------
    transposed : (k, m) float64 tensor or None
        Φᵀ, its columns in their units; None where only G is known.
    units : (k,) array
        Powers of two: a coefficient of the problem as it was given is ``units`` times one of this design.
    given_gram : (k, k) float64 tensor, optional
        G, where it is known beforehand.
    """

    transposed: Tensor | None
    units: Array
    given_gram: Tensor | None = field(default=None, repr=False)
    _resolvents: dict[tuple[float, torch.dtype], Resolvent] = field(default_factory=dict, repr=False)
    _pilot: Resolvent | Tensor | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def of_features(
        cls,
        features: npt.NDArray[np.floating[Any]],
        columns: Index,
        mean: Array | None,
        device: str = "cpu",
        out: Array | None = None,
    ) -> Design:
        """From some columns of Φ (m, d), none of them zero, less their means (d,) if those are given.

        Φᵀ is written to ``out`` (k, m), such as memory that processes share, where that is given.
        """
        transposed = np.empty((len(columns), len(features))) if out is None else out
        for first in range(0, len(columns), 256):  # in parts, without a second copy of Φ
            part = slice(first, first + 256)
            transposed[part] = features[:, columns[part]].T
        if mean is not None:
            transposed -= mean[columns, None]
        units = 1 / power_of_two(np.sqrt(np.einsum("ij,ij->i", transposed, transposed)))
        transposed *= units[:, None]
        return cls(torch.from_numpy(transposed).to(device), units)

    @classmethod
    def of_gram(cls, gram: Array, device: str = "cpu") -> Design:
        """From G (k, k) with a positive diagonal."""
        units = 1 / power_of_two(np.sqrt(gram.diagonal()))
        return cls(None, units, torch.from_numpy(gram * units * units[:, None]).to(device))

    @property
    def n_columns(self) -> int:
        return len(self.units)

    @property
    def n_samples(self) -> int | None:
        """m, or None where only G is known."""
        return None if self.transposed is None else self.transposed.shape[1]

    @property
    def device(self) -> torch.device:
        tensor = self.given_gram if self.transposed is None else self.transposed
        assert tensor is not None
        return tensor.device

    @property
    def forms_gram(self) -> bool:
        """Whether G is formed as a whole."""
        return forms_gram(self.n_samples, self.n_columns)

    @cached_property
    def gram(self) -> Tensor:
        """G = ΦᵀΦ, (k, k)."""
        if self.given_gram is not None:
            return self.given_gram
        assert self.transposed is not None
        return self.transposed @ self.transposed.T

    @property
    def by_samples(self) -> bool:
        """Whether (G + ρI)⁻¹ is applied through the samples."""
        return by_samples(self.n_samples, self.n_columns)

    @cached_property
    def _kernel(self) -> Tensor:
        """ΦΦᵀ, (m, m)."""
        assert self.transposed is not None
        return self.transposed.T @ self.transposed

    @cached_property
    def gram_array(self) -> Array | None:
        """G for the polish, on the processor; None where it is not formed."""
        return self.gram.cpu().numpy() if self.forms_gram else None

    @cached_property
    def rows_array(self) -> Array | None:
        """Φᵀ for the polish, on the processor."""
        return None if self.transposed is None else self.transposed.cpu().numpy()

    def resolvent(self, rho: float, dtype: torch.dtype) -> Resolvent:
        """ρ(G + ρI)⁻¹, kept for the other blocks of rows, which come by the same few values of ρ."""
        with self._lock:
            if (rho, dtype) not in self._resolvents:
                self._resolvents[rho, dtype] = self._resolvent(rho, dtype)
                while len(self._resolvents) > (KEPT_BY_SAMPLES if self.by_samples else KEPT):
                    self._resolvents.pop(next(iter(self._resolvents)))
            return self._resolvents[rho, dtype]

    def _resolvent(self, rho: float, dtype: torch.dtype) -> Resolvent:
        factor = self._shifted_factor(rho, dtype)
        if not self.by_samples:
            return Resolvent(torch.cholesky_inverse(factor).to(dtype).mul_(rho), by_samples=False)
        assert self.transposed is not None
        return Resolvent(torch.linalg.solve_triangular(factor, self.transposed.T, upper=False).to(dtype), True)

    def ridge(self, rho: float, cross: Tensor) -> Tensor:
        """The ridge solutions (G + ρI)⁻¹c of right-hand sides c (r, k), to the digits of float32."""
        with self._lock:
            if self._pilot is None:
                make = self._resolvent if self.by_samples else self._shifted_factor
                self._pilot = make(rho, torch.float32)  # whatever the dtype of the block that comes first
        size = cross.abs().amax().clamp(min=torch.finfo(cross.dtype).tiny)  # which may be beyond float32
        rows = (cross / size).to(torch.float32)
        if isinstance(self._pilot, Resolvent):
            found = self._pilot.apply(rows, out=torch.empty_like(rows)) / rho
        else:
            found = torch.cholesky_solve(rows.to(self._pilot.dtype).T, self._pilot).T
        return found.to(cross.dtype) * size

    def _shifted_factor(self, rho: float, dtype: torch.dtype) -> Tensor:
        """The Cholesky factor of G + ρI or ΦΦᵀ + ρI, or of more ρ where that is indefinite by its own rounding."""
        # float32 loses the digits of a nearly singular G.
        working = dtype if rho >= 1e-3 and not self.by_samples else torch.float64
        while True:
            shifted = (self._kernel if self.by_samples else self.gram).to(working, copy=True)
            shifted.diagonal().add_(rho)
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if not int(failed):
                return cast(Tensor, factor)
            rho, working = rho * 10, torch.float64

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """G on some rows and columns, given by index tensors."""
        if len(columns) < len(rows):  # the fewer are gathered first
            return self.block(columns, rows).T
        if self.forms_gram:
            if self.gram_array is not None and self.device.type == "cpu":  # NumPy gathers twice as fast as torch
                return torch.from_numpy(self.gram_array.take(rows.numpy(), 0).take(columns.numpy(), 1))
            return self.gram.index_select(0, rows).index_select(1, columns)
        assert self.transposed is not None
        left = self.transposed.index_select(0, rows)
        return left @ (left if rows is columns else self.transposed.index_select(0, columns)).T
