r"""From what the user gives to blocks of row problems in the units of the solver, and back.

The path of the data: check what comes in → centre, if an intercept is wanted → gather rows with the same support on one
design → Gram matrix once per design → rows sorted by how hard they are, cut into blocks → solve → coefficients, gaps
and statuses in the units and the order of the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from simplicit.cutting import cut_rows
from simplicit.rows import BlockSolution, Design, Gram, PiecewiseQuadratic, RowProblem, Solution
from simplicit.rows.block import solve_block_path
from simplicit.rows.design import power_of_two
from simplicit.rows.equality import solve_equality_path

__all__ = ["Collected", "GramSource", "Problem", "Samples", "Task", "block_rows"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

#: Rows per block, at most: enough for matrix products to be fast, few enough to share out. The split must not depend on
#: the executor or the number of workers, or the rounding would.
BLOCK_ROWS = 32
#: Entries of a block's coefficients, at most: a dozen arrays of this size are in use at a time.
BLOCK_ENTRIES = 2**18
#: ε of the re-weighted rounds, as a share of the row's largest coefficient.
REWEIGHTING_SHARE = 0.1


class PathSolver(Protocol):
    """Solves a block of rows under several penalties and balls, in the units of the solver."""

    def __call__(
        self, problems: Sequence[RowProblem], *, tol: float, start: torch.Tensor | None = None
    ) -> list[BlockSolution]: ...


class Source(Protocol):
    """Features and targets, in whatever form they are known."""

    def design(self, columns: Index, device: str) -> tuple[Design, Index]:
        """The design on those of the columns that are not zero, and which these are."""
        ...

    def targets(self, rows: Index) -> Array | None:
        """The targets, rows first (centred); None if only their products with the features are known."""
        ...

    def cross(self, design: Design, rows: Index, columns: Index) -> torch.Tensor:
        """Φᵀz in the units of the design, (rows, columns)."""
        ...

    def energy(self, rows: Index) -> Array:
        """‖z‖²."""
        ...

    def norms(self) -> Array:
        """‖Φⱼ‖ of all d columns (centred)."""
        ...

    def intercepts(self, coefficients: csr_array) -> Array:
        """The constant of every row that goes with the coefficients."""
        ...


def block_rows(n_columns: int) -> int:
    """Rows per block for so many columns."""
    return min(BLOCK_ROWS, max(8, BLOCK_ENTRIES // max(1, n_columns)))


class Samples:
    """Features (m, d) and targets (r, m) as they are."""

    def __init__(self, features: npt.NDArray[np.floating[Any]], targets: Array, *, intercept: bool) -> None:
        self.features, self._targets = features, targets
        self.feature_mean = features.mean(axis=0, dtype=np.float64) if intercept else None
        self.target_mean = targets.mean(axis=1) if intercept else None

    def design(self, columns: Index, device: str) -> tuple[Design, Index]:
        if self.feature_mean is None:
            live = np.asarray(self.features.any(axis=0))
        else:
            # A constant column leaves only rounding behind, which must not count as a direction.
            live = np.asarray(self.features.max(axis=0) != self.features.min(axis=0))
        columns = columns[live[columns]]
        return Design.of_features(self.features, columns, self.feature_mean, device), columns

    def targets(self, rows: Index) -> Array | None:
        chosen = self._targets[rows]
        return chosen if self.target_mean is None else chosen - self.target_mean[rows, None]

    def cross(self, design: Design, rows: Index, columns: Index) -> torch.Tensor:
        assert design.transposed is not None
        targets = self.targets(rows)
        assert targets is not None
        return torch.from_numpy(targets).to(design.device) @ design.transposed.T

    def energy(self, rows: Index) -> Array:
        targets = self.targets(rows)
        assert targets is not None
        return np.asarray(np.einsum("ij,ij->i", targets, targets))

    def norms(self) -> Array:
        norms = np.empty(self.features.shape[1])
        for first in range(0, len(norms), 256):
            part = slice(first, first + 256)
            shifted = self.features[:, part] - (0.0 if self.feature_mean is None else self.feature_mean[part])
            norms[part] = np.sqrt(np.einsum("ij,ij->j", shifted, shifted, dtype=np.float64))
        return norms

    def intercepts(self, coefficients: csr_array) -> Array:
        if self.target_mean is None or self.feature_mean is None:
            return np.zeros(coefficients.shape[0])
        return np.asarray(self.target_mean - coefficients @ self.feature_mean)


class GramSource:
    """Only ΦᵀΦ, Φᵀz and ‖z‖², accumulated when they are first asked for."""

    def __init__(self, accumulate: Callable[[], Gram], *, intercept: bool) -> None:
        self.accumulate, self.intercept = accumulate, intercept

    @cached_property
    def given(self) -> Gram:
        """The statistics as they came."""
        return self.accumulate()

    @cached_property
    def gram(self) -> Gram:
        """The statistics, less the means where an intercept is wanted."""
        return self.given.centred() if self.intercept else self.given

    def design(self, columns: Index, device: str) -> tuple[Design, Index]:
        columns = columns[self.gram.gram.diagonal()[columns] > 0]
        return Design.of_gram(self.gram.gram[np.ix_(columns, columns)], device), columns

    def targets(self, rows: Index) -> Array | None:
        return None

    def cross(self, design: Design, rows: Index, columns: Index) -> torch.Tensor:
        return torch.from_numpy(self.gram.cross[np.ix_(rows, columns)] * design.units).to(design.device)

    def energy(self, rows: Index) -> Array:
        return self.gram.energy[rows]

    def norms(self) -> Array:
        return np.asarray(np.sqrt(self.gram.gram.diagonal()))

    def intercepts(self, coefficients: csr_array) -> Array:
        if not self.intercept:
            return np.zeros(coefficients.shape[0])
        return np.asarray(self.given.target_mean - coefficients @ self.given.feature_mean)


@dataclass(frozen=True)
class Problem:
    """The input in one form: every parameter spread over the rows."""

    source: Source
    shape: tuple[int, int]
    penalty: PiecewiseQuadratic
    weight: Array
    in_ball: Mask
    radius: Array
    support: Mask | None
    warm_start: csr_array | None
    device: str
    discount: csr_array | None = None

    def reweighted(self, coefficients: csr_array) -> Problem:
        """The next round: h times ε/(|wⱼ|‖Φⱼ‖ + ε), ε a tenth of the row's largest |wⱼ|‖Φⱼ‖; it starts from w.

        Only the non-zeros have a factor other than 1, so that one minus the factors is as sparse as w.
        """
        size = csr_array(abs(coefficients).multiply(self.source.norms()[None, :]))
        largest = size.max(axis=1).toarray().ravel() if size.nnz else np.zeros(self.shape[0])
        epsilon = np.repeat(REWEIGHTING_SHARE * largest, np.diff(size.indptr))
        share = np.divide(size.data, size.data + epsilon, out=np.zeros_like(size.data), where=size.data > 0)
        discount = csr_array((share, size.indices, size.indptr), self.shape)
        return replace(self, discount=discount, warm_start=coefficients)

    def strongest(self) -> Array:
        """The largest gradient at zero in units of the kink: the factor on the penalty at which w = 0 solves a row."""
        result = np.zeros(self.shape[0])
        for rows, columns in self._gathered():
            design, live = self.source.design(columns, self.device)
            for part in np.array_split(rows, -(-len(rows) // block_rows(len(live)))):
                problem, _ = Task(part, live, design).standard(self)
                pull = problem.cross.abs() if problem.allowed is None else problem.cross.abs() * problem.allowed
                ratio = torch.where(pull > 0, pull / problem.penalty.kink, 0.0)
                largest = ratio.amax(1).cpu().numpy() if ratio.shape[1] else 0.0
                result[part] = largest * (1 + 8 * np.finfo(float).eps)  # zero there, whatever the rounding
        return result

    def tasks(self) -> Iterator[list[Task]]:
        """Blocks of rows, the hardest first, design by design."""
        for rows, columns in self._gathered():
            design, live = self.source.design(columns, self.device)
            design.prepare()
            yield [Task(part, live, design) for part in self._blocks(rows, live, design)]

    def _gathered(self) -> list[tuple[Index, Index]]:
        """Rows by support; where nearly every row has its own, all on one design, with masks."""
        r, d = self.shape
        if self.support is None:
            return [(np.arange(r), np.arange(d))]
        if self.support.ndim == 1:
            return [(np.arange(r), np.flatnonzero(self.support))]
        patterns, group = np.unique(np.packbits(self.support, axis=1), axis=0, return_inverse=True)
        # A Gram matrix of its own pays for four rows or more; a few small groups do no harm.
        if 4 * len(patterns) > r + 4:
            return [(np.arange(r), np.flatnonzero(self.support.any(axis=0)))]
        members = [np.flatnonzero(group.ravel() == g) for g in range(len(patterns))]
        return [(rows, np.flatnonzero(self.support[rows[0]])) for rows in members]

    def _blocks(self, rows: Index, columns: Index, design: Design) -> list[Index]:
        """Rows cut into blocks of like difficulty, so that one ρ of ADMM suits a block."""
        most = block_rows(len(columns))
        if len(rows) <= 1 or not len(columns):
            return np.array_split(rows, -(-len(rows) // most))
        parts = np.array_split(rows, -(-len(rows) // most))
        hardness = np.concatenate([self._hardness(part, columns, design) for part in parts])
        order = np.argsort(-hardness, kind="stable")
        return [rows[order[part]] for part in cut_rows(hardness[order], most)]

    def _hardness(self, rows: Index, columns: Index, design: Design) -> Array:
        """The largest gradient at zero in units of the kink: how far from w = 0 the solution is."""
        cross = self.source.cross(design, rows, columns)
        kink = self.penalty.select(rows, columns).scaled(1.0, torch.from_numpy(design.units)[None]).kink
        weight = 2 * torch.from_numpy(self.weight[rows])[:, None].to(cross.device)
        ratio = (weight * cross.abs()).amax(1) / kink.to(cross.device).expand(cross.shape).mean(1).clamp(min=1e-300)
        return np.asarray(ratio.cpu().numpy())


@dataclass(frozen=True)
class Task:
    """A block of rows on one design."""

    rows: Index
    columns: Index
    design: Design

    def solve(self, problems: Sequence[Problem], tol: float, solver: PathSolver | None = None) -> list[BlockSolution]:
        """Solve the block under each of the problems, which differ in penalty and ball, from one to the next.

        The results are in the units of the problem as it was given.
        """
        first, unit = self.standard(problems[0])
        standards = [first, *(self._member(problem, first, unit) for problem in problems[1:])]
        start = None
        if problems[0].warm_start is not None:
            given = problems[0].warm_start[self.rows].toarray()[:, self.columns]
            start = torch.from_numpy(given / unit).to(self.design.device)
        if solver is None:
            solver = solve_equality_path if first.penalty.equality else solve_block_path
        blocks = solver(standards, tol=tol, start=start)
        return [self._restored(block, problem, unit) for block, problem in zip(blocks, problems, strict=True)]

    def _target_units(self, problem: Problem) -> Array:
        return power_of_two(np.sqrt(problem.source.energy(self.rows)))

    def standard(self, problem: Problem) -> tuple[RowProblem, Array]:
        """The row problems in the units of the solver, and those of their coefficients, (rows, columns)."""
        rows, columns, design, source = self.rows, self.columns, self.design, problem.source
        device = design.device
        sigma = self._target_units(problem)
        unit = design.units * sigma[:, None]
        targets = source.targets(rows)
        allowed = None if problem.support is None or problem.support.ndim == 1 else problem.support[rows][:, columns]
        standard = RowProblem(
            design=design,
            targets=None if targets is None else torch.from_numpy(targets / sigma[:, None]).to(device),
            cross=source.cross(design, rows, columns) / torch.from_numpy(sigma[:, None]).to(device),
            energy=torch.from_numpy(source.energy(rows) / sigma**2).to(device),
            allowed=None if allowed is None or allowed.all() else torch.from_numpy(allowed).to(device),
            **self._priced(problem, sigma, unit),
        )
        return standard, unit

    def _member(self, problem: Problem, first: RowProblem, unit: Array) -> RowProblem:
        """The same rows under another penalty and ball."""
        return replace(first, **self._priced(problem, self._target_units(problem), unit))

    def _priced(self, problem: Problem, sigma: Array, unit: Array) -> dict[str, Any]:
        """Penalty and ball in the units of the solver."""
        inside, device = np.flatnonzero(problem.in_ball[self.columns]), self.design.device
        scale = torch.from_numpy(1 / self._objective_units(problem, sigma)[:, None])
        like = torch.zeros(0, dtype=torch.float64, device=device)
        return {
            "penalty": self._penalty(problem).scaled(scale, torch.from_numpy(unit)).to(like),
            "ball_columns": torch.from_numpy(inside).to(device),
            "ball_weights": torch.from_numpy(self.design.units[None, inside]).to(device),
            "radius": torch.from_numpy((problem.radius[self.rows] / sigma)[:, None]).to(device),
        }

    def _objective_units(self, problem: Problem, sigma: Array) -> Array:
        # With exact matching the penalty is the whole objective: it is measured in units of the target alone.
        return sigma if problem.penalty.equality else 2 * problem.weight[self.rows] * sigma**2

    def _penalty(self, problem: Problem) -> PiecewiseQuadratic:
        penalty = problem.penalty.select(self.rows, self.columns)
        if problem.discount is None:
            return penalty
        discount = problem.discount[self.rows].toarray()[:, self.columns]
        return penalty.scaled(torch.from_numpy(1 - discount), 1.0)

    def _restored(self, block: BlockSolution, problem: Problem, unit: Array) -> BlockSolution:
        sigma = self._target_units(problem)
        scale = self._objective_units(problem, sigma)
        return replace(
            block,
            coefficients=block.coefficients * unit,
            objective=block.objective * scale,
            dual_gap=block.dual_gap * scale,
            cardinality_gap=block.cardinality_gap * scale,
            multiplier=block.multiplier * scale / sigma,
            residual=block.residual * sigma,
        )


_FIGURES = ("objective", "dual_gap", "relative_gap", "cardinality_gap", "multiplier", "residual", "seconds")


class Collected:
    """Blocks, put back in the order of the targets."""

    def __init__(self, problem: Problem, tol: float) -> None:
        self.problem, self.tol = problem, tol
        self.parts: list[tuple[Index, csr_array]] = []
        self.figures: dict[str, Any] = {name: np.zeros(problem.shape[0]) for name in _FIGURES}
        self.status = np.zeros(problem.shape[0], dtype=np.int8)
        self.timings: dict[str, float] = {}

    def put(self, task: Task, block: BlockSolution) -> None:
        """Add a solved block."""
        local = csr_array(block.coefficients)
        shape = (len(task.rows), self.problem.shape[1])
        self.parts.append((task.rows, csr_array((local.data, task.columns[local.indices], local.indptr), shape)))
        for name, values in self.figures.items():
            values[task.rows] = getattr(block, name)
        self.status[task.rows] = block.status
        self.add_seconds(block.timings)

    def add_seconds(self, timings: dict[str, float]) -> None:
        """Add to the table of where the time went."""
        for stage, seconds in timings.items():
            self.timings[stage] = self.timings.get(stage, 0.0) + seconds

    def solution(self) -> Solution:
        """All rows."""
        order = np.argsort(np.concatenate([rows for rows, _ in self.parts]), kind="stable")
        rows = [part for _, part in self.parts]
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.indptr) for part in rows]))])
        data, indices = (np.concatenate([getattr(part, name) for part in rows]) for name in ("data", "indices"))
        coefficients = csr_array(csr_array((data, indices, indptr), self.problem.shape)[order])
        coefficients.sort_indices()
        intercepts = self.problem.source.intercepts(coefficients)
        return Solution(
            coefficients, intercepts, status=self.status, tol=self.tol, timings=self.timings, **self.figures
        )
