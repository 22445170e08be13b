"""From a trained torch network to its exact implicit model and to its states, and back to the network.

The way in is :func:`capture`, or :func:`capture_graph` for the graph alone; the way back is
:mod:`simplicit.network.back`.
"""

from simplicit.network.back import NetworkTemplate, with_constants
from simplicit.network.batches import gathered, in_parts
from simplicit.network.capture import Capture, capture, extract_states, from_torch, weight_count
from simplicit.network.cells import CellModel, from_cell
from simplicit.network.graph import NetworkGraph, capture_graph
from simplicit.network.prepare import TrainingModeWarning
from simplicit.network.states import States
from simplicit.network.zeros import KeptZeros, keep_zeros

__all__ = [
    "Capture",
    "CellModel",
    "KeptZeros",
    "NetworkGraph",
    "NetworkTemplate",
    "States",
    "TrainingModeWarning",
    "capture",
    "capture_graph",
    "extract_states",
    "from_cell",
    "from_torch",
    "gathered",
    "in_parts",
    "keep_zeros",
    "weight_count",
    "with_constants",
]
