"""From a trained torch network to its exact implicit model, and to its states."""

from simplicit.baseline.capture import Capture, capture, capture_of, extract_states, from_torch, weight_count
from simplicit.baseline.network import TrainingModeWarning
from simplicit.baseline.states import States

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
