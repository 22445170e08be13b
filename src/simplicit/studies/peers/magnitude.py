"""Pruning by size: the largest weights of the layer, or of every group of a pattern, stay as they are."""

from __future__ import annotations

import numpy as np

from simplicit.studies.peers.base import Array, Layer, Peer


def _prune(layer: Layer) -> Array:
    return layer.weights * layer.largest(np.abs(layer.weights))


MAGNITUDE = Peer(
    "magnitude", _prune, fits=False, source="Han et al., Learning both Weights and Connections, 2015", by_size=True
)
