r"""Problem (7) for tied rows: which weights stay, and their values, one pass over the network.

With ``refine`` the support comes from backward elimination, as in :mod:`simplicit.training.support.refine`: a pilot on
the baseline's states gives every row its path of prices; one price for a weight in the whole network, in units of what
a channel's error is worth (:mod:`~simplicit.training.channels.sensitivity`), says how many each layer keeps, exactly;
then every layer is eliminated anew, and thresholded (:mod:`simplicit.training.support.thresholding`), on the inputs
that the student has there. All least squares count positions by what an error there is worth. Otherwise the support is
that of the penalty's solution, with all positions alike, as (7) has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from simplicit.network.graph import NetworkGraph
from simplicit.rows import NoPenalty, PiecewiseQuadratic, Solution
from simplicit.solve.front import solve_rows
from simplicit.solve.options import RunOptions
from simplicit.training.channels.layers import TiedLayer, nodes_before
from simplicit.training.channels.rows import TiedProblem
from simplicit.training.channels.sensitivity import Worth, worth
from simplicit.training.channels.statistics import Statistics
from simplicit.training.channels.sweep import Sweep
from simplicit.training.normalize import STATE_COLUMN_WEIGHT
from simplicit.training.options import FitOptions
from simplicit.training.support.allocation import count_of, spread
from simplicit.training.support.bounds import with_support_gap
from simplicit.training.support.elimination import Path
from simplicit.training.support.refine import Elimination, refined

__all__ = ["TiedMatch", "TiedTraining"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TiedMatch:
    """A solved problem (7) of tied rows.

    Attributes
    ----------
    strength : float
    solutions : mapping from the names of the layers to the solutions of their groups of channels
    changed : mapping from placeholder to tensor
        What is new in the graph.
    errors : mapping from the names of the layers to ‖target − fitted‖/‖target‖
    exchanged : int
        Weights placed elsewhere by exchanges.
    """

    strength: float
    solutions: Mapping[str, tuple[Solution, ...]]
    changed: Mapping[str, Tensor]
    errors: Mapping[str, float]
    exchanged: int = 0

    @property
    def nnz(self) -> int:
        """Weights that are not zero."""
        return sum(solution.coefficients.nnz for groups in self.solutions.values() for solution in groups)


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a group of channels may keep, (r, d), and the paths of its rows on the baseline's states."""

    admitted: Mask
    paths: Sequence[Path]


