"""What an implicit model is: its parts, its equilibrium, its well-posedness, its storage."""

from simplicit.implicit.bits import StorageBits
from simplicit.implicit.equations import OutputEquation, StateEquation
from simplicit.implicit.equilibrium import Equilibrium, Linearisation, adjoint, equilibrium, linearise
from simplicit.implicit.groups import Activation, Block, StateGroup
from simplicit.implicit.inputs import InputLayout, InputSpec
from simplicit.implicit.maps import (
    ConvMap,
    CsrMap,
    GatheredMap,
    GatherMap,
    LinearMap,
    RepeatedMap,
    SumMap,
    TransposedMap,
    added,
    composed,
)
from simplicit.implicit.model import ImplicitModel
from simplicit.implicit.module import ImplicitModule, to_torch
from simplicit.implicit.rescaling import rescale, scaling_vector
from simplicit.implicit.spectral import PerronFrobenius
from simplicit.implicit.storage import load, save
from simplicit.implicit.wellposed import collatz_wielandt, contraction_vector, perron_frobenius, row_norm

__all__ = [
    "Activation",
    "Block",
    "ConvMap",
    "CsrMap",
    "Equilibrium",
    "GatherMap",
    "GatheredMap",
    "ImplicitModel",
    "ImplicitModule",
    "InputLayout",
    "InputSpec",
    "LinearMap",
    "Linearisation",
    "OutputEquation",
    "PerronFrobenius",
    "RepeatedMap",
    "StateEquation",
    "StateGroup",
    "StorageBits",
    "SumMap",
    "TransposedMap",
    "added",
    "adjoint",
    "collatz_wielandt",
    "composed",
    "contraction_vector",
    "equilibrium",
    "linearise",
    "load",
    "perron_frobenius",
    "rescale",
    "row_norm",
    "save",
    "scaling_vector",
    "to_torch",
]
