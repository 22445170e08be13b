"""State-driven training: from a network's own states to a sparse, well-posed network, by convex optimisation.

``fit`` is what a user calls with one of the ``recipes``. A recipe opens a provider of layers, ``states`` or
``channels``, and lets a :class:`~simplicit.training.training.Training` go through it: ``problem`` says what rows are
fitted to, ``units`` in which units a penalty sees them, ``strength`` searches the strength of a penalty that gives a
wanted sparsity, and ``support`` selects the weights that stay. ``robust`` trains for robustness. ``result`` is what
comes out.
"""

from __future__ import annotations

from simplicit.training.doubts import DoubtfulInputsWarning
from simplicit.training.figures import LayerFigures, RowFigures
from simplicit.training.fit import fit
from simplicit.training.problem import Ridge
from simplicit.training.recipes import RECIPES, Certified, Matching, Recipe, Robust, Sparse, Structured
from simplicit.training.result import FitResult
from simplicit.training.support.pattern import PatternFigures

__all__ = [
    "RECIPES",
    "Certified",
    "DoubtfulInputsWarning",
    "FitResult",
    "LayerFigures",
    "Matching",
    "PatternFigures",
    "Recipe",
    "Ridge",
    "Robust",
    "RowFigures",
    "Sparse",
    "Structured",
    "fit",
]
