r"""SparseGPT: one sweep over the columns, each weight that goes is made up for by the columns after it.

With the upper Cholesky factor R of (XᵀX + δI)⁻¹ = RᵀR, taking out w_j costs (w_j/R_jj)² when only later columns may
answer, and the best answer is w_k ← w_k − (w_j/R_jj)·R_jk for k > j. Columns go in blocks of 128; in every block the
cheapest weights of all rows go. To match targets other than those of the dense weights, the sweep starts from the ridge
solution for them, towards the dense weights.
"""

from __future__ import annotations

import numpy as np

from simplicit.studies.peers.base import Array, Layer, Peer
from simplicit.training.support.thresholding import keep_largest

BLOCK = 128


def _prune(layer: Layer) -> Array:
    H, G = layer.damped()
    P = np.linalg.inv(H)
    W = G @ P
    R = np.asarray(np.linalg.cholesky((P + P.T) / 2).T, dtype=np.float64)
    ends = np.cumsum([W[:, first : first + BLOCK].size for first in range(0, W.shape[1], BLOCK)])
    shares = np.diff(np.round(ends * (layer.count / W.size)).astype(int), prepend=0)
    for first, count in zip(range(0, W.shape[1], BLOCK), shares, strict=True):
        _sweep(W, R, slice(first, min(first + BLOCK, W.shape[1])), int(count))
    return W


def _sweep(W: Array, R: Array, block: slice, count: int) -> None:
    """Prune a block of columns in place, and let those after it answer."""
    kept = keep_largest(np.square(W[:, block] / R.diagonal()[block]), count)
    errors = np.zeros_like(W[:, block])
    for j in range(block.start, block.stop):
        at = j - block.start
        errors[:, at] = W[:, j] * ~kept[:, at] / R[j, j]
        W[:, j : block.stop] -= np.outer(errors[:, at], R[j, j : block.stop])
        W[:, j] *= kept[:, at]
    W[:, block.stop :] -= errors @ R[block, block.stop :]


SPARSEGPT = Peer("SparseGPT", _prune, fits=True, source="Frantar and Alistarh, SparseGPT, ICML 2023")
