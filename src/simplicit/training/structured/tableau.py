r"""Least squares of many rows, from which blocks of columns leave, and into which they come, for all rows at once.

For the positive definite Gram matrix H, rows with the cross-correlations cᵢ and weights sᵢ, and columns K that all of
them keep, the least of Σᵢ sᵢ(wᵢᵀHwᵢ − 2cᵢᵀwᵢ) over rows that are zero off K is at W_K = C_K P, P = (H_KK)⁻¹. Taking a
block g out of K and refitting all rows on what is left raises it by exactly

    tr( (P_gg)⁻¹ W_gᵀ S W_g )

the *price of the block*: that of an optimal brain surgeon for one weight of one row, with a block for the weight and
all rows for the one. A block outside of K, with the correlations q = c − Hw of the residual and the Schur complement
B = H_gg − H_gK P H_Kg, lowers it by tr(B⁻¹ Q_gᵀ S Q_g) when it comes in. Both are one formula of the tableau

    T = [ −P        P H_KO            ]       Q = √S [ W_K   Q_O ]       price of g = tr( |T_gg|⁻¹ Q_gᵀQ_g )
        [ H_OK P    H_OO − H_OK P H_KO ]

which moves g between K and the others O by a *sweep* (Beaton, *The use of special matrix operators in statistical
calculus*, 1964), a change of rank |g|. Rows take part by QᵀQ alone, so that of more rows than columns the factor R of
√S C is kept: what a step takes does not grow with the rows.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve

from simplicit.rows.batch import Array, Index, Mask


class Tableau:
    """T (d, d) and Q (min(r, d), d) of H (d, d), C (r, d) and s (r,), with the columns that are ``inside`` (d,)."""

    def __init__(self, H: Array, C: Array, weights: Array, inside: Mask) -> None:
        scaled = np.sqrt(weights)[:, None] * C
        self.T = H.copy()
        self.Q: Array = np.asarray(np.linalg.qr(scaled, mode="r")) if len(scaled) > len(H) else scaled
        self.inside = np.zeros(len(H), dtype=bool)
        self.sweep(np.flatnonzero(inside))

    def copy(self) -> Tableau:
        """One that changes apart from this."""
        twin = object.__new__(Tableau)
        twin.T, twin.Q, twin.inside = self.T.copy(), self.Q.copy(), self.inside.copy()
        return twin

    def sweep(self, columns: Index) -> None:
        """Bring columns in, or take them out; all of them are outside, or all inside."""
        if not len(columns):
            return
        T, Q, sign = self.T, self.Q, -1.0 if self.inside[columns[0]] else 1.0
        block, across, own = T[np.ix_(columns, columns)], T[columns], Q[:, columns]
        through = sign * solve(sign * block, across, assume_a="pos")
        T -= across.T @ through
        Q -= own @ through
        inverse = sign * solve(sign * block, np.eye(len(columns)), assume_a="pos")
        T[columns], T[:, columns] = sign * through, sign * through.T
        T[np.ix_(columns, columns)] = -inverse
        Q[:, columns] = sign * own @ inverse
        self.inside[columns] = sign > 0

    def prices(self, blocks: Index) -> Array:
        """What each of some blocks (n, b) raises the error by when it leaves, or lowers it by when it comes in."""
        gram = self.T[blocks[:, :, None], blocks[:, None, :]] * self._signs(blocks)[:, None, None]
        return _prices(gram, self.Q[:, blocks])

    def prices_beside(self, block: Index, others: Index) -> Array:
        """The prices of other blocks (n, b) once one, (b,), has gone the other way; nothing is changed."""
        across = self.T[block][:, others]  # (b, n, b)
        through = np.linalg.solve(self.T[np.ix_(block, block)], across.reshape(len(block), -1)).reshape(across.shape)
        gram = self.T[others[:, :, None], others[:, None, :]] - np.einsum("cni,cnj->nij", across, through)
        rows = self.Q[:, others] - np.tensordot(self.Q[:, block], through, axes=1)
        return _prices(gram * self._signs(others)[:, None, None], rows)

    def _signs(self, blocks: Index) -> Array:
        return np.where(self.inside[blocks[:, 0]], -1.0, 1.0)


def _prices(gram: Array, rows: Array) -> Array:
    """tr(B⁻¹ QᵀQ) for each of n blocks B (n, b, b) and Q (r, n, b)."""
    if gram.shape[1] == 1:
        return np.asarray(np.square(rows[:, :, 0]).sum(axis=0) / gram[:, 0, 0])
    squares = np.einsum("rni,rnj->nij", rows, rows, optimize=True)
    return np.asarray(np.trace(np.linalg.solve(gram, squares), axis1=1, axis2=2))
