r"""A block of rows from arrays to results: the part of a solve that runs on the workers.

A block is solved in the units of the solver, in which columns and targets have norms near 1, and its results are in
those of the problem as it was given. It goes along the whole path of penalties and balls, each member started from the
one before; or through all re-weighted rounds, for a row's next penalty depends on nothing but the row's own solution.
So blocks never wait for each other.

Everything here is a pure function of the arrays, the settings and the block: the same bits on every worker.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from simplicit.executors import Block
from simplicit.rows import PiecewiseQuadratic
from simplicit.rows.batch import Array, Index
from simplicit.rows.design import Design, GramDesign, SampleDesign, power_of_two
from simplicit.rows.outcome import BlockSolution
from simplicit.rows.problem import GramProblem, RowProblem, SampleProblem
from simplicit.solve.arrays import (
    BlockResult,
    DesignArrays,
    Entries,
    MemberResult,
    RowArrays,
    SharedArrays,
    TargetArrays,
)
from simplicit.solve.options import SOLVERS, Method

#: ε of the re-weighted rounds, as a share of the row's largest coefficient.
REWEIGHTING_SHARE = 0.1


@dataclass(frozen=True)
class RowSettings:
    """What the blocks of a work have in common beside its arrays."""

    method: Method  # with more than one round for a single member alone
    equality: bool  # of all members of the path; see ``PiecewiseQuadratic``
    cardinality: tuple[bool, ...]  # of each
    masked: tuple[bool, ...]  # of every design, whether its rows differ in their support
    n_columns: int  # d
    device: str


class RowSolver:
    """Solves blocks of one work."""

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
        scaled, method = _ScaledBlock(self, block, rows), self.settings.method
        solve = SOLVERS[method.solver]
        problems = [scaled.problem(member) for member in range(len(self.settings.cardinality))]
        solved = [scaled.restored(found) for found in solve(problems, method.tol, scaled.start(start))]
        for _ in range(1, method.rounds):
            before = solved[-1].coefficients
            (found,) = solve([scaled.problem(0, scaled.discount(before))], method.tol, scaled.in_units(before))
            solved.append(scaled.restored(found))
        return BlockResult(np.array(rows.row), tuple(scaled.result(solution) for solution in solved))

    def largest_gradient(self, block: Block, rows: RowArrays) -> Array:
        """The largest gradient at zero in units of the kink, for every row of the block."""
        problem = _ScaledBlock(self, block, rows).problem(0)
        size = problem.on_support(problem.cross).abs()
        ratio = torch.where(size > 0, size / problem.penalty.kink, 0.0)
        return np.asarray(ratio.amax(1).cpu().numpy()) if ratio.shape[1] else np.zeros(len(block))


class _ScaledBlock:
    """One block on its design: into the units of the solver, and back."""

    def __init__(self, solver: RowSolver, block: Block, rows: RowArrays) -> None:
        self.settings, self.shared, self.rows = solver.settings, solver.shared, rows
        self.design, self.n_rows = solver.designs[block.group], len(block)
        self.columns: Index = solver.shared.designs[block.group].columns
        given, energy = rows.targets, _energy(rows.targets)
        self.sigma = power_of_two(np.sqrt(energy))  # the units of the targets
        self.unit = self.design.units * self.sigma[:, None]  # of the coefficients
        # With exact matching the penalty is the whole objective: it is measured in units of the target alone.
        self.objective_unit = self.sigma if self.settings.equality else 2 * rows.weight * self.sigma**2
        self.energy = self._to(energy / self.sigma**2)
        self.allowed: torch.Tensor | None = None
        if self.settings.masked[block.group] and rows.support is not None:
            allowed = rows.support[:, self.columns]
            self.allowed = None if allowed.all() else self._to(allowed)
        if isinstance(self.design, SampleDesign):
            assert given.samples is not None
            self.targets = self._to(given.samples / self.sigma[:, None])
            self.cross = self.targets @ self.design.transposed.T
        else:
            assert given.cross is not None
            self.cross = self._to(given.cross[:, self.columns] * self.design.units / self.sigma[:, None])

    def problem(self, member: int, discount: Array | None = None) -> RowProblem:
        """The rows under the penalty, discounted or not, and the ball of a member, in the units of the solver."""
        inside = np.flatnonzero(self.shared.members[member].in_ball[self.columns])
        radius = self.rows.members[member].radius / self.sigma
        parts = (
            self.cross,
            self.energy,
            self._penalty(member, discount),
            self.allowed,
            self._to(inside),
            self._to(self.design.units[None, inside]),
            self._to(radius[:, None]),
        )
        if isinstance(self.design, SampleDesign):
            return SampleProblem(self.design, *parts, self.targets)
        return GramProblem(self.design, *parts)

    def _to(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.design.device)

    def _penalty(self, member: int, discount: Array | None) -> PiecewiseQuadratic:
        common, own = self.shared.members[member].penalty, self.rows.members[member].penalty
        pairs = zip(vars(common).values(), vars(own).values(), strict=True)
        whole = [shared if by_row is None else by_row for shared, by_row in pairs]
        parts = [np.array(part if part.shape[1] == 1 else part[:, self.columns]) for part in whole]
        kink, curvature, threshold = map(torch.from_numpy, parts)
        settings = self.settings
        penalty = PiecewiseQuadratic(kink, curvature, threshold, settings.equality, settings.cardinality[member])
        if discount is not None:
            penalty = penalty.scaled(torch.from_numpy(1 - discount), 1.0)
        scale = torch.from_numpy(1 / self.objective_unit[:, None])
        return penalty.scaled(scale, torch.from_numpy(self.unit)).to(self.cross)

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

    def restored(self, block: BlockSolution) -> BlockSolution:
        """A solution in the units of the problem as it was given."""
        scale = self.objective_unit
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
        return MemberResult(
            counts=np.diff(local.indptr).astype(np.intp),
            coefficients=Entries(self.columns[local.indices], local.data),
            intercepts=intercepts,
            status=block.status,
            figures=block.figures,
            timings=block.timings,
        )


def _energy(targets: TargetArrays) -> Array:
    """‖z‖² of each target."""
    if targets.samples is not None:
        return np.asarray(np.einsum("ij,ij->i", targets.samples, targets.samples))
    assert targets.energy is not None
    return targets.energy
