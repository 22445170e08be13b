r"""Training: which weights stay, and their values, one pass over the layers of a provider.

:meth:`Training.solve` takes the support from the penalty: the solution of problem (7) at one strength, and, with a
refit, ridge on the support that it leaves. :meth:`Training.select` takes it from elimination or thresholding: a pilot
on the baseline's states gives rows their paths of prices; one price for a weight in the whole network, in units of what
a row's error does to the outputs, says how many each layer keeps, exactly; then the support of every layer is sought
anew, and its columns exchanged, on the states that the student has there.

What that costs decides how. A path is d³/6 products a row, ADMM some 500 d² (:mod:`~simplicit.training.support`), so
that layers with more than :data:`WIDE` columns are thresholded, and of layers with many rows the pilot eliminates some,
which stand for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np

from simplicit.checks import check_flag
from simplicit.progress import phase
from simplicit.rows import NoPenalty, Penalty, PiecewiseQuadratic, Solution
from simplicit.rows.batch import Array, Index, Mask
from simplicit.solve import Method, RunOptions, solve_rows
from simplicit.training.judgement import certified, proved, raise_if_wrong
from simplicit.training.problem import LeastSquares, Ridge, Rows
from simplicit.training.provider import Fit, Layer, Provider, Student, Together
from simplicit.training.support.allocation import Part, allocate, allocate_parts, count_kept, spread
from simplicit.training.support.bounds import with_support_gap
from simplicit.training.support.elimination import EliminationPath
from simplicit.training.support.selection import elimination_paths, select
from simplicit.training.units import NORMALIZATIONS

L = TypeVar("L", bound=Layer)
#: From a student, its problems by layers and groups, and their values, to what all layers are together.
Answer = Callable[[Any, Mapping[str, Sequence[LeastSquares]], Mapping[str, Array]], Together]


@dataclass(frozen=True)
class Share:
    """A layer's own ``sparsity``, in per cent, of its ``size``, the number of its weights; None: what it can keep."""

    sparsity: float | None
    size: int


#: Relative gap of rows that only lead to the next ones.
COARSE_TOL = 1e-4
#: Layers with more columns are thresholded whatever is asked for, unless samples are fewer than columns.
WIDE = 1500
#: The rows of a layer that the pilot eliminates: so many at least, and as many as take so many products, in d³ each.
PILOT_ROWS, PILOT_PRODUCTS = 96, 1e10
#: Least squares of so few rows, as groups of channels have them by the hundreds, are proved by a factorisation a row:
#: to hand them to an executor takes longer.
FEW_ROWS = 2


@dataclass(frozen=True)
class RowOptions:
    """How the rows of a fit are solved: ``tol``, ``block_rows``, ``device`` and ``throw`` of ``solve_rows``.

    InputError is raised for what is out of range.
    """

    tol: float = 1e-6
    block_rows: int | None = None
    device: str = "cpu"
    throw: bool = True

    def __post_init__(self) -> None:
        Method(tol=self.tol, block_rows=self.block_rows)  # checks them
        check_flag("throw", self.throw)

    def coarser(self) -> RowOptions:
        """The same for rows that only lead to the next ones, of which none has to converge."""
        return replace(self, tol=max(self.tol, COARSE_TOL), throw=False)

    def arguments(self, run: RunOptions) -> dict[str, Any]:
        """These and where rows are solved, as :func:`simplicit.solve_rows` takes them."""
        return vars(self) | run.arguments


