"""What an implicit model is: its parts, its equilibrium, its well-posedness, its storage."""

from simplicit.implicit.activation import Activation
from simplicit.implicit.bits import StorageBits
from simplicit.implicit.equilibrium import Equilibrium, Linearisation, adjoint, equilibrium, linearise
from simplicit.implicit.maps.algebra import added, composed
from simplicit.implicit.maps.base import CsrMap, LinearMap
from simplicit.implicit.maps.composite import GatheredConvMap, SumMap
from simplicit.implicit.maps.convolution import ConvMap
from simplicit.implicit.maps.gather import GatherMap
from simplicit.implicit.model import ImplicitModel, StateGroup
from simplicit.implicit.rescaling import rescale, scaling_vector
from simplicit.implicit.spectral import PerronFrobenius
from simplicit.implicit.storage import load, save
from simplicit.implicit.wellposed import collatz_wielandt, contraction_vector, perron_frobenius

__all__ = [
    "Activation",
    "ConvMap",
    "CsrMap",
    "Equilibrium",
    "GatherMap",
    "GatheredConvMap",
    "ImplicitModel",
    "LinearMap",
    "Linearisation",
    "PerronFrobenius",
    "StateGroup",
    "StorageBits",
    "SumMap",
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
    "save",
    "scaling_vector",
]
