r"""State and output matching: problem (7), solved once at one strength of the penalty.

    min over M   f(M) + λ₁‖Z − XAᵀ − UBᵀ‖² + λ₂‖Ŷ − XCᵀ − UDᵀ‖²   s.t.  ‖A‖∞ ≤ κ,  M zero off its structure

M is filled stage by stage; a stage is some rows, on some states. The rows of [A B] come first, on the baseline's
states. The rows of [C D] follow, on the baseline's states too, or, with ``regenerate``, on those of the model made so
far: the states that C will meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from simplicit.implicit import ImplicitModel, equilibrium
from simplicit.rowrun import RunOptions
from simplicit.rows import Ball, PiecewiseQuadratic, Solution
from simplicit.solve import solve_rows
from simplicit.training.normalize import NORMALIZATIONS, Units
from simplicit.training.options import FitOptions
from simplicit.training.statedata import StateData
from simplicit.training.structure import STRUCTURES, Mask

__all__ = ["Match", "Matching", "Stage"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """Some rows of M = [[A, B], [C, D]] that are solved together.

    Attributes
    ----------
    name : str
        For the progress.
    rows : slice
        Among the n + q rows.
    weight : float
        λ₁ or λ₂.
    bounded : bool
        Whether the rows are under the ball ‖A‖∞ ≤ κ.
    regenerate : bool
        Whether the features are the states of the model made by the stages before, not those of the baseline.
    """

    name: str
    rows: slice
    weight: float
    bounded: bool
    regenerate: bool


@dataclass(frozen=True, eq=False)
class Match:
    """A solved problem (7): the solution of each stage, and the model that they make."""

    strength: float
    solutions: tuple[Solution, ...]
    order: npt.NDArray[np.intp]  # for each row of M, its place among the rows of the solutions in turn
    model: ImplicitModel


@dataclass(frozen=True, eq=False)
class Matching:
    """Problem (7) for one baseline, one set of samples and one set of options; :meth:`solve` takes the strength."""

    data: StateData
    options: FitOptions
    run: RunOptions = field(default_factory=RunOptions)

    @cached_property
    def structure(self) -> Mask:
        """Admissible coefficients of M."""
        return STRUCTURES[self.options.structure].admissible(self.data.model)

    @cached_property
    def units(self) -> Units:
        """Units of targets and features in the penalty."""
        return NORMALIZATIONS[self.options.normalize](self.data)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """What is solved, in order; together all rows of M."""
        n, total, options = self.data.n_states, self.data.n_rows, self.options
        outputs = Stage("output rows", slice(n, total), options.lambda2, bounded=False, regenerate=options.regenerate)
        if not n:
            return (outputs,)
        states = Stage("state rows", slice(0, n), options.lambda1, bounded=options.kappa is not None, regenerate=False)
        return (states, outputs)

    def solve(self, strength: float = 1.0, start: Match | None = None) -> Match:
        """Solve with the penalty multiplied by ``strength``, warm-started from another match."""
        solutions: list[Solution] = []
        starts = (None,) * len(self.stages) if start is None else start.solutions
        for stage, warm in zip(self.stages, starts, strict=True):
            features = self.data.features
            if stage.regenerate and solutions:
                states = equilibrium(self._model(solutions), self.data.inputs).states
                features = np.hstack([states, self.data.inputs])
            solutions.append(self._solve(stage, features, strength, warm))
        order = np.argsort(np.concatenate([np.arange(self.data.n_rows)[stage.rows] for stage in self.stages]))
        return Match(strength, tuple(solutions), order, self._model(solutions))

    @cached_property
    def penalty(self) -> PiecewiseQuadratic:
        """The penalty on all rows and columns of M."""
        return self.options.penalty.spread(self.data.n_rows, self.data.n_columns)

    def _solve(self, stage: Stage, features: Array, strength: float, warm: Solution | None) -> Solution:
        rows, options, run = stage.rows, self.options, self.run
        target_units, column_units = self.units
        penalty = self.penalty.in_units(strength, target_units, column_units)
        return solve_rows(
            features,
            self.data.targets[:, rows],
            penalty=penalty.select(np.arange(self.data.n_rows)[rows], np.arange(self.data.n_columns)),
            weight=stage.weight,
            ball=Ball(options.kappa, slice(0, self.data.n_states)) if stage.bounded and options.kappa else None,
            support=self.structure[rows],
            intercept=self.data.intercept,
            rounds=options.rounds,
            tol=options.tol,
            warm_start=warm,
            block_rows=options.block_rows,
            throw=options.throw,
            **run.staged(stage.name).arguments,
        )

    def _model(self, solutions: Sequence[Solution]) -> ImplicitModel:
        """The model of the stages solved so far; the other rows are zero."""
        baseline, n = self.data.model, self.data.n_states
        bias, order = np.zeros(self.data.n_rows), np.arange(self.data.n_rows)
        solved = np.concatenate([order[stage.rows] for stage, _ in zip(self.stages, solutions, strict=False)])
        bias[solved] = np.concatenate([solution.intercepts for solution in solutions])
        missing = np.setdiff1d(order, solved)
        parts = [*(solution.coefficients for solution in solutions), csr_array((len(missing), self.data.n_columns))]
        M = csr_array(vstack(parts, format="csr")[np.argsort(np.concatenate([solved, missing]))])
        return ImplicitModel.from_matrices(
            M[:n, :n],
            M[:n, n:],
            M[n:, :n],
            M[n:, n:],
            activation=baseline.groups,
            state_bias=bias[:n],
            output_bias=bias[n:],
            input_shape=baseline.input_shape,
            output_shape=baseline.output_shape,
        )
