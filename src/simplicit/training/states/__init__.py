"""Every state of a model as a row: problem (7) with its structures and its ball, a provider of layers.

``data`` gathers the states in the units of Theorem 2.4, ``chosen`` those of some groups, ``structure`` says which
coefficients are admissible, ``stages`` in which order rows are solved and on which states, ``sensitivity`` how far
errors move the outputs, and ``provider`` gives all that to :class:`~simplicit.training.training.Training`.
"""

from __future__ import annotations

from simplicit.training.states.data import StateData, state_data
from simplicit.training.states.loops import LoopProvider, LoopStudent
from simplicit.training.states.provider import StateProvider, StateStudent, network_of
from simplicit.training.states.structure import STRUCTURES, ball_of, check_triangular, structure_of

__all__ = [
    "STRUCTURES",
    "LoopProvider",
    "LoopStudent",
    "StateData",
    "StateProvider",
    "StateStudent",
    "ball_of",
    "check_triangular",
    "network_of",
    "state_data",
    "structure_of",
]
