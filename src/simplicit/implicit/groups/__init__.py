"""Groups of states: what each one is called, how large it is, and the function φ that it has."""

from simplicit.implicit.groups.base import (
    INPUT,
    KINDS,
    OUTPUT,
    StateGroup,
    first_block,
    per_state,
    pre_slices_of,
    slices_of,
)
from simplicit.implicit.groups.blocks import Block
from simplicit.implicit.groups.elementwise import ACTIVATIONS, EVALUATION_ULPS, Activation, Definition

__all__ = [
    "ACTIVATIONS",
    "EVALUATION_ULPS",
    "INPUT",
    "KINDS",
    "OUTPUT",
    "Activation",
    "Block",
    "Definition",
    "StateGroup",
    "first_block",
    "per_state",
    "pre_slices_of",
    "slices_of",
]
