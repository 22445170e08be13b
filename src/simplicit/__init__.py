"""simplicit: trained PyTorch networks as sparse, robust, well-posed implicit models, by certified convex optimisation.

The mathematics is that of State-driven Implicit Modeling: a network becomes x = φ(Ax + Bu), y = Cx + Du exactly
(:func:`from_torch`), and M = [[A, B], [C, D]] is retrained row by row from the network's own states (:func:`fit`).

Importing this imports torch and SciPy; what else a name needs is loaded at its first use. The command line, whose help
and version do without these two, loads them when they are used as well.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
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
        globals()[name] = found = getattr(importlib.import_module(_home(name)), name)
        return found
    if not name.startswith("_"):
        module = f"simplicit.{name}"
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    raise AttributeError(f"module 'simplicit' has no attribute {name!r}")


def _home(name: str) -> str:
    """The module of a public name: ``_names`` says it in words, and imports all of them at once."""
    lines = Path(__file__).with_name("_names.py").read_text(encoding="utf-8").splitlines()
    return next(line.split()[1] for line in lines if line.endswith(f" import {name} as {name}"))


def __dir__() -> list[str]:
    """The public names alone."""
    return [*__all__, "__version__"]


def _is_command() -> bool:
    """Whether the program is the command line: the script ``simplicit``, or ``python -m simplicit``.

    While ``-m`` looks for its module the name of the program is ``-m`` itself.
    """
    program = next(iter(getattr(sys, "argv", [])), "")
    return program == "-m" or Path(program).stem == "simplicit"


if not _is_command():
    for needed in ("torch", "scipy.sparse"):
        importlib.import_module(needed)
