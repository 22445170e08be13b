r"""Gram matrices of few samples: H = δ(I + FᵀF) with F of few rows, and least squares by them.

m samples give d columns a Gram matrix of rank k ≤ m beside its ridge δ. Where m is far below d, what takes d × d
matrices otherwise takes k × k ones, by the identities of Woodbury: for columns S,

    K = I + F_S F_Sᵀ,   q_j = f_jᵀK⁻¹f_j,   y = K⁻¹F_S c_S,   g = c − Fᵀy

(H_SS)⁻¹ = (I − F_SᵀK⁻¹F_S)/δ has the diagonal (1 − q_j)/δ; the minimiser of wᵀHw − 2cᵀw on S is w_S = g_S/δ, and
outside S the gradient c − Hw is g itself; the Schur complement of a column there is δ(1 + q_j).

F comes from H alone, whatever the samples were, by Cholesky's factorisation with pivots. It is taken where what is left
of H − δI has a trace of no more than :data:`REST`·δ, so that no price moves by more than that share.

1 − q_j and c − Fᵀy lose the digits by which tr(FᵀF), the condition of K, exceeds 1: up to :data:`MOST_TRACE` seven are
left of sixteen, and a dense inverse loses as many there; with a smaller ridge H is taken as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from simplicit.rows.batch import Array, Index

#: What F may leave out, and the most that it may be, in units of the ridge.
REST, MOST_TRACE = 1e-7, 1e9
#: F pays where columns are so many times its rows (elimination takes some 40·k²d products with it, and .7·d³ without)
#: and not less than so many: with 128 columns of rank 12 it took as long as without, with 512 a third.
COLUMNS_PER_ROW, LEAST_COLUMNS = 8, 256


def few_samples(count: int, columns: int) -> bool:
    """Whether so many samples are few beside their columns."""
    return columns >= max(COLUMNS_PER_ROW * count, LEAST_COLUMNS)


@dataclass(frozen=True, eq=False)
class LowRank:
    """H = δ(I + FᵀF), with the ``factor`` F (k, d) and the ``ridge`` δ > 0."""

    factor: Array
    ridge: float

    @classmethod
    def of(cls, H: Array, ridge: float, count: int) -> Self | None:
        """Factorise H (d, d), which has that ridge and the products of so many samples in it.

        None where d × d matrices cost no more, or where digits do not suffice.
        """
        d = len(H)
        if not few_samples(count, d) or not ridge > 0:
            return None
        left = H.diagonal() - ridge
        if not left.sum() <= MOST_TRACE * ridge:
            return None
        F = np.zeros((count, d))
        for row in range(count):
            if np.maximum(left, 0.0).sum() <= REST * ridge:
                F = F[:row]
                break
            pivot = int(np.argmax(left))
            column = H[pivot] - F[:row, pivot] @ F[:row]
            column[pivot] -= ridge
            F[row] = column / np.sqrt(left[pivot])
            left = left - np.square(F[row])
            left[pivot] = 0.0
        if np.maximum(left, 0.0).sum() > REST * ridge:
            return None
        return cls(F / np.sqrt(ridge), ridge)

    def pays(self, columns: int) -> bool:
        """Whether so many columns are enough for F to be the cheaper way."""
        return few_samples(len(self.factor), columns)

    def on(self, columns: Index) -> LowRank:
        """The same on some columns."""
        return LowRank(self.factor[:, columns], self.ridge)

    def product(self, rows: Array) -> Array:
        """The products of rows (r, d) with H."""
        return np.asarray(self.ridge * (rows + (rows @ self.factor.T) @ self.factor))

    def resolvent(self, units: Array, shift: float) -> Callable[[Array], Array]:
        """The product with (E H E + ρI)⁻¹ of the rows of an array (r, d), E the diagonal matrix of ``units`` (d,), ρ a
        ``shift``."""
        diagonal, F = self.ridge * np.square(units) + shift, self.factor * (units * np.sqrt(self.ridge))
        weighted = F / diagonal
        K = cho_factor(np.eye(len(F)) + weighted @ F.T, lower=True)
        return lambda rows: rows / diagonal - cho_solve(K, weighted @ rows.T).T @ weighted

    @cached_property
    def eigen(self) -> tuple[Array, Array]:
        """The eigenvalues of H other than δ, (k,), and their eigenvectors (d, k)."""
        _, singular, vectors = np.linalg.svd(self.factor, full_matrices=False)
        return self.ridge * (1 + np.square(singular)), vectors.T

    def least_squares(self, c: Array, support: Index) -> Array:
        """The minimiser of wᵀHw − 2cᵀw on a support, (d,), zero elsewhere; refined once."""
        w, F, right = np.zeros(len(c)), self.factor[:, support], c[support]
        if not len(support):
            return w
        K = cho_factor(np.eye(len(F)) + F @ F.T, lower=True)
        found = (right - cho_solve(K, F @ right) @ F) / self.ridge
        rest = right - self.ridge * (found + (F @ found) @ F)
        w[support] = found + (rest - cho_solve(K, F @ rest) @ F) / self.ridge
        return w
