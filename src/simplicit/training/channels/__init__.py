"""A network's channels as rows: one row problem for each output channel over all its patches, a provider of layers.

``uses`` finds where a graph multiplies by weights, in which of the ``forms``, and ``after`` what follows; ``finding``
says which of them are ``layers``, and ``choice`` what a user wants of these. ``patches`` unfolds what kernels see,
``masks`` say where padding is, and ``walk`` carries baseline and student through the graph side by side. ``statistics``
sums up what the rows need, ``moments`` makes problems of it, ``sensitivity`` says how far errors move the outputs,
``norms`` corrects constants; ``sweep`` is one pass over the network, and ``provider`` gives all that to
:class:`~simplicit.training.training.Training`.
"""

from __future__ import annotations

from simplicit.training.channels.choice import EVERYTHING, Choice
from simplicit.training.channels.finding import (
    channel_layers,
    check_tied,
    has_convolutions,
    has_tied_rows,
    in_layers,
)
from simplicit.training.channels.provider import ChannelProvider, ChannelStudent

__all__ = [
    "EVERYTHING",
    "ChannelProvider",
    "ChannelStudent",
    "Choice",
    "channel_layers",
    "check_tied",
    "has_convolutions",
    "has_tied_rows",
    "in_layers",
]
