"""Tied rows: retraining of networks with convolutions, one row problem per output channel over all its patches.

``layers`` finds them in the graph, ``patches`` unfolds what they see, ``walk`` carries baseline and student through the
graph side by side, ``statistics`` sums up what the rows need, ``rows`` makes problems of it, ``worth`` says what an
error is worth, ``norms`` corrects constants; ``sweep`` is one pass over the network, ``training`` decides what stays,
and ``driver`` runs all that for :func:`simplicit.fit`.
"""

from __future__ import annotations

from simplicit.training.channels.driver import fit_tied
from simplicit.training.channels.layers import TiedLayer, has_convolutions, tied_layers
from simplicit.training.channels.result import TiedResult

__all__ = ["TiedLayer", "TiedResult", "fit_tied", "has_convolutions", "tied_layers"]
