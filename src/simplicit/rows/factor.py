r"""Factorisations of G_AA + C on a set A of columns, for the polish.

C is a positive diagonal: the curvature of the penalty and a tiny proximal term, which keeps a singular G_AA harmless
without moving the fixed point. With at most about m columns G_AA + C is factorised itself. With many more columns than
samples it is inverted by the identity of Woodbury, through a matrix of m × m:

    (C + ΦᵀΦ)⁻¹ = C⁻¹ − C⁻¹Φᵀ (I + ΦC⁻¹Φᵀ)⁻¹ ΦC⁻¹
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from simplicit.rows.design import Design

__all__ = ["Factor", "factorise"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: Relative size of the proximal term; multiplied by 100 until the factorisation succeeds. Woodbury's identity subtracts
#: terms of its inverse size from each other, so that it must be larger there.
PROXIMAL, WOODBURY_PROXIMAL = 1e-12, 1e-8
#: More columns than so many times the samples go by Woodbury's identity.
COLUMNS_PER_SAMPLE = 2
#: Where the penalty has no curvature, only more columns than this do.
MOST_COLUMNS = 4096


class Factor(Protocol):
    """What the polish needs of a factorisation."""

    sigma: float

    def solve(self, right: Array) -> Array:
        """(G_AA + C + σaaᵀ)⁻¹ times ``right`` (n, q)."""
        ...

    def gram_times(self, shift: Array) -> Array:
        """shiftᵀ G_AA shift for every column of ``shift`` (n, q); shape (q,)."""
        ...

    def product(self, shift: Array) -> Array:
        """(G_AA + σaaᵀ) times ``shift`` (n,)."""
        ...


def factorise(design: Design, columns: Index, curvature: Array, sigma: float, normal: Array) -> Factor:
    """Factorise G_AA + diag(curvature) + σaaᵀ + a proximal term, by whichever way is cheaper.

    Parameters
    ----------
    design : Design
    columns : (n,) index array
        A.
    curvature : (n,) array
        ≥ 0.
    sigma, normal : float and (n,) array
        σ ≥ 0 and a. Woodbury's identity takes no σ: ``factor.sigma`` says what it has.
    """
    m = design.n_samples
    wide = m is not None and len(columns) > COLUMNS_PER_SAMPLE * m
    # Without curvature G_AA is singular and the identity loses digits: it is for what cannot be had otherwise.
    if wide and (curvature.all() or len(columns) > MOST_COLUMNS):
        return _Woodbury(design, columns, curvature)
    return _Cholesky(design, columns, curvature, sigma, normal)


class _Cholesky:
    def __init__(self, design: Design, columns: Index, curvature: Array, sigma: float, normal: Array) -> None:
        matrix = design.block(columns, columns)
        diagonal, proximal = matrix.diagonal().copy(), PROXIMAL
        if sigma:
            matrix += sigma * np.outer(normal, normal)
        base, tensor = matrix.diagonal().copy(), torch.from_numpy(matrix)
        while True:
            added = curvature + proximal * diagonal
            tensor.diagonal().copy_(torch.from_numpy(base + added))
            self.factor, failed = torch.linalg.cholesky_ex(tensor)
            # From proximal 1 on the matrix is far from singular: what is not finite then was not on entry.
            if not int(failed) or proximal > 1:
                break
            proximal *= 100
        self.added, self.sigma, self.normal = added, sigma, normal

    def solve(self, right: Array) -> Array:
        # Two triangular solves: LAPACK's potrs is several times slower for few right-hand sides.
        half = torch.linalg.solve_triangular(self.factor, torch.from_numpy(right), upper=False)
        solved: Array = torch.linalg.solve_triangular(self.factor.T, half, upper=True).numpy()
        return solved

    def gram_times(self, shift: Array) -> Array:
        half = (self.factor.T @ torch.from_numpy(shift)).numpy()
        value = np.einsum("ij,ij->j", half, half) - self.added @ (shift * shift)
        if self.sigma:
            value -= self.sigma * (self.normal @ shift) ** 2
        return np.asarray(value)

    def product(self, shift: Array) -> Array:
        vector = torch.from_numpy(shift)
        return np.asarray((self.factor @ (self.factor.T @ vector)).numpy() - self.added * shift)


class _Woodbury:
    def __init__(self, design: Design, columns: Index, curvature: Array) -> None:
        rows = design.rows_array
        assert rows is not None
        self.sigma = 0.0
        self.rows = rows[columns]  # Φ_Aᵀ, (n, m)
        norms = np.einsum("ij,ij->i", self.rows, self.rows)
        self.inverse = 1 / (curvature + WOODBURY_PROXIMAL * norms)
        kernel = self.rows.T @ (self.inverse[:, None] * self.rows)
        kernel.flat[:: len(kernel) + 1] += 1.0
        self.factor, _ = torch.linalg.cholesky_ex(torch.from_numpy(kernel))

    def solve(self, right: Array) -> Array:
        weighted = self.inverse[:, None] * right
        inner = torch.cholesky_solve(torch.from_numpy(self.rows.T @ weighted), self.factor).numpy()
        return np.asarray(weighted - self.inverse[:, None] * (self.rows @ inner))

    def gram_times(self, shift: Array) -> Array:
        images = self.rows.T @ shift
        return np.asarray(np.einsum("ij,ij->j", images, images))

    def product(self, shift: Array) -> Array:
        return np.asarray(self.rows @ (self.rows.T @ shift))
