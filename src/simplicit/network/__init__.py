"""From a trained torch network to its exact implicit model, and to its states."""

from simplicit.network.capture import Capture, capture, capture_of, extract_states, from_torch, weight_count
from simplicit.network.prepare import TrainingModeWarning
from simplicit.network.states import States

__all__ = [
    "Capture",
    "States",
    "TrainingModeWarning",
    "capture",
    "capture_of",
    "extract_states",
    "from_torch",
    "weight_count",
]
