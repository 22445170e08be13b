r"""``refit``: values by ridge on a support that is fixed.

A penalty that makes zeros shrinks what it keeps. Once the support is chosen that has no use any more, and the values
are those of ridge towards the baseline's weights (:mod:`~simplicit.training.ridge`), under the ball where there is one.
It is a convex row problem like those before it, and certified like them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.rows import Ball, NoPenalty, Solution
from simplicit.solve.front import solve_rows
from simplicit.training.ridge import Ridge

__all__ = ["refit"]


def refit(
    problem: Ridge, support: npt.NDArray[np.bool_], *, weight: float, ball: Ball | None, arguments: Mapping[str, Any]
) -> Solution:
    """The rows of a stage on a given support.

    Parameters
    ----------
    problem : Ridge
    support : (r, d) array of bool
    weight : float
        λ, a factor on the objective.
    ball : Ball, optional
    arguments : mapping
        More of :func:`simplicit.solve_rows`: tolerance, executor, start.
    """
    features, targets = problem.samples()
    solution = solve_rows(
        features, targets, penalty=NoPenalty(), weight=weight, ball=ball, support=support, **arguments
    )
    return replace(solution, intercepts=problem.constants(solution.coefficients))
