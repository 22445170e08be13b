"""Pruning methods to compare with, each written from its paper, all on the same calibration samples.

A new one is a file with a :class:`Peer` and a line here.
"""

from __future__ import annotations

from simplicit.experiments.peers.alps import ALPS
from simplicit.experiments.peers.base import Layer, Network, Peer
from simplicit.experiments.peers.magnitude import MAGNITUDE
from simplicit.experiments.peers.sparsegpt import SPARSEGPT
from simplicit.experiments.peers.tied import TiedNetwork
from simplicit.experiments.peers.wanda import WANDA

__all__ = ["PEERS", "Layer", "Network", "Peer", "TiedNetwork"]

#: The peers by name.
PEERS: dict[str, Peer] = {
    "magnitude": MAGNITUDE,
    "wanda": WANDA,
    "sparsegpt": SPARSEGPT,
    "alps": ALPS,
}
