r"""SparseSwaps: Wanda's support, improved row by row by exchanging a weight that stays for one that goes.

The weights keep their values. With c = TᵀX − XᵀX(m ⊙ w) of a row, what the kept weights leave over, taking out w_p and
bringing back w_u changes ‖t − X(m ⊙ w)‖² by

    w_p(2c_p + w_p G_pp) + w_u(w_u G_uu − 2c_u) − 2 w_p w_u G_pu,   G = XᵀX,

and the best pair of all is exchanged until none is for the better: c follows with two columns of G. Every row keeps its
number; with a pattern both weights are of one group. With the dense weights as targets, c = XᵀX((1 − m) ⊙ w), as
published.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from simplicit.studies.peers import wanda
from simplicit.studies.peers.base import Array, Layer, Mask, Peer
from simplicit.training.support.pattern import Pattern

#: An exchange gains more than this share of Σ w_j² G_jj. Without it rounding could go on for ever.
LEAST = 1e-9

_Places = npt.NDArray[np.intp]


def _prune(layer: Layer) -> Array:
    kept = wanda.support(layer)
    for i in range(len(kept)):
        _exchange(layer, i, kept[i])
    return layer.weights * kept


def _exchange(layer: Layer, row: int, kept: Mask) -> None:
    """Improve the support of a row (k,) in place."""
    w, G, diagonal = layer.weights[row], layer.gram, layer.gram.diagonal()
    c = layer.cross[row] - G @ (w * kept)
    least = LEAST * float(np.square(w) @ diagonal)
    stay, go = np.flatnonzero(kept), np.flatnonzero(~kept)
    joint = _joint(w, G, stay, go, layer.pattern)
    while joint.size:
        leaving = w[stay] * (2 * c[stay] + w[stay] * diagonal[stay])
        coming = w[go] * (w[go] * diagonal[go] - 2 * c[go])
        changes = coming.astype(np.float32) - joint
        changes += leaving.astype(np.float32)[:, None]
        a, b = np.unravel_index(changes.argmin(), changes.shape)
        p, u = stay[a], go[b]
        # Pairs are looked through in float32; whether the best is for the better is said in float64.
        if not leaving[a] + coming[b] - 2 * w[p] * w[u] * G[p, u] < -least:
            break
        c += w[p] * G[p] - w[u] * G[u]
        stay[a], go[b] = u, p
        joint[a] = _joint(w, G, stay[a : a + 1], go, layer.pattern)[0]
        joint[:, b] = _joint(w, G, stay, go[b : b + 1], layer.pattern)[:, 0]
    kept[:] = False
    kept[stay] = True


def _joint(w: Array, G: Array, stay: _Places, go: _Places, pattern: Pattern | None) -> npt.NDArray[np.float32]:
    """2 w_p w_u G_pu in float32, (stay, go); −∞ for pairs that are of two groups."""
    joint = (2 * np.outer(w[stay], w[go]) * G[np.ix_(stay, go)]).astype(np.float32)
    if pattern is not None:
        joint[stay[:, None] // pattern.of != go // pattern.of] = -np.inf
    return joint


SPARSESWAPS = Peer("SparseSwaps", _prune, fits=False, source="Zimmer et al., SparseSwaps, arXiv 2512.10922, 2025")
