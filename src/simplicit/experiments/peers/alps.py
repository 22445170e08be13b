r"""ALPS: the layer's ℓ0-constrained least squares by ADMM with hard thresholding.

    min over W  ‖T − XWᵀ‖² + δ‖W − W⁰‖²   s.t.  ‖W‖₀ ≤ count

in columns scaled to unit norm. W ← (H + ρI)⁻¹(G − V + ρD) with one eigendecomposition of H, D keeps the ``count``
largest entries of W + V/ρ in the whole layer, V ← V + ρ(W − D). ρ starts at 0.1 and grows, every third iteration, with
how much the support still changes, until it does not. Least squares on the support, which the paper approximates by
conjugate gradients, is solved exactly. δ is a hundredth of the mean of the diagonal.
"""

from __future__ import annotations

import numpy as np

from simplicit.experiments.peers.base import Array, Layer, Mask, Peer, keep_largest

__all__ = ["ALPS", "DAMPING", "support_by_admm"]

DAMPING, RHO, ITERATIONS, EVERY = 0.01, 0.1, 300, 3
#: ρ grows by the factor if more than this share of the support changed since the last look.
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))


def _prune(layer: Layer) -> Array:
    H, G = layer.gram.copy(), layer.cross
    damping = DAMPING * (float(H.diagonal().mean()) or 1.0)
    H[np.diag_indices_from(H)] += damping
    unit = np.sqrt(H.diagonal())
    H, G = H / np.outer(unit, unit), (G + damping * layer.weights) / unit
    support = support_by_admm(H, G, layer.weights * unit, layer.count)
    W = np.zeros_like(layer.weights)
    for i, row in enumerate(support):
        columns = np.flatnonzero(row)
        W[i, columns] = np.linalg.solve(H[np.ix_(columns, columns)], G[i, columns])
    return W / unit


def support_by_admm(H: Array, G: Array, start: Array, count: int) -> Mask:
    """The support of the ADMM's last D, (r, k)."""
    eigenvalues, Q = np.linalg.eigh(H)
    support = keep_largest(np.abs(start), count)
    D, V, rho, last = start * support, np.zeros_like(start), RHO, support
    for iteration in range(1, ITERATIONS + 1):
        W = ((G - V + rho * D) @ Q / (eigenvalues + rho)) @ Q.T
        D = W + V / rho
        support = keep_largest(np.abs(D), count)
        D = D * support
        V = V + rho * (W - D)
        if iteration % EVERY == 0:
            changed = int((support & ~last).sum())
            if not changed:
                break
            rho *= next(factor for share, factor in GROWTH if changed > share * count)
            last = support
    return support


ALPS = Peer("ALPS", _prune, fits=True, source="Meng et al., ALPS: Improved Optimization for One-Shot Pruning, 2024")
