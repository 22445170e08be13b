r"""Supports by ADMM with hard thresholding: all rows of a layer together, at a given number of weights.

    min over W  Σᵢ (wᵢᵀHwᵢ − 2cᵢᵀwᵢ)   s.t.  ‖W‖₀ ≤ count

by the splitting W = D, D with ``count`` entries: W ← (H + ρI)⁻¹(C − V + ρD), D keeps the ``count`` largest entries of
W + V/ρ in the whole layer, V ← V + ρ(W − D). ρ starts low and grows with how much the support still changes, until it
does not (Meng et al., *ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models*,
2024). It looks at all entries at once, where elimination goes step by step; neither always wins.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simplicit.rows.batch import Array, Mask

RHO, ITERATIONS, EVERY = 0.1, 300, 3
#: ρ grows by the factor if more than this share of the support changed since the last look.
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))


def keep_largest(scores: Array, count: int) -> Mask:
    """The ``count`` largest scores of a whole array; of equal ones the first."""
    flat, others = scores.ravel(), scores.size - count
    if not 0 < others < scores.size:
        return np.full(scores.shape, others <= 0)
    least = np.partition(flat, others)[others]
    kept = flat > least
    kept[np.flatnonzero(flat == least)[: count - int(kept.sum())]] = True
    return np.asarray(kept.reshape(scores.shape))


#: ρ ↦ (rows ↦ rows·(H + ρI)⁻¹).
Resolvents = Callable[[float], Callable[[Array], Array]]


def resolvents_of(H: Array) -> Resolvents:
    """The resolvents of a positive semidefinite matrix (d, d), by its eigenvectors."""
    eigenvalues, Q = np.linalg.eigh(H)
    return lambda rho: lambda rows: (rows @ Q / (eigenvalues + rho)) @ Q.T


def support_by_admm(resolvents: Resolvents, C: Array, start: Array, count: int, allowed: Mask | None = None) -> Mask:
    """The support of the last D, (r, d), with ``count`` entries in all rows together.

    The ``resolvents`` are of H (d, d), positive semidefinite with a diagonal of ones: columns are in units of their
    norms, and so are the rows' cross-correlations C (r, d). The largest of the dense weights ``start`` (r, d) are the
    first support; entries may be where it is ``allowed`` (r, d).
    """
    outside = np.zeros_like(start, dtype=bool) if allowed is None else ~allowed
    support = keep_largest(np.where(outside, -1.0, np.abs(start)), count)
    D, V, rho, last = start * support, np.zeros_like(start), RHO, support
    resolvent = resolvents(rho)
    for iteration in range(1, ITERATIONS + 1):
        W = resolvent(C - V + rho * D)
        D = W + V / rho
        support = keep_largest(np.where(outside, -1.0, np.abs(D)), count)
        D = D * support
        V = V + rho * (W - D)
        if iteration % EVERY == 0:
            changed = int((support & ~last).sum())
            if not changed:
                break
            rho *= next(factor for share, factor in GROWTH if changed > share * count)
            resolvent = resolvents(rho)
            last = support
    return support
