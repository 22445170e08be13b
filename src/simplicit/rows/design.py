r"""A design is Φ in the units of the solver, with what is computed from it once for all rows.

Every column is divided by the power of two nearest to its norm, so that all columns count alike and nothing is rounded.
A design has the samples themselves (:class:`SampleDesign`), or G = ΦᵀΦ alone where Φ is never whole in memory
(:class:`GramDesign`, from :class:`simplicit.Gram`). With samples G is formed where it fits: not for d ≫ m, where the
polish forms the blocks of it that it needs. ADMM takes the resolvent ρ(G + ρI)⁻¹, which with few samples is cheaper as
I − PᵀP, where P = L⁻¹Φ and LLᵀ = ΦΦᵀ + ρI: P has no more rows than there are samples, and no singular value beyond 1,
so that float32 is enough for it.
"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.batch import Array, Index

#: G is not formed as a whole with more columns than this (G takes 128 MiB then), and than so many times the samples:
#: the blocks that the polish asks for cost less than G as long as supports are smaller than m.
MOST_COLUMNS, COLUMNS_PER_SAMPLE = 4096, 4
#: For how many values of ρ resolvents are kept: as a k × k matrix, and by samples, which take half of that or less. The
#: blocks of the Fashion-MNIST family (``benchmarks/problems.py``, 100 and 500 samples) meet two to four values.
KEPT, KEPT_BY_SAMPLES = 4, 6
#: Columns that are copied at a time, so that there never is a second copy of Φ.
CHUNK = 256


def power_of_two(size: Array) -> Array:
    """Return the power of two nearest to each entry in the logarithm; 1 for zero."""
    return np.exp2(np.round(np.log2(np.where(size > 0, size, 1.0))))


def forms_gram(n_samples: int | None, n_columns: int) -> bool:
    """Say whether G is formed as a whole for so many samples (None: only G is known) and columns."""
    return n_samples is None or n_columns <= max(MOST_COLUMNS, COLUMNS_PER_SAMPLE * n_samples)


def by_samples(n_samples: int | None, n_columns: int) -> bool:
    """Say whether ρ(G + ρI)⁻¹ is applied by samples: that takes no more products than a k × k matrix."""
    return n_samples is not None and 2 * n_samples <= n_columns


@dataclass(frozen=True, eq=False)
class Resolvent:
    """The resolvent of G, y ↦ ρ(G + ρI)⁻¹y, is applied to many y at once."""

    matrix: Tensor  # ρ(G + ρI)⁻¹ itself, (k, k), or P, (m, k)
    by_samples: bool  # whether it is P

    def apply(self, rows: Tensor, out: Tensor) -> Tensor:
        """Apply it to the rows of a tensor (r, k), and write what comes of them to ``out`` (r, k)."""
        if not self.by_samples:
            return torch.mm(rows, self.matrix, out=out)
        return torch.addmm(rows, rows @ self.matrix.T, self.matrix, alpha=-1, out=out)


class Design(ABC):
    """A design is what is known of Φ on k columns; G it always has, at least block by block.

    The units (k,) are powers of two: a coefficient of the problem as it was given is ``units`` times one of this
    design. ``n_samples`` is m, None where only G is known, and the tensors are on the device.
    """

    def __init__(self, units: Array, n_samples: int | None, device: torch.device) -> None:
        self.units, self.n_samples, self.device = units, n_samples, device
        self.forms_gram = forms_gram(n_samples, len(units))
        self.by_samples = by_samples(n_samples, len(units))
        self._resolvents: dict[tuple[float, torch.dtype], Resolvent] = {}
        self._ridge: Resolvent | Tensor | None = None
        self._lock = threading.Lock()

    @property
    @abstractmethod
    def gram(self) -> Tensor:
        """This is G = ΦᵀΦ, (k, k), float64."""

    @cached_property
    def twins(self) -> tuple[Index, Index, Array]:
        """These columns (t,) are s times an earlier one in every bit; the first of their kind (t,), and s = ±1 (t,).

        Without samples none are known.
        """
        none = np.empty(0, dtype=np.intp)
        return none, none, np.empty(0)

    def block(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return G on some rows and columns, given by index tensors."""
        if len(columns) < len(rows):  # the fewer are gathered first
            return self.block(columns, rows).T
        return self._block(rows, columns)

    def _block(self, rows: Tensor, columns: Tensor) -> Tensor:
        if self.device.type == "cpu":  # NumPy gathers twice as fast as torch
            return torch.from_numpy(self.gram.numpy().take(rows.numpy(), 0).take(columns.numpy(), 1))
        return self.gram.index_select(0, rows).index_select(1, columns)

    def resolvent(self, rho: float, dtype: torch.dtype) -> Resolvent:
        """Return ρ(G + ρI)⁻¹, kept for the other blocks of rows, which come by the same few values of ρ."""
        with self._lock:
            if (rho, dtype) not in self._resolvents:
                self._resolvents[rho, dtype] = self._resolvent(rho, dtype)
                while len(self._resolvents) > (KEPT_BY_SAMPLES if self.by_samples else KEPT):
                    self._resolvents.pop(next(iter(self._resolvents)))
            return self._resolvents[rho, dtype]

    def ridge(self, rho: float, cross: Tensor) -> Tensor:
        """Return the ridge solutions (G + ρI)⁻¹c of right-hand sides c (r, k), to the digits of float32.

        ρ must be the same in every call, for what is computed from it is kept.
        """
        with self._lock:
            if self._ridge is None:
                make = self._resolvent if self.by_samples else self._shifted_factor
                self._ridge = make(rho, torch.float32)  # whatever the dtype of the block that comes first
        size = cross.abs().amax().clamp(min=torch.finfo(cross.dtype).tiny)  # which may be beyond float32
        rows = (cross / size).to(torch.float32)
        if isinstance(self._ridge, Resolvent):
            found = self._ridge.apply(rows, out=torch.empty_like(rows)) / rho
        else:
            found = torch.cholesky_solve(rows.to(self._ridge.dtype).T, self._ridge).T
        return found.to(cross.dtype) * size

    def _resolvent(self, rho: float, dtype: torch.dtype) -> Resolvent:
        factor = self._shifted_factor(rho, dtype)
        return Resolvent(torch.cholesky_inverse(factor).to(dtype).mul_(rho), by_samples=False)

    def _shifted(self) -> Tensor:
        """Return what ρI is added to before it is factorised."""
        return self.gram

    def _shifted_factor(self, rho: float, dtype: torch.dtype) -> Tensor:
        """Factorise G + ρI or ΦΦᵀ + ρI by Cholesky, with more ρ where that is indefinite by its own rounding."""
        # float32 loses the digits of a nearly singular G.
        working = dtype if rho >= 1e-3 and not self.by_samples else torch.float64
        while True:
            shifted = self._shifted().to(working, copy=True)
            shifted.diagonal().add_(rho)
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if not int(failed):
                return cast(Tensor, factor)
            rho, working = rho * 10, torch.float64