@dataclass(frozen=True, eq=False)
class Trained:
    """A network that was trained.

    ``solutions`` are those of the groups of rows of each layer, by its name; the baseline has ``weight_count`` weights.
    ``ridge`` is that of the values where they come from least squares; ``strength`` is what the penalty was multiplied
    by, found in so many ``trials``, and ``exchanged`` how many weights exchanges placed elsewhere than they began.
    """

    student: Student
    solutions: Mapping[str, Sequence[Solution]]
    weight_count: int
    ridge: Ridge | None = None
    strength: float = 1.0
    trials: int = 1
    exchanged: int = 0

    @property
    def nnz(self) -> int:
        """Weights that are not zero."""
        return sum(solution.coefficients.nnz for groups in self.solutions.values() for solution in groups)


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a group of rows may keep, (r, d), and the elimination paths, on the baseline's states, of some of its rows.

    ``rows`` says which; the ``sensitivities`` are theirs, and ``settled`` says whether all samples were seen. All rows
    can keep as many as are ``available``.
    """

    admitted: Mask
    available: int
    rows: Index
    paths: Sequence[EliminationPath]
    sensitivities: Array
    settled: bool

    @property
    def part(self) -> Part:
        return Part(self.paths, self.sensitivities, self.available)

    @property
    def whole(self) -> bool:
        """Whether these are all rows."""
        return len(self.rows) == len(self.admitted)


@dataclass(frozen=True, eq=False)
class Training(Generic[L]):
    """One baseline, one set of samples, one way to train.

    ``penalty`` is f, or what proposes candidates. ``ridge`` is that of the least squares on the support; without one
    the values are those that the penalty gives. ``run`` is open. ``rounds`` are those of a re-weighted penalty,
    ``normalize`` is a name in ``NORMALIZATIONS``, and ``thresholding`` says whether :meth:`select` begins from supports
    by thresholding. Of layers that are ``filled`` :meth:`select` keeps as many weights as their pattern allows, for
    which no price is needed. With ``together`` it ends with values of all layers that answer for the outputs.
    """

    provider: Provider[L]
    penalty: Penalty
    ridge: Ridge | None
    rows: RowOptions
    run: RunOptions
    rounds: int = 1
    normalize: str = "targets"
    thresholding: bool = True
    filled: Collection[str] = ()
    together: Answer | None = None

    @cached_property
    def pieces(self) -> PiecewiseQuadratic:
        """What the penalty is on rows and columns that it has to fit."""
        return self.penalty.pieces(*self.provider.shape)

    @property
    def makes_zeros(self) -> bool:
        """Whether the penalty does."""
        return bool(self.pieces.kink.any())

    def solve(self, strength: float = 1.0, start: Trained | None = None) -> Trained:
        """Solve with the penalty multiplied by ``strength``, warm-started from another training."""

        def fit(layer: L, groups: Sequence[Rows]) -> Sequence[Solution]:
            warm = (None,) * len(groups) if start is None else start.solutions[layer.name]
            found = [self._penalised(layer, rows, strength, before) for rows, before in zip(groups, warm, strict=True)]
            if self.ridge is None:
                return found
            return [
                self._refitted(layer, rows, rows.least_squares(self.ridge), one.coefficients.toarray() != 0, one)
                for rows, one in zip(groups, found, strict=True)
            ]

        return replace(self._swept(fit), strength=strength)

    def select(self, sparsity: float | None, own: Mapping[str, Share] | None = None) -> Trained:
        """The supports by elimination, and ridge on them.

        ``sparsity`` is in per cent of the baseline's weights, and met to the weight; None keeps as many as there are
        candidates. Layers that are named in ``own`` have a share of their own, and it is that of the others together.
        InputError is raised where there are fewer candidates than weights wanted.
        """
        counts = self._counts(sparsity, own or {})
        exchanged = 0
        seen: list[tuple[L, Sequence[Rows]]] = []

        def fit(layer: L, groups: Sequence[Rows]) -> Sequence[Solution]:
            nonlocal exchanged
            found, moved = self._selected(layer, groups, counts[layer.name])
            exchanged += moved
            if self.together is not None:
                seen.append((layer, groups))
            return found

        return self._answered(replace(self._swept(fit), exchanged=exchanged), seen)

    def _answered(self, trained: Trained, seen: Sequence[tuple[L, Sequence[Rows]]]) -> Trained:
        """The same supports with the values by which all layers together answer for the outputs."""
        if self.together is None:
            return trained
        assert self.ridge is not None
        ridge, first = self.ridge, trained.solutions
        together = self.together(
            trained.student,
            {layer.name: [rows.least_squares(ridge) for rows in groups] for layer, groups in seen},
            {layer.name: _values(first[layer.name]) for layer, _ in seen},
        )
        solutions: dict[str, Sequence[Solution]] = {}
        for layer, groups in seen:
            parts = zip(
                groups, together.problems[layer.name], together.values[layer.name], first[layer.name], strict=True
            )
            solutions[layer.name] = [self._moved(layer, *part) for part in parts]
        student = together.with_values({name: _values(found) for name, found in solutions.items()})
        return replace(trained, student=student, solutions=solutions)

    def _moved(self, layer: L, rows: Rows, problem: LeastSquares, values: Array, before: Solution) -> Solution:
        """A group of rows on its support, with targets that were moved."""
        found = self._refitted(layer, rows, problem, before.coefficients.toarray() != 0, values)
        return with_support_gap(found, problem, rows.weight)

    def refit(self) -> Trained:
        """Ridge on all admissible columns of every row."""
        ridge = self.ridge
        assert ridge is not None

        def fit(layer: L, groups: Sequence[Rows]) -> Sequence[Solution]:
            problems = [(rows, rows.least_squares(ridge)) for rows in groups]
            return [self._refitted(layer, rows, one, rows.support, one.minimiser()) for rows, one in problems]

        return self._swept(fit)

    def _swept(self, fit: Fit[L]) -> Trained:
        """One pass of the provider, with all solutions kept."""
        solutions: dict[str, Sequence[Solution]] = {}

        with phase("fitting", len(self.provider.layers), self.provider.efforts) as layers:

            def kept(layer: L, groups: Sequence[Rows]) -> Sequence[Solution]:
                with phase(f"in {layer.name}"):
                    solutions[layer.name] = fit(layer, groups)
                layers.count()
                return solutions[layer.name]

            student = self.provider.sweep(kept)
        return Trained(student, solutions, self.provider.weight_count, self.ridge)

    def _selected(self, layer: L, groups: Sequence[Rows], counts: Sequence[int]) -> tuple[list[Solution], int]:
        """The solutions of a layer's groups, with so many weights each, and how many weights were exchanged.

        Groups that are eliminated share what they have in all anew, at one price.
        """
        assert self.ridge is not None
        workers, known = self.run.n_workers, self.pilot[layer.name]
        sensitivities = np.array_split(self.provider.sensitivities(layer), len(groups))
        problems = [rows.least_squares(self.ridge) for rows in groups]
        thresholded = [self._thresholds(problem) for problem in problems]
        paths: list[Sequence[EliminationPath]] = [()] * len(groups)
        if self.makes_zeros or len(groups) > 1 or not all(thresholded):
            priced = layer.name not in self.filled
            paths = [
                before.paths
                if rows.settled and before.settled and before.whole
                else elimination_paths(problem, before.admitted, workers, priced=priced)
                for rows, problem, before in zip(groups, problems, known, strict=True)
            ]
            kept = allocate([path for one in paths for path in one], np.concatenate(sensitivities), sum(counts))
            counts = [int(part.sum()) for part in np.array_split(kept, len(groups))]
        found, exchanged = [], 0
        parts = zip(groups, problems, paths, sensitivities, counts, thresholded, strict=True)
        for rows, problem, own_paths, own_sensitivities, count, threshold in parts:
            chosen = select(problem, own_paths, own_sensitivities, count, workers, thresholding=threshold)
            exchanged += chosen.exchanged
            values = self._refitted(layer, rows, problem, chosen.support, chosen.coefficients)
            found.append(with_support_gap(values, problem, rows.weight))
        return found, exchanged

    def _thresholds(self, problem: LeastSquares) -> bool:
        """Whether a support by thresholding is sought."""
        columns = len(problem.gram)
        return self.thresholding or WIDE < columns <= problem.count

    @cached_property
    def pilot(self) -> dict[str, list[Candidates]]:
        """The elimination of every layer on the baseline's states, from which the counts come."""
        result: dict[str, list[Candidates]] = {}
        with phase("pricing", len(self.provider.layers), self.provider.efforts) as layers:
            for layer, groups in self.provider.on_baseline():
                with phase(f"in {layer.name}"):
                    sensitivities = np.array_split(self.provider.sensitivities(layer), len(groups))
                    pairs = zip(groups, sensitivities, strict=True)
                    result[layer.name] = [self._piloted(layer, *pair) for pair in pairs]
                layers.count()
        return result

    def _piloted(self, layer: L, rows: Rows, sensitivities: Array) -> Candidates:
        """The pilot of a group of rows."""
        assert self.ridge is not None
        problem, admitted = rows.least_squares(self.ridge), rows.support
        if self.makes_zeros:
            admitted = self._penalised(layer, rows, 1.0, None).coefficients.toarray() != 0
        available = int(admitted.sum() if rows.groups is None else rows.groups.capacity(admitted).sum())
        chosen = np.arange(len(admitted))
        if layer.name in self.filled:
            return Candidates(admitted, available, chosen[:0], (), sensitivities[:0], rows.settled)
        if self._thresholds(problem):
            most = max(PILOT_ROWS, int(PILOT_PRODUCTS / max(1, len(problem.gram)) ** 3))
            chosen = spread(sensitivities * problem.energy, most)
        paths = elimination_paths(problem.of_rows(chosen), admitted[chosen], self.run.n_workers)
        return Candidates(admitted, available, chosen, paths, sensitivities[chosen], rows.settled)

    def _counts(self, sparsity: float | None, own: Mapping[str, Share]) -> dict[str, list[int]]:
        """How many weights each group of each layer keeps."""
        layers = self.provider.layers
        rest = self.provider.weight_count - sum(share.size for share in own.values())
        counts = self._allocated([one for one in layers if one.name not in own], rest, sparsity)
        for layer in layers:
            if (share := own.get(layer.name)) is not None:
                counts |= self._allocated([layer], share.size, share.sparsity)
        return counts

    def _allocated(self, layers: Sequence[L], weight_count: int, sparsity: float | None) -> dict[str, list[int]]:
        """How many weights the groups of some layers keep, of so many, at one price for all of them."""
        if not layers:
            return {}
        groups = [self.pilot[layer.name] for layer in layers]
        if sparsity is None:
            return {layer.name: [one.available for one in own] for layer, own in zip(layers, groups, strict=True)}
        parts = [one.part for layer in groups for one in layer]
        available = sum(part.available for part in parts)
        kept = allocate_parts(parts, count_kept(weight_count, sparsity, available))
        ends = np.cumsum([len(layer) for layer in groups])[:-1]
        return {layer.name: part.tolist() for layer, part in zip(layers, np.split(kept, ends), strict=True)}

    def _penalised(self, layer: L, rows: Rows, strength: float, warm: Solution | None) -> Solution:
        """The solution of problem (7) on some rows."""
        found = solve_rows(
            **rows.data.arguments,
            penalty=rows.pieces(self.penalty).in_units(strength, *NORMALIZATIONS[self.normalize](rows.scales)),
            weight=rows.weight,
            ball=rows.ball,
            support=rows.support,
            rounds=self.rounds,
            warm_start=warm,
            **self._arguments(layer),
        )
        self._judge(layer, rows, found)
        return found

    def _refitted(
        self, layer: L, rows: Rows, problem: LeastSquares, support: Mask, start: Solution | Array
    ) -> Solution:
        """Ridge on a support, under the ball where there is one; what it was found by is in ``earlier``.

        A penalty that makes zeros shrinks what it keeps. Once the support is chosen that has no use any more. It is a
        convex row problem like those before it, and certified like them.
        """
        known = None
        direct = problem.low_rank is not None or len(problem.cross) <= FEW_ROWS
        if isinstance(start, np.ndarray) and rows.ball is None and direct:
            known = certified(problem, start, rows.weight, self.rows.tol)
        if known is not None and known.converged.all():
            found = known
        else:
            found = solve_rows(
                problem.statistics,
                penalty=NoPenalty(),
                weight=rows.weight,
                ball=rows.ball,
                support=support,
                warm_start=start,
                **self._arguments(layer),
            )
            found = proved(found, problem, support, rows.weight)
        self._judge(layer, rows, found)
        found = replace(found, intercepts=rows.data.constants(found.coefficients))
        if isinstance(start, Solution):
            found = replace(found, earlier=(*start.earlier, replace(start, earlier=())))
        return found

    def _arguments(self, layer: L) -> dict[str, Any]:
        """How and where rows of a layer are solved; which are wrong is judged here, by the layer's targets."""
        return self.rows.arguments(self.run) | {"throw": False}

    def _judge(self, layer: L, rows: Rows, found: Solution) -> None:
        """Raise ConvergenceError for wrong rows, if that is wanted."""
        if self.rows.throw:
            raise_if_wrong(found, rows, layer.name)


def _values(solutions: Sequence[Solution]) -> Array:
    """The coefficients of a layer's groups, (g, r, d)."""
    return np.stack([one.coefficients.toarray() for one in solutions])
