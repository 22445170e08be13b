"""Wanda: in every row, or group of a pattern, the weights with the largest |wᵢⱼ|·‖Xⱼ‖ stay as they are."""

from __future__ import annotations

import numpy as np

from simplicit.studies.peers.base import Array, Layer, Mask, Peer


def support(layer: Layer) -> Mask:
    """Return which weights stay, (r, k)."""
    return layer.largest_in_rows(np.abs(layer.weights) * np.sqrt(layer.gram.diagonal()))


def _prune(layer: Layer) -> Array:
    return layer.weights * support(layer)


WANDA = Peer("Wanda", _prune, fits=False, source="Sun et al., A Simple and Effective Pruning Approach, ICLR 2024")
