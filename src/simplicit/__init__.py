"""simplicit: trained PyTorch networks as sparse, robust, well-posed implicit models, by certified convex optimisation.

The mathematics is that of State-driven Implicit Modeling: a network becomes x = φ(Ax + Bu), y = Cx + Du exactly
(:func:`from_torch`), and M = [[A, B], [C, D]] is retrained row by row from the network's own states (:func:`fit`).

Importing this takes no time: torch, SciPy and the library itself are loaded at the first use of a name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simplicit._names import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [  # noqa: F405
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


def __getattr__(name: str) -> Any:
    """A public name, or a module of the library such as ``rows``, loaded by this; AttributeError for others."""
    if name in __all__:
        globals()[name] = found = getattr(importlib.import_module("simplicit._names"), name)
        return found
    if not name.startswith("_"):
        module = f"simplicit.{name}"
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    raise AttributeError(f"module 'simplicit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names alone."""
    return [*__all__, "__version__"]
