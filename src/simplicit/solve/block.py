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
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from simplicit.executors import Arrays, Block, Result
from simplicit.rows import (
    BlockSolution,
    Design,
    GramDesign,
    GramProblem,
    PiecewiseQuadratic,
    RowProblem,
    SampleDesign,
    SampleProblem,
)
from simplicit.rows.active_set import solve_block_path
from simplicit.rows.design import power_of_two
from simplicit.rows.equality import solve_equality_path
from simplicit.rows.outcome import STAGES
from simplicit.rows.reference import reference_path

__all__ = ["FIGURES", "PENALTY_PARTS", "MemberSettings", "RowSettings", "RowSolver", "open_rows"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: What a block's result has for every row, beside coefficients, intercept and status.
FIGURES = ("objective", "dual_gap", "relative_gap", "cardinality_gap", "multiplier", "residual", "seconds")
#: The arrays of a penalty.
PENALTY_PARTS = ("kink", "curvature", "threshold")
#: ε of the re-weighted rounds, as a share of the row's largest coefficient.
REWEIGHTING_SHARE = 0.1


class PathSolver(Protocol):
    """Solves a block of rows under several penalties and balls, in the units of the solver."""

    def __call__(
        self, problems: Sequence[RowProblem], *, tol: float, start: torch.Tensor | None = None
    ) -> list[BlockSolution]: ...


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


def open_rows(shared: Arrays, settings: RowSettings) -> RowSolver:
    """The solver of the blocks of a work."""
    return RowSolver(shared, settings)


class RowSolver:
    """Solves blocks of one work; called with a block and its own arrays.

    Parameters
    ----------
    shared : Arrays
        ``{g}/columns``, ``{g}/units``, ``{g}/transposed`` and ``{g}/gram`` for every design g, the last two where they
        are known; ``{n}/in_ball`` and the parts of the penalty for member n where they are common to all rows;
        ``norms`` for rounds, ``feature_mean`` for intercepts.
    settings : RowSettings
    """

    def __init__(self, shared: Arrays, settings: RowSettings) -> None:
        self.shared, self.settings = shared, settings
        self.designs = [self._design(group) for group in range(len(settings.masked))]

    def _design(self, group: int) -> Design:
        units, transposed, gram = np.array(self.shared[f"{group}/units"]), f"{group}/transposed", f"{group}/gram"
        if transposed not in self.shared:
            return GramDesign(self._tensor(gram), units)
        return SampleDesign(self._tensor(transposed), units, self._tensor(gram) if gram in self.shared else None)

    def _tensor(self, name: str) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch knows no read-only tensors; nothing writes to this one
            return torch.from_numpy(self.shared[name]).to(self.settings.device)

    def __call__(self, block: Block, own: Arrays) -> Result:
        """Solve a block.

        Returns
        -------
        Result
            ``rows``, and for every member or round n: ``{n}/counts``, ``{n}/columns`` and ``{n}/values`` of the sparse
            coefficients, ``{n}/intercepts``, ``{n}/status``, ``{n}/timings`` in the order of ``STAGES``, and the
            ``FIGURES``.
        """
        part = _Part(self, block, own)
        first = part.standard()
        problems = [first, *(part.member(number, first) for number in range(1, len(self.settings.members)))]
        solve = _solver(self.settings.solver, equality=first.penalty.equality)
        solved = [
            part.restored(number, found)
            for number, found in enumerate(solve(problems, tol=self.settings.tol, start=part.start()))
        ]
        for _ in range(1, self.settings.rounds):
            before = solved[-1].coefficients
            again = part.member(0, first, discount=part.discount(before))
            (found,) = solve([again], tol=self.settings.tol, start=part.in_units(before))
            solved.append(part.restored(0, found))
        result: Result = {"rows": np.array(own["row"])}
        for number, solution in enumerate(solved):
            result |= {f"{number}/{name}": array for name, array in part.told(solution).items()}
        return result

    def largest_gradient(self, block: Block, own: Arrays) -> Array:
        """Return the largest gradient at zero in units of the kink, for every row of the block."""
        problem = _Part(self, block, own).standard()
        size = problem.on_support(problem.cross).abs()
        ratio = torch.where(size > 0, size / problem.penalty.kink, 0.0)
        return np.asarray(ratio.amax(1).cpu().numpy()) if ratio.shape[1] else np.zeros(len(block))


def _solver(name: str, *, equality: bool) -> PathSolver:
    if name == "reference":
        return reference_path
    return solve_equality_path if equality else solve_block_path


class _Part:
    """One block on its design: into the units of the solver, and back."""

    def __init__(self, solver: RowSolver, block: Block, own: Arrays) -> None:
        self.settings, self.shared, self.own = solver.settings, solver.shared, own
        self.design, self.masked = solver.designs[block.group], solver.settings.masked[block.group]
        self.columns: Index = self.shared[f"{block.group}/columns"]
        self.n_rows, self.device = len(block), self.design.device
        self.energy = np.einsum("ij,ij->i", own["targets"], own["targets"]) if "targets" in own else own["energy"]
        self.sigma = power_of_two(np.sqrt(self.energy))  # the units of the targets
        self.unit = self.design.units * self.sigma[:, None]  # of the coefficients

    def standard(self) -> RowProblem:
        """The row problems of the first member in the units of the solver."""
        own, sigma = self.own, self.sigma[:, None]
        allowed = own["support"][:, self.columns] if self.masked else None
        rest = {
            "energy": self._to(self.energy / self.sigma**2),
            "allowed": None if allowed is None or allowed.all() else self._to(allowed),
            **self._priced(0),
        }
        if isinstance(self.design, SampleDesign):
            targets = self._to(own["targets"] / sigma)
            cross = targets @ self.design.transposed.T
            return SampleProblem(design=self.design, targets=targets, cross=cross, **rest)
        cross = self._to(own["cross"][:, self.columns] * self.design.units / sigma)
        return GramProblem(design=self.design, cross=cross, **rest)

    def member(self, number: int, first: RowProblem, discount: Array | None = None) -> RowProblem:
        """The same rows under the penalty and the ball of another member, or under a discounted penalty."""
        return replace(first, **self._priced(number, discount))

    def _to(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _priced(self, number: int, discount: Array | None = None) -> dict[str, Any]:
        """Penalty and ball in the units of the solver."""
        inside = np.flatnonzero(self.shared[f"{number}/in_ball"][self.columns])
        penalty = self._penalty(number)
        if discount is not None:
            penalty = penalty.scaled(torch.from_numpy(1 - discount), 1.0)
        scale = torch.from_numpy(1 / self._objective_units(number)[:, None])
        like = torch.zeros(0, dtype=torch.float64, device=self.device)
        return {
            "penalty": penalty.scaled(scale, torch.from_numpy(self.unit)).to(like),
            "ball_columns": self._to(inside),
            "ball_weights": self._to(self.design.units[None, inside]),
            "radius": self._to((self.own[f"{number}/radius"] / self.sigma)[:, None]),
        }

    def _penalty(self, number: int) -> PiecewiseQuadratic:
        """The penalty of a member on the rows and columns of the block, as it was given."""
        parts = {}
        for name in PENALTY_PARTS:
            key = f"{number}/{name}"
            part = self.own[key] if key in self.own else self.shared[key]
            parts[name] = torch.from_numpy(np.array(part if part.shape[1] == 1 else part[:, self.columns]))
        member = self.settings.members[number]
        return PiecewiseQuadratic(**parts, equality=member.equality, cardinality=member.cardinality)

    def _objective_units(self, number: int) -> Array:
        # With exact matching the penalty is the whole objective: it is measured in units of the target alone.
        equality = self.settings.members[number].equality
        return np.asarray(self.sigma if equality else 2 * self.own["weight"] * self.sigma**2)

    def start(self) -> torch.Tensor | None:
        """The coefficients to begin from, in the units of the solver."""
        if "start/counts" not in self.own:
            return None
        dense = np.zeros((self.n_rows, self.settings.n_columns))
        rows = np.repeat(np.arange(self.n_rows), self.own["start/counts"])
        dense[rows, self.own["start/columns"]] = self.own["start/values"]
        return self.in_units(dense[:, self.columns])

    def in_units(self, coefficients: Array) -> torch.Tensor:
        """Coefficients of the problem as it was given, in the units of the solver."""
        return self._to(coefficients / self.unit)

    def discount(self, coefficients: Array) -> Array:
        """1 − ε/(|wⱼ|‖Φⱼ‖ + ε), ε a tenth of the row's largest |wⱼ|‖Φⱼ‖: what the next round takes off the penalty."""
        size = np.abs(coefficients) * self.shared["norms"][self.columns]
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

    def told(self, block: BlockSolution) -> Result:
        """A restored solution as arrays, its coefficients sparse and on all columns."""
        local = csr_array(block.coefficients)
        intercepts = np.zeros(self.n_rows)
        if "target_mean" in self.own:
            intercepts = self.own["target_mean"] - local @ self.shared["feature_mean"][self.columns]
        return {
            "counts": np.diff(local.indptr).astype(np.int64),
            "columns": self.columns[local.indices].astype(np.int64),
            "values": local.data,
            "intercepts": intercepts,
            "status": block.status.astype(np.int8),
            "timings": np.array([block.timings.get(stage, 0.0) for stage in STAGES]),
        } | {name: np.asarray(getattr(block, name), dtype=np.float64) for name in FIGURES}
