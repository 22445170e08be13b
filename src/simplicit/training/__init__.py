"""State-driven training: from a network's own states to a sparse, well-posed implicit model, by convex optimisation.

``options`` says what can be chosen and ``presets`` what for, ``statedata`` gathers the states in the units of Theorem
2.4 (``chosen``: of some groups), ``structure`` and ``normalize`` fix the admissible coefficients and the units of the
penalty. ``matching`` solves problem (7) once: ``propagate`` says in which stages and on which states; a support comes
from the penalty, whose ``strength`` is searched for a wanted sparsity, or from ``refine``, by ``elimination`` on the
least-squares problem of ``ridge`` and at one price for a weight, which ``spread`` finds, for tied rows by
``thresholding`` too; values come from the penalty or from ``refit``. ``robust`` trains for robustness instead of
``matching``, each layer by ``onesided``. ``fit`` runs all that, ``result`` is what comes out, ``key`` names it in a
journal. Networks with convolutions go through ``tied``.
"""

from __future__ import annotations

from simplicit.training.channels import TiedResult
from simplicit.training.fit import fit
from simplicit.training.options import FitOptions
from simplicit.training.presets import PRESETS, Preset, preset_of
from simplicit.training.result import FitResult, RowFigures

__all__ = ["PRESETS", "FitOptions", "FitResult", "Preset", "RowFigures", "TiedResult", "fit", "preset_of"]
