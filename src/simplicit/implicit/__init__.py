"""What an implicit model is: its parts, its equilibrium, its well-posedness, its storage."""

from simplicit.implicit.activation import Activation
from simplicit.implicit.bits import StorageBits
from simplicit.implicit.equilibrium import Equilibrium, Linearisation, adjoint, equilibrium, linearise
from simplicit.implicit.maps import CsrMap, LinearMap
from simplicit.implicit.model import ImplicitModel, StateGroup
from simplicit.implicit.onnx_export import OnnxFile, export_onnx
from simplicit.implicit.rescaling import rescale, scaling_vector
from simplicit.implicit.spectral import PerronFrobenius
from simplicit.implicit.storage import load, save
from simplicit.implicit.wellposed import collatz_wielandt, contraction_vector, perron_frobenius

__all__ = [
    "Activation",
    "CsrMap",
    "Equilibrium",
    "ImplicitModel",
    "LinearMap",
    "Linearisation",
    "OnnxFile",
    "PerronFrobenius",
    "StateGroup",
    "StorageBits",
    "adjoint",
    "collatz_wielandt",
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
