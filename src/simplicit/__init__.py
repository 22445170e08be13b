"""simplicit: trained PyTorch networks as sparse, robust, well-posed implicit models, by certified convex optimisation.

The mathematics is that of State-driven Implicit Modeling: a network becomes x = φ(Ax + Bu), y = Cx + Du exactly
(:func:`from_torch`), and M = [[A, B], [C, D]] is retrained row by row from the network's own states (:func:`fit`).
"""

from __future__ import annotations

from simplicit.errors import ConvergenceError, InputError, SimplicitError
from simplicit.executors import Processes, Ray, Serial, Threads
from simplicit.implicit import (
    ImplicitModel,
    collatz_wielandt,
    equilibrium,
    load,
    perron_frobenius,
    rescale,
    to_torch,
)
from simplicit.network import KeptZeros, extract_states, from_cell, from_torch, keep_zeros, weight_count
from simplicit.robustness import accuracy, attack, certify, fgsm, pgd
from simplicit.rows import L1, Ball, BasisPursuit, ElasticNet, Gram, NoPenalty, Perspective, Solution
from simplicit.runtime.accelerate import accelerate
from simplicit.runtime.compaction import compact
from simplicit.runtime.files import SavedWeights, load_weights, save
from simplicit.runtime.onnx import export_onnx
from simplicit.solve import beta_max, merge_journals, solve_part, solve_path, solve_rows
from simplicit.training import Certified, FitResult, Matching, Ridge, Robust, Sparse, Structured, fit

__version__ = "0.1.0"

__all__ = [
    "L1",
    "Ball",
    "BasisPursuit",
    "Certified",
    "ConvergenceError",
    "ElasticNet",
    "FitResult",
    "Gram",
    "ImplicitModel",
    "InputError",
    "KeptZeros",
    "Matching",
    "NoPenalty",
    "Perspective",
    "Processes",
    "Ray",
    "Ridge",
    "Robust",
    "SavedWeights",
    "Serial",
    "SimplicitError",
    "Solution",
    "Sparse",
    "Structured",
    "Threads",
    "accelerate",
    "accuracy",
    "attack",
    "beta_max",
    "certify",
    "collatz_wielandt",
    "compact",
    "equilibrium",
    "export_onnx",
    "extract_states",
    "fgsm",
    "fit",
    "from_cell",
    "from_torch",
    "keep_zeros",
    "load",
    "load_weights",
    "merge_journals",
    "perron_frobenius",
    "pgd",
    "rescale",
    "save",
    "solve_part",
    "solve_path",
    "solve_rows",
    "to_torch",
    "weight_count",
]
