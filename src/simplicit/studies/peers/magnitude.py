"""Pruning by size: the largest weights of the layer stay as they are."""

from __future__ import annotations

import numpy as np

from simplicit.studies.peers.base import Array, Layer, Peer
from simplicit.training.support.thresholding import keep_largest


def _prune(layer: Layer) -> Array:
    return layer.weights * keep_largest(np.abs(layer.weights), layer.count)


MAGNITUDE = Peer(
    "magnitude", _prune, fits=False, source="Han et al., Learning both Weights and Connections, 2015", by_size=True
)
