"""A network's channels as rows: one row problem for each output channel over all its patches, a provider of layers.

``layers`` finds the layers in the graph, ``patches`` unfolds what they see, ``walk`` carries baseline and student
through the graph side by side, ``statistics`` sums up what the rows need, ``moments`` makes problems of it,
``sensitivity`` says how far errors move the outputs, ``norms`` corrects constants; ``sweep`` is one pass over the
network, and ``provider`` gives all that to :class:`~simplicit.training.training.Training`.
"""

from __future__ import annotations

from simplicit.training.channels.layers import channel_layers, check_tied, has_convolutions, in_layers
from simplicit.training.channels.provider import ChannelProvider, ChannelStudent

__all__ = [
    "ChannelProvider",
    "ChannelStudent",
    "channel_layers",
    "check_tied",
    "has_convolutions",
    "in_layers",
]
