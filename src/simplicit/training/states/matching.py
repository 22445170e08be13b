r"""State and output matching: problem (7), solved once at one strength of the penalty.

    min over M   f(M) + λ₁‖Z − XAᵀ − UBᵀ‖² + λ₂‖Ŷ − XCᵀ − UDᵀ‖²   s.t.  ‖A‖∞ ≤ κ,  M zero off its structure

M is filled stage by stage (:mod:`~simplicit.training.states.propagate`); a stage is some rows, on some states. Its
support is that of the penalty's solution, or that of :mod:`~simplicit.training.support.refine`; its values are the
penalty's, or those of :mod:`~simplicit.training.refit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, vstack

from simplicit.implicit import ImplicitModel
from simplicit.rows import Ball, PiecewiseQuadratic, Solution
from simplicit.solve.front import solve_rows
from simplicit.solve.options import RunOptions
from simplicit.training.normalize import NORMALIZATIONS, Units
from simplicit.training.options import FitOptions
from simplicit.training.refit import refit
from simplicit.training.ridge import Ridge
from simplicit.training.states.propagate import Stage, features_on, stages_of
from simplicit.training.states.statedata import StateData
from simplicit.training.states.structure import STRUCTURES, Mask
from simplicit.training.support.allocation import count_of, importance, spread
from simplicit.training.support.bounds import with_support_gap
from simplicit.training.support.refine import Elimination, refined

__all__ = ["Match", "Matching"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Match:
    """A solved problem (7): the solution of each stage, and the model that they make.

    ``exchanged`` is how many weights the exchanges of the refinement placed elsewhere.
    """

    strength: float
    solutions: tuple[Solution, ...]
    order: npt.NDArray[np.intp]  # for each row of M, its place among the rows of the solutions in turn
    model: ImplicitModel
    exchanged: int = 0

    @property
    def nnz(self) -> int:
        """Weights that are not zero."""
        return self.model.nnz


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
        return stages_of(self.data, self.options)

    @cached_property
    def penalty(self) -> PiecewiseQuadratic:
        """The penalty on all rows and columns of M."""
        return self.options.penalty.spread(self.data.n_rows, self.data.n_columns)

    @cached_property
    def prior(self) -> csr_array:
        """What ridge draws towards: the baseline's weights times the anchor, (n + q, n + p)."""
        return csr_array(self.options.anchor * self.data.model.matrix)

    @property
    def weight_count(self) -> int:
        """N₀."""
        return self.data.weight_count

    def staged(self, stage: str) -> Matching:
        """The same, with progress that says which stage it is of."""
        return replace(self, run=self.run.staged(stage))

    def solve(self, strength: float = 1.0, start: Match | None = None) -> Match:
        """Solve with the penalty multiplied by ``strength``, warm-started from another match."""
        solutions: list[Solution] = []
        starts = (None,) * len(self.stages) if start is None else start.solutions
        for stage, warm in zip(self.stages, starts, strict=True):
            features = self._features(stage, solutions)
            solution = self._penalised(stage, features, strength, warm)
            if self.options.refit:
                support = solution.coefficients.toarray() != 0
                values = self._refitted(stage, self._ridge(stage, features), support, solution)
                solution = replace(values, earlier=(*solution.earlier, replace(solution, earlier=())))
            solutions.append(solution)
        return self._match(strength, solutions)

    def refine(self) -> Match:
        """The support by elimination, to the wanted number of weights exactly, and the values on it."""
        pilot, scales, workers = self.pilot, importance(self.data), self.run.n_workers
        of_rows = np.concatenate([np.arange(self.data.n_rows)[stage.rows] for stage in self.stages])
        paths = [path for stage in pilot for path in stage.paths]
        count = count_of(self.data.weight_count, self.options.sparsity, sum(len(path.order) for path in paths))
        ends = np.cumsum([len(stage.paths) for stage in pilot])
        counts = [int(part.sum()) for part in np.split(spread(paths, scales[of_rows], count), ends[:-1])]
        solutions, exchanged = list[Solution](), 0
        for stage, known, kept in zip(self.stages, pilot, counts, strict=True):
            features = self._features(stage, solutions)
            if features is not self.data.features:
                known = known.on(self._ridge(stage, features), workers)
            found = refined(known, scales[stage.rows], kept, workers)
            exchanged += found.exchanged
            if self.options.refit:
                values = self._refitted(stage, known.problem, found.support, found.coefficients)
                solutions.append(with_support_gap(values, known.problem, stage.weight))
            else:
                solutions.append(self._penalised(stage, features, 1.0, None, found.support))
        return replace(self._match(1.0, solutions), exchanged=exchanged)

    @cached_property
    def pilot(self) -> list[Elimination[Ridge]]:
        """The elimination of every stage on the baseline's states, from which the counts come."""
        workers = self.run.n_workers
        return [
            Elimination.of(self._ridge(stage, self.data.features), candidates, workers)
            for stage, candidates in zip(self.stages, self._candidates(), strict=True)
        ]

    def _candidates(self) -> list[Mask]:
        """What the refinement may keep, stage by stage: the support of the penalty's solution on the baseline's states;
        all that is admissible, if the penalty makes no zeros."""
        if not bool(self.penalty.kink.any()):
            return [self.structure[stage.rows] for stage in self.stages]
        return [
            self._penalised(stage, self.data.features, 1.0, None).coefficients.toarray() != 0 for stage in self.stages
        ]

    def _features(self, stage: Stage, solutions: Sequence[Solution]) -> Array:
        """Of a stage that follows those solved so far."""
        return features_on(self.data, self._model(solutions) if stage.own_states and solutions else None)

    def _ridge(self, stage: Stage, features: Array) -> Ridge:
        rows, data, options = stage.rows, self.data, self.options
        targets, support = data.targets[:, rows], self.structure[rows]
        prior = self.prior[rows].toarray() * support
        return Ridge(features, targets, prior, options.ridge, support, data.intercept)

    def _arguments(self, stage: Stage) -> Mapping[str, Any]:
        options = self.options
        common = {"tol": options.tol, "block_rows": options.block_rows, "throw": options.throw}
        return common | self.run.staged(stage.name).arguments

    def _ball(self, stage: Stage) -> Ball | None:
        kappa = self.options.kappa
        return Ball(kappa, slice(0, self.data.n_states)) if stage.bounded and kappa else None

    def _refitted(self, stage: Stage, problem: Ridge, support: Mask, start: Solution | Array) -> Solution:
        arguments = {**self._arguments(stage), "warm_start": start}
        return refit(problem, support, weight=stage.weight, ball=self._ball(stage), arguments=arguments)

    def _penalised(
        self, stage: Stage, features: Array, strength: float, warm: Solution | None, support: Mask | None = None
    ) -> Solution:
        rows, (target_units, column_units) = stage.rows, self.units
        penalty = self.penalty.in_units(strength, target_units, column_units)
        return solve_rows(
            features,
            self.data.targets[:, rows],
            penalty=penalty.select(np.arange(self.data.n_rows)[rows], np.arange(self.data.n_columns)),
            weight=stage.weight,
            ball=self._ball(stage),
            support=self.structure[rows] if support is None else support,
            intercept=self.data.intercept,
            rounds=self.options.rounds,
            warm_start=warm,
            **self._arguments(stage),
        )

    def _match(self, strength: float, solutions: Sequence[Solution]) -> Match:
        order = np.argsort(np.concatenate([np.arange(self.data.n_rows)[stage.rows] for stage in self.stages]))
        return Match(strength, tuple(solutions), order, self._model(solutions))

    def _model(self, solutions: Sequence[Solution]) -> ImplicitModel:
        """The model of the stages solved so far; the other rows are zero."""
        n, bias, order = self.data.n_states, np.zeros(self.data.n_rows), np.arange(self.data.n_rows)
        solved = np.concatenate([order[stage.rows] for stage, _ in zip(self.stages, solutions, strict=False)])
        bias[solved] = np.concatenate([solution.intercepts for solution in solutions])
        missing = np.setdiff1d(order, solved)
        parts = [*(solution.coefficients for solution in solutions), csr_array((len(missing), self.data.n_columns))]
        M = csr_array(vstack(parts, format="csr")[np.argsort(np.concatenate([solved, missing]))])
        return self.data.model.with_matrix(M, state_bias=bias[:n], output_bias=bias[n:])
