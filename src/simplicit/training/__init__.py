"""State-driven training: from a network's own states to a sparse, well-posed implicit model, by convex optimisation.

``options`` says what can be chosen, ``statedata`` gathers the states in the units of Theorem 2.4, ``structure`` and
``normalize`` fix the admissible coefficients and the units of the penalty, ``matching`` solves problem (7) once,
``strength`` searches the penalty for a wanted sparsity, ``fit`` runs them in that order, ``result`` is what comes out.
``robust`` trains for robustness instead of ``matching``, each layer by ``onesided``; ``presets`` are options for a
purpose.
"""

from __future__ import annotations

from simplicit.training.fit import fit
from simplicit.training.options import FitOptions
from simplicit.training.presets import PRESETS, Preset, preset_of
from simplicit.training.result import FitResult, RowFigures

__all__ = ["PRESETS", "FitOptions", "FitResult", "Preset", "RowFigures", "fit", "preset_of"]