@dataclass(frozen=True, eq=False)
class TiedTraining:
    """Problem (7) of one graph, its samples and one set of options."""

    graph: NetworkGraph
    layers: list[TiedLayer]
    batches: list[Tensor]
    options: FitOptions
    run: RunOptions = field(default_factory=RunOptions)

    @property
    def weight_count(self) -> int:
        """N₀."""
        return sum(layer.size for layer in self.layers)

    @cached_property
    def sweep(self) -> Sweep:
        """How the layers are gone through."""
        options = self.options
        known = self.worth if options.refine else {}
        return Sweep(
            self.graph,
            self.layers,
            self.batches,
            own=options.propagate,
            own_output=options.regenerate,
            omegas={name: one.positions for name, one in known.items() if one.positions is not None},
        )

    @cached_property
    def on_inputs(self) -> set[TiedLayer]:
        """The layers that see the network's input through no other layer."""
        nodes = {layer.node for layer in self.layers}
        return {layer for layer in self.layers if not any(node in nodes for node in nodes_before(layer.source))}

    @property
    def penalty(self) -> PiecewiseQuadratic:
        """The penalty on a single weight."""
        return self.options.penalty.spread(1, 1)

    def has_zeros(self) -> bool:
        """Whether the penalty makes any."""
        return bool(self.penalty.kink.any())

    def staged(self, stage: str) -> TiedTraining:
        """The same, with progress that says which stage it is of."""
        return replace(self, run=self.run.staged(stage))

    def solve(self, strength: float = 1.0, start: TiedMatch | None = None) -> TiedMatch:
        """Solve with the penalty multiplied by ``strength``, warm-started from another match."""
        solutions: dict[str, tuple[Solution, ...]] = {}

        def solver(layer: TiedLayer, statistics: Statistics) -> Array:
            warm = (None,) * layer.groups if start is None else start.solutions[layer.name]
            found = []
            for group in range(layer.groups):
                solution = self._penalised(layer, statistics, group, strength, warm[group])
                if self.options.refit:
                    support = solution.coefficients.toarray() != 0
                    values = self._refitted(layer, self._ridge(layer, statistics, group), support, solution)
                    solution = replace(values, earlier=(*solution.earlier, replace(solution, earlier=())))
                found.append(solution)
            solutions[layer.name] = tuple(found)
            return np.stack([solution.coefficients.toarray() for solution in found])

        changed, errors = self.sweep.run(solver)
        return TiedMatch(strength, solutions, changed, errors)

    def refine(self) -> TiedMatch:
        """The support by elimination, to the wanted number of weights exactly, and the values on it."""
        counts, workers = self.counts, self.run.n_workers
        solutions: dict[str, tuple[Solution, ...]] = {}
        exchanged = 0

        def solver(layer: TiedLayer, statistics: Statistics) -> Array:
            nonlocal exchanged
            problems = [self._ridge(layer, statistics, group) for group in range(layer.groups)]
            # Only what the elimination on the baseline's states had for candidates.
            known = [
                Elimination.of(problem, earlier.admitted, workers)
                for problem, earlier in zip(problems, self.pilot[layer.name], strict=True)
            ]
            found = []
            scales = self.worth[layer.name].channels
            for group, count in enumerate(self._group_counts(known, scales, counts[layer.name])):
                part = np.array_split(scales, layer.groups)[group]
                result = refined(known[group], part, count, workers, dense=statistics.weights[group])
                exchanged += result.exchanged
                if self.options.refit:
                    values = self._refitted(layer, problems[group], result.support, result.coefficients)
                    found.append(with_support_gap(values, problems[group], self._weight(layer)))
                else:
                    found.append(self._penalised(layer, statistics, group, 1.0, None, result.support))
            solutions[layer.name] = tuple(found)
            return np.stack([solution.coefficients.toarray() for solution in found])

        changed, errors = self.sweep.run(solver)
        return TiedMatch(1.0, solutions, changed, errors, exchanged)

    @cached_property
    def worth(self) -> dict[str, Worth]:
        """What errors are worth, by the names of the layers."""
        return worth(self.graph, self.layers, self.batches)

    @cached_property
    def pilot(self) -> dict[str, list[Candidates]]:
        """The elimination of every layer on the baseline's states, group by group."""
        workers = self.run.n_workers
        result: dict[str, list[Candidates]] = {}
        for layer, statistics in self.sweep.statistics():
            result[layer.name] = []
            for group in range(layer.groups):
                problem = self._ridge(layer, statistics, group)
                admitted = problem.support
                if self.has_zeros():
                    solution = self._penalised(layer, statistics, group, 1.0, None)
                    admitted = solution.coefficients.toarray() != 0
                result[layer.name].append(Candidates(admitted, Elimination.of(problem, admitted, workers).paths))
        return result

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many weights each layer keeps."""
        paths = [path for layer in self.layers for one in self.pilot[layer.name] for path in one.paths]
        scales = np.concatenate([self.worth[layer.name].channels for layer in self.layers])
        available = sum(len(path.order) for path in paths)
        kept = spread(paths, scales, count_of(self.weight_count, self.options.sparsity, available))
        ends = np.cumsum([layer.rows for layer in self.layers])[:-1]
        parts = zip(self.layers, np.split(kept, ends), strict=True)
        return {layer.name: int(part.sum()) for layer, part in parts}

    def _group_counts(self, known: list[Elimination[TiedProblem]], scales: Array, count: int) -> list[int]:
        """A layer's number of weights spread over its groups."""
        kept = spread([path for one in known for path in one.paths], scales, count)
        return [int(part.sum()) for part in np.array_split(kept, len(known))]

    def _ridge(self, layer: TiedLayer, statistics: Statistics, group: int) -> TiedProblem:
        options = self.options
        return TiedProblem.of(
            statistics, group, constant=layer.constant, ridge=options.ridge, anchor=options.anchor, positive=True
        )

    def _weight(self, layer: TiedLayer) -> float:
        return self.options.lambda2 if layer is self.layers[-1] else self.options.lambda1

    def _arguments(self, layer: TiedLayer) -> Mapping[str, Any]:
        options, weight = self.options, self._weight(layer)
        common = {"tol": options.tol, "block_rows": options.block_rows, "throw": options.throw, "weight": weight}
        return common | self.run.staged(f"rows of {layer.name}").arguments

    def _refitted(self, layer: TiedLayer, problem: TiedProblem, support: Mask, start: Solution | Array) -> Solution:
        return solve_rows(
            problem.statistics, penalty=NoPenalty(), support=support, warm_start=start, **self._arguments(layer)
        )

    def _penalised(
        self,
        layer: TiedLayer,
        statistics: Statistics,
        group: int,
        strength: float,
        warm: Solution | None,
        support: Mask | None = None,
    ) -> Solution:
        problem = TiedProblem.of(statistics, group, constant=layer.constant)
        return solve_rows(
            problem.statistics,
            penalty=self._penalty(layer, problem, strength),
            support=problem.support if support is None else support,
            rounds=self.options.rounds,
            warm_start=warm,
            **self._arguments(layer),
        )

    def _penalty(self, layer: TiedLayer, problem: TiedProblem, strength: float) -> PiecewiseQuadratic:
        """The penalty in the units of ``normalize``; see :mod:`simplicit.training.normalize`."""
        (r, d), kind = problem.cross.shape, self.options.normalize
        targets, columns = np.ones(r), np.ones(d)
        if kind != "none":
            targets = np.full(r, np.sqrt(problem.energy.mean() / problem.count) or 1.0)
        if kind == "targets" and layer not in self.on_inputs:
            columns *= STATE_COLUMN_WEIGHT
        if kind == "both":
            columns = np.sqrt(problem.gram.diagonal() / problem.count)
            columns = np.where(columns > 0, columns, 1.0)
        return self.options.penalty.spread(r, d).in_units(strength, targets, columns)
