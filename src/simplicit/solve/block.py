r"""A block of rows from arrays to results: the part of a solve that runs on the workers.

A block is solved in the units of the solver, in which columns and targets have norms near 1, and its results are in
those of the problem as it was given. It goes along the whole path of penalties and balls, each member started from the
one before; or through all re-weighted rounds, for a row's next penalty depends on nothing but the row's own solution.
So blocks never wait for each other.

Everything here is a pure function of the arrays, the settings and the block: the same bits on every worker.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from simplicit.executors import Block
from simplicit.rows import PiecewiseQuadratic
from simplicit.rows.active_set import solve_block_path
from simplicit.rows.design import Design, GramDesign, SampleDesign, power_of_two
from simplicit.rows.equality import solve_equality_path
from simplicit.rows.outcome import STAGES, BlockSolution
from simplicit.rows.problem import GramProblem, RowProblem, SampleProblem
from simplicit.rows.reference import reference_path
from simplicit.solve.arrays import (
    Array,
    BlockResult,
    DesignArrays,
    Entries,
    Figures,
    Index,
    MemberResult,
    PenaltyArrays,
    RowArrays,
    SharedArrays,
    TargetArrays,
)

#: ε of the re-weighted rounds, as a share of the row's largest coefficient.
REWEIGHTING_SHARE = 0.1


class PathSolver(Protocol):
    """Solves a block of rows under several penalties and balls, in the units of the solver."""

    def __call__(
        self, problems: Sequence[RowProblem], *, tol: float, start: torch.Tensor | None = None
    ) -> list[BlockSolution]: ...


def _active_set_path(
    problems: Sequence[RowProblem], *, tol: float, start: torch.Tensor | None = None
) -> list[BlockSolution]:
    solve = solve_equality_path if problems[0].penalty.equality else solve_block_path
    return solve(problems, tol=tol, start=start)


#: By their names as :func:`simplicit.solve_rows` takes them.
SOLVERS: dict[str, PathSolver] = {"active-set": _active_set_path, "reference": reference_path}


@dataclass(frozen=True)
class MemberSettings:
    """What a member of a path has beside its arrays; see ``PiecewiseQuadratic``."""

    equality: bool
    cardinality: bool


@dataclass(frozen=True)
class RowSettings:
    """What the blocks of a work have in common beside its arrays.

    Attributes
    ----------
    members : tuple of MemberSettings
        The penalties and balls along the path.
    masked : tuple of bool
        For every design, whether its rows differ in their support.
    n_columns : int
        d.
    rounds : int
        More than 1 for a single member alone.
    tol : float
    solver : str
        A name in ``SOLVERS``.
    device : str
    """

    members: tuple[MemberSettings, ...]
    masked: tuple[bool, ...]
    n_columns: int
    rounds: int
    tol: float
    solver: str
    device: str


class RowSolver:
    """Solves blocks of one work.

    Parameters
    ----------
    shared : SharedArrays
    settings : RowSettings
    """

    def __init__(self, shared: SharedArrays, settings: RowSettings) -> None:
        self.shared, self.settings = shared, settings
        self.designs = [self._design(arrays) for arrays in shared.designs]

    def _design(self, arrays: DesignArrays) -> Design:
        units = np.array(arrays.units)
        gram = None if arrays.gram is None else self._tensor(arrays.gram)
        if arrays.transposed is not None:
            return SampleDesign(self._tensor(arrays.transposed), units, gram)
        assert gram is not None
        return GramDesign(gram, units)

    def _tensor(self, array: Array) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch knows no read-only tensors; nothing writes to this one
            return torch.from_numpy(array).to(self.settings.device)

    def __call__(self, block: Block, rows: RowArrays, start: Entries | None) -> BlockResult:
        """Solve a block, given its rows and the coefficients to begin from."""
        scaled, solve = _ScaledBlock(self, block, rows), SOLVERS[self.settings.solver]
        first = scaled.problem()
        problems = [first, *(scaled.member(number, first) for number in range(1, len(self.settings.members)))]
        solved = [
            scaled.restored(number, found)
            for number, found in enumerate(solve(problems, tol=self.settings.tol, start=scaled.start(start)))
        ]
        for _ in range(1, self.settings.rounds):
            before = solved[-1].coefficients
            again = scaled.member(0, first, discount=scaled.discount(before))
            (found,) = solve([again], tol=self.settings.tol, start=scaled.in_units(before))
            solved.append(scaled.restored(0, found))
        return BlockResult(np.array(rows.row), tuple(scaled.result(solution) for solution in solved))

    def largest_gradient(self, block: Block, rows: RowArrays) -> Array:
        """The largest gradient at zero in units of the kink, for every row of the block."""
        problem = _ScaledBlock(self, block, rows).problem()
        size = problem.on_support(problem.cross).abs()
        ratio = torch.where(size > 0, size / problem.penalty.kink, 0.0)
        return np.asarray(ratio.amax(1).cpu().numpy()) if ratio.shape[1] else np.zeros(len(block))


class _ScaledBlock:
    """One block on its design: into the units of the solver, and back."""

    def __init__(self, solver: RowSolver, block: Block, rows: RowArrays) -> None:
        self.settings, self.shared, self.rows = solver.settings, solver.shared, rows
        self.design, self.masked = solver.designs[block.group], solver.settings.masked[block.group]
        self.columns: Index = solver.shared.designs[block.group].columns
        self.n_rows, self.device = len(block), self.design.device
        self.energy = _energy(rows.targets)
        self.sigma = power_of_two(np.sqrt(self.energy))  # the units of the targets
        self.unit = self.design.units * self.sigma[:, None]  # of the coefficients

    def problem(self) -> RowProblem:
        """The row problems of the first member in the units of the solver."""
        given, sigma = self.rows.targets, self.sigma[:, None]
        allowed = self.rows.support[:, self.columns] if self.masked and self.rows.support is not None else None
        rest = {
            "energy": self._to(self.energy / self.sigma**2),
            "allowed": None if allowed is None or allowed.all() else self._to(allowed),
            **self._priced(0),
        }
        if isinstance(self.design, SampleDesign):
            assert given.samples is not None
            targets = self._to(given.samples / sigma)
            cross = targets @ self.design.transposed.T
            return SampleProblem(design=self.design, targets=targets, cross=cross, **rest)
        assert given.cross is not None
        cross = self._to(given.cross[:, self.columns] * self.design.units / sigma)
        return GramProblem(design=self.design, cross=cross, **rest)

    def member(self, number: int, first: RowProblem, discount: Array | None = None) -> RowProblem:
        """The same rows under the penalty and the ball of another member, or under a discounted penalty."""
        return replace(first, **self._priced(number, discount))

    def _to(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _priced(self, number: int, discount: Array | None = None) -> dict[str, Any]:
        """Penalty and ball in the units of the solver."""
        inside = np.flatnonzero(self.shared.members[number].in_ball[self.columns])
        penalty = self._penalty(number)
        if discount is not None:
            penalty = penalty.scaled(torch.from_numpy(1 - discount), 1.0)
        scale = torch.from_numpy(1 / self._objective_units(number)[:, None])
        like = torch.zeros(0, dtype=torch.float64, device=self.device)
        return {
            "penalty": penalty.scaled(scale, torch.from_numpy(self.unit)).to(like),
            "ball_columns": self._to(inside),
            "ball_weights": self._to(self.design.units[None, inside]),
            "radius": self._to((self.rows.members[number].radius / self.sigma)[:, None]),
        }

    def _penalty(self, number: int) -> PiecewiseQuadratic:
        """The penalty of a member on the rows and columns of the block, as it was given."""
        common, own = self.shared.members[number].penalty, self.rows.members[number].penalty
        parts = {}
        for field in fields(PenaltyArrays):
            of_rows: Array | None = getattr(own, field.name)
            part: Array = getattr(common, field.name) if of_rows is None else of_rows
            parts[field.name] = torch.from_numpy(np.array(part if part.shape[1] == 1 else part[:, self.columns]))
        member = self.settings.members[number]
        return PiecewiseQuadratic(**parts, equality=member.equality, cardinality=member.cardinality)

    def _objective_units(self, number: int) -> Array:
        # With exact matching the penalty is the whole objective: it is measured in units of the target alone.
        equality = self.settings.members[number].equality
        return np.asarray(self.sigma if equality else 2 * self.rows.weight * self.sigma**2)

    def start(self, entries: Entries | None) -> torch.Tensor | None:
        """The coefficients to begin from, in the units of the solver."""
        if entries is None or self.rows.starts is None:
            return None
        dense = np.zeros((self.n_rows, self.settings.n_columns))
        dense[np.repeat(np.arange(self.n_rows), self.rows.starts), entries.columns] = entries.values
        return self.in_units(dense[:, self.columns])

    def in_units(self, coefficients: Array) -> torch.Tensor:
        """Coefficients of the problem as it was given, in the units of the solver."""
        return self._to(coefficients / self.unit)

    def discount(self, coefficients: Array) -> Array:
        """1 − ε/(|wⱼ|‖Φⱼ‖ + ε), ε a tenth of the row's largest |wⱼ|‖Φⱼ‖: what the next round takes off the penalty."""
        assert self.shared.norms is not None
        size = np.abs(coefficients) * self.shared.norms[self.columns]
        epsilon = REWEIGHTING_SHARE * size.max(axis=1, keepdims=True, initial=0.0)
        share: Array = np.divide(size, size + epsilon, out=np.zeros_like(size), where=size > 0)
        return share

    def restored(self, number: int, block: BlockSolution) -> BlockSolution:
        """A solution in the units of the problem as it was given."""
        scale = self._objective_units(number)
        return replace(
            block,
            coefficients=block.coefficients * self.unit,
            objective=block.objective * scale,
            dual_gap=block.dual_gap * scale,
            cardinality_gap=block.cardinality_gap * scale,
            multiplier=block.multiplier * scale / self.sigma,
            residual=block.residual * self.sigma,
        )

    def result(self, block: BlockSolution) -> MemberResult:
        """A restored solution as records, its coefficients sparse and on all columns."""
        local = csr_array(block.coefficients)
        intercepts = np.zeros(self.n_rows)
        if self.rows.targets.mean is not None and self.shared.feature_mean is not None:
            intercepts = self.rows.targets.mean - local @ self.shared.feature_mean[self.columns]
        figures = {field.name: getattr(block, field.name) for field in fields(Figures)}
        return MemberResult(
            counts=np.diff(local.indptr).astype(np.intp),
            coefficients=Entries(self.columns[local.indices], local.data),
            intercepts=intercepts,
            status=block.status.astype(np.int8),
            figures=Figures(**{name: np.asarray(array, dtype=np.float64) for name, array in figures.items()}),
            timings=np.array([block.timings.get(stage, 0.0) for stage in STAGES]),
        )


def _energy(targets: TargetArrays) -> Array:
    """‖z‖² of each target."""
    if targets.samples is not None:
        return np.asarray(np.einsum("ij,ij->i", targets.samples, targets.samples))
    assert targets.energy is not None
    return targets.energy
