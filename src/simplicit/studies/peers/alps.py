r"""ALPS: the layer's ℓ0-constrained least squares by ADMM with hard thresholding.

    min over W  ‖T − XWᵀ‖² + δ‖W − W⁰‖²   s.t.  ‖W‖₀ ≤ count

in columns scaled to unit norm (:mod:`simplicit.training.support.thresholding`); with a pattern the largest entries of
every group are kept. Least squares on the support, which the paper approximates by conjugate gradients, is solved
exactly.
"""

from __future__ import annotations

import numpy as np
import torch

from simplicit.studies.peers.base import Array, Layer, Peer
from simplicit.training.support.pattern import Groups
from simplicit.training.support.thresholding import support_by_admm


def _prune(layer: Layer) -> Array:
    H, G = layer.damped()
    unit = np.sqrt(H.diagonal())
    H, G = H / np.outer(unit, unit), G / unit
    groups = None if layer.pattern is None else Groups.along(layer.pattern, layer.weights.shape[1], 1)
    support = support_by_admm(H, G, layer.weights * unit, layer.count, groups=groups, workers=torch.get_num_threads())
    W = np.zeros_like(layer.weights)
    for i, row in enumerate(support):
        columns = np.flatnonzero(row)
        W[i, columns] = np.linalg.solve(H[np.ix_(columns, columns)], G[i, columns])
    return W / unit


ALPS = Peer("ALPS", _prune, fits=True, source="Meng et al., ALPS: Improved Optimization for One-Shot Pruning, 2024")
