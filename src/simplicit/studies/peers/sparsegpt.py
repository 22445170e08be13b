r"""SparseGPT: one sweep over the columns, each weight that goes is made up for by the columns after it.

With the upper Cholesky factor R of (XᵀX + δI)⁻¹ = RᵀR, taking out w_j costs (w_j/R_jj)² when only later columns may
answer, and the best answer is w_k ← w_k − (w_j/R_jj)·R_jk for k > j. Columns go in blocks of 128; in every block the
cheapest weights of all rows go. With a pattern of n of m columns every row loses the cheapest m − n of each group, at
what they cost when the sweep comes to it. To match targets other than those of the dense weights, the sweep starts from
the ridge solution for them, towards the dense weights.
"""

from __future__ import annotations

import numpy as np

from simplicit.studies.peers.base import Array, Layer, Mask, Peer, keep_in_groups
from simplicit.training.support.thresholding import keep_largest

BLOCK = 128


def _prune(layer: Layer) -> Array:
    H, G = layer.damped()
    P = np.linalg.inv(H)
    W = G @ P
    R = np.asarray(np.linalg.cholesky((P + P.T) / 2).T, dtype=np.float64)
    width = layer.pattern.of if layer.pattern else BLOCK
    starts = range(0, W.shape[1], width)
    ends = np.cumsum([W[:, first : first + width].size for first in starts])
    shares = np.diff(np.round(ends * (layer.count / W.size)).astype(int), prepend=0)
    for first, count in zip(starts, shares, strict=True):
        block = slice(first, min(first + width, W.shape[1]))
        costs = np.square(W[:, block] / R.diagonal()[block])
        _sweep(W, R, block, keep_in_groups(costs, layer.pattern) if layer.pattern else keep_largest(costs, int(count)))
    return W


def _sweep(W: Array, R: Array, block: slice, kept: Mask) -> None:
    """Prune a block of columns in place, and let those after it answer."""
    errors = np.zeros_like(W[:, block])
    for j in range(block.start, block.stop):
        at = j - block.start
        errors[:, at] = W[:, j] * ~kept[:, at] / R[j, j]
        W[:, j : block.stop] -= np.outer(errors[:, at], R[j, j : block.stop])
        W[:, j] *= kept[:, at]
    W[:, block.stop :] -= errors @ R[block, block.stop :]


SPARSEGPT = Peer("SparseGPT", _prune, fits=True, source="Frantar and Alistarh, SparseGPT, ICML 2023")
