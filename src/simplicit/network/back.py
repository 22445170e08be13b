"""The network with its new weights, of its own class and with its own state_dict keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from simplicit.network.graph import NetworkGraph

__all__ = ["student"]


def student(graph: NetworkGraph, changed: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the network, in evaluation mode, with the graph's new constants in their places.

    Parameters
    ----------
    graph : NetworkGraph
    changed : mapping from placeholder to tensor
    """
    places = {graph.constants[name].data_ptr(): value for name, value in changed.items()}
    network = copy.deepcopy(graph.network)
    pairs = [
        *zip(graph.network.parameters(), network.parameters(), strict=True),
        *zip(graph.network.buffers(), network.buffers(), strict=True),
    ]
    with torch.no_grad():
        for old, new in pairs:
            if old.numel() and old.data_ptr() in places:
                new.copy_(places[old.data_ptr()].reshape(new.shape))
    return network
