"""What an implicit model is: its parts, its equilibrium, its well-posedness, its storage."""

from simplicit.implicit.activation import Activation
from simplicit.implicit.algebra import added, composed
from simplicit.implicit.bits import StorageBits
from simplicit.implicit.composite import GatheredConvMap, SumMap
from simplicit.implicit.convolution import ConvMap
from simplicit.implicit.equilibrium import Equilibrium, Linearisation, adjoint, equilibrium, linearise
from simplicit.implicit.gather import GatherMap
from simplicit.implicit.maps import CsrMap, LinearMap
from simplicit.implicit.model import ImplicitModel, StateGroup
from simplicit.implicit.onnx_export import OnnxFile, export_onnx
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
    "OnnxFile",
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
    "export_onnx",
    "linearise",
    "load",
    "perron_frobenius",
    "rescale",
    "save",
    "scaling_vector",
]