class GramDesign(Design):
    """Of this design only G (k, k) is known, its columns in their units."""

    def __init__(self, gram: Tensor, units: Array) -> None:
        super().__init__(units, None, gram.device)
        self._gram = gram

    @classmethod
    def of_gram(cls, gram: Array, device: str = "cpu") -> GramDesign:
        """Make a design from G (k, k) with a positive diagonal, in the units of the features."""
        units = 1 / power_of_two(np.sqrt(gram.diagonal()))
        return cls(torch.from_numpy(gram * units * units[:, None]).to(device), units)

    @property
    def gram(self) -> Tensor:
        return self._gram


class SampleDesign(Design):
    """This design has its samples, Φᵀ (k, m) with the columns of Φ in their units, and G where it is formed already."""

    n_samples: int
    orthogonal: bool = False  # whether the polish factorises the samples themselves, for all their digits

    def __init__(self, transposed: Tensor, units: Array, gram: Tensor | None = None) -> None:
        super().__init__(units, transposed.shape[1], transposed.device)
        self.transposed, self._gram = transposed, gram

    @classmethod
    def of_features(
        cls,
        features: Any,
        columns: Index,
        mean: Array | None,
        device: str = "cpu",
        out: Array | None = None,
        scale: Array | None = None,
    ) -> SampleDesign:
        """Make a design from some columns of Φ (m, d), none of them zero, less their means (d,) if those are given.

        Φ is an array, or whatever gives columns as arrays when it is indexed like one.

        Lines are multiplied by ``scale`` (m,) then, if that is given. Φᵀ is written to ``out`` (k, m), such as memory
        that processes share, where that is given.
        """
        transposed = np.empty((len(columns), len(features))) if out is None else out
        for first in range(0, len(columns), CHUNK):
            part = slice(first, first + CHUNK)
            transposed[part] = features[:, columns[part]].T
        if mean is not None:
            transposed -= mean[columns, None]
        if scale is not None:
            transposed *= scale
        units = 1 / power_of_two(np.sqrt(np.einsum("ij,ij->i", transposed, transposed)))
        transposed *= units[:, None]
        return cls(torch.from_numpy(transposed).to(device), units)

    @cached_property
    def gram(self) -> Tensor:
        return self.transposed @ self.transposed.T if self._gram is None else self._gram

    def with_all_digits(self) -> SampleDesign:
        """Return the same design, whose factorisations are slower and do not square the condition of Φ."""
        result = copy(self)
        result.orthogonal = True
        return result

    @cached_property
    def twins(self) -> tuple[Index, Index, Array]:
        lines = self.transposed_array
        signs = np.sign(lines[np.arange(len(lines)), (lines != 0).argmax(axis=1)])
        kinds: dict[bytes, int] = {}
        first = np.empty(len(lines), dtype=np.intp)
        for column, (line, sign) in enumerate(zip(lines, signs, strict=True)):
            # Adding 0 makes a 0 of −0, which has other bits.
            first[column] = kinds.setdefault(hashlib.blake2b((line * sign + 0.0).tobytes()).digest(), column)
        twins = np.flatnonzero(first != np.arange(len(first)))
        return twins, first[twins], signs[twins] * signs[first[twins]]

    @cached_property
    def transposed_array(self) -> Array:
        """This is Φᵀ on the processor, (k, m)."""
        return self.transposed.cpu().numpy()

    @cached_property
    def _kernel(self) -> Tensor:
        """This is ΦΦᵀ, (m, m)."""
        return self.transposed.T @ self.transposed

    def _shifted(self) -> Tensor:
        return self._kernel if self.by_samples else super()._shifted()

    def _resolvent(self, rho: float, dtype: torch.dtype) -> Resolvent:
        if not self.by_samples:
            return super()._resolvent(rho, dtype)
        factor = self._shifted_factor(rho, dtype)
        return Resolvent(torch.linalg.solve_triangular(factor, self.transposed.T, upper=False).to(dtype), True)

    def _block(self, rows: Tensor, columns: Tensor) -> Tensor:
        if self.forms_gram:
            return super()._block(rows, columns)
        left = self.transposed.index_select(0, rows)
        return left @ (left if rows is columns else self.transposed.index_select(0, columns)).T
