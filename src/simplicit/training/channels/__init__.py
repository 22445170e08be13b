"""A network's channels as rows: one row problem for each output channel over all its patches, a provider of layers.

``folding`` makes weights plain that are computed at every call. ``uses`` finds where a graph multiplies by weights, in
which of the ``forms``, and ``after`` what follows; ``finding`` says which of them are ``layers``, ``choice`` what a
user wants of these, and ``patterns`` which of their columns are in an N:M pattern together. ``patches`` unfolds what
kernels see, ``masks`` say where padding is, and ``walk`` carries baseline and student through the graph side by side,
on ``samples`` in batches, with what it keeps in a ``store``, in memory or on disk; ``memory`` says beforehand how much.
``statistics`` sums up what the rows need, ``moments`` makes problems of it, ``sensitivity`` says how far errors move
the outputs, by ``derivatives`` that are taken in ``stages``; ``norms`` corrects constants, ``sweep`` is one pass over
the network, ``outputs`` lets all layers answer for what it puts out together, and ``provider`` gives all that to
:class:`~simplicit.training.training.Training`.
"""

from __future__ import annotations

from simplicit.training.channels.choice import EVERYTHING, Choice
from simplicit.training.channels.finding import (
    all_layers,
    are_all_weights,
    channel_layers,
    check_tied,
    has_convolutions,
    has_tied_rows,
)
from simplicit.training.channels.folding import folded
from simplicit.training.channels.memory import Needs
from simplicit.training.channels.patterns import described
from simplicit.training.channels.provider import ChannelProvider, ChannelStudent
from simplicit.training.channels.samples import Samples, in_slices
from simplicit.training.channels.store import Store

__all__ = [
    "EVERYTHING",
    "ChannelProvider",
    "ChannelStudent",
    "Choice",
    "Needs",
    "Samples",
    "Store",
    "all_layers",
    "are_all_weights",
    "channel_layers",
    "check_tied",
    "described",
    "folded",
    "has_convolutions",
    "has_tied_rows",
    "in_slices",
]
