"""Wanda: in every row the weights with the largest |wᵢⱼ|·‖Xⱼ‖ stay as they are."""

from __future__ import annotations

import numpy as np

from simplicit.studies.peers.base import Array, Layer, Peer, keep_largest_in_rows


def _prune(layer: Layer) -> Array:
    scores = np.abs(layer.weights) * np.sqrt(layer.gram.diagonal())
    return layer.weights * keep_largest_in_rows(scores, layer.count)


WANDA = Peer("Wanda", _prune, fits=False, source="Sun et al., A Simple and Effective Pruning Approach, ICLR 2024")
