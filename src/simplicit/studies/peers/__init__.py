"""Pruning methods to compare with, each written from its paper, all on the same calibration samples.

A new one is a file with a :class:`Peer` and a line here.
"""

from __future__ import annotations

from simplicit.studies.peers.alps import ALPS
from simplicit.studies.peers.base import Layer, Peer
from simplicit.studies.peers.magnitude import MAGNITUDE
from simplicit.studies.peers.network import Network
from simplicit.studies.peers.sparsegpt import SPARSEGPT
from simplicit.studies.peers.sparseswaps import SPARSESWAPS
from simplicit.studies.peers.wanda import WANDA
from simplicit.training.support.pattern import Pattern

__all__ = ["PEERS", "Layer", "Network", "Pattern", "Peer"]

#: The peers by name; one that is added here is part of the frontier.
PEERS: dict[str, Peer] = {
    "magnitude": MAGNITUDE,
    "wanda": WANDA,
    "sparseswaps": SPARSESWAPS,
    "sparsegpt": SPARSEGPT,
    "alps": ALPS,
}
