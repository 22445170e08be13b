"""Row problems from files: what is asked, and what came of it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simplicit.checks import as_count, as_number
from simplicit.errors import InputError
from simplicit.rows import RowStatus, Solution
from simplicit.runs.executors import executor_of
from simplicit.runs.folder import relative_to
from simplicit.runs.penalties import make_penalty, penalty_parameters

__all__ = ["SMALLEST", "Member", "SolveRun", "SolveSettings"]

SMALLEST = 1e-3


@dataclass(frozen=True)
class SolveSettings:
    """What `simplicit solve` is told. The mathematics is that of :func:`simplicit.solve_rows`.

    Parameters
    ----------
    features, targets : str
        Files ``.npy`` with Φ (m, d) and one target per column, (m, r).
    penalty, beta, alpha, gamma
        As in ``FitSettings``.
    kappa : float, optional
        Radius of the ball; none when left out.
    ball_columns : str, optional
        J as ``"START:STOP"``; all columns when left out.
    support : str, optional
        File ``.npy`` with booleans (d,) or (r, d).
    strengths : int, optional
        Solve a path of so many strengths, from the least at which all rows are zero down to the share `smallest` of it.
    weight, intercept, tol, rounds, solver, executor, workers, block_rows, ray_address, block_timeout, device, throw
        As in :func:`simplicit.solve_rows`.
    """

    features: str
    targets: str
    penalty: str = "l1"
    beta: float | None = None
    alpha: float | None = None
    gamma: float | None = None
    weight: float = 1.0
    kappa: float | None = None
    ball_columns: str | None = None
    support: str | None = None
    intercept: bool = False
    tol: float = 1e-6
    rounds: int = 1
    strengths: int | None = None
    smallest: float | None = None
    solver: str = "active-set"
    executor: str = "threads"
    workers: int | None = None
    block_rows: int | None = None
    ray_address: str | None = None
    block_timeout: float | None = None
    device: str = "cpu"
    throw: bool = True

    def __post_init__(self) -> None:
        as_count("rounds", self.rounds)
        executor_of(self.executor, self.workers, self.ray_address, self.block_timeout)
        kink = float(make_penalty(self.penalty, self._given).pieces(1, 1).kink.max())
        if self.ball_columns is not None:
            if self.kappa is None:
                raise InputError("ball_columns: there is no ball without kappa, its radius; give both")
            self.columns()
        if self.strengths is None:
            if self.smallest is not None:
                raise InputError("smallest: belongs to a path; give strengths too, or leave it out")
            return
        as_count("strengths", self.strengths, minimum=2)
        if not 0 < as_number("smallest", self.share) < 1:
            raise InputError(f"smallest: must lie between 0 and 1, a share of the largest strength, got {self.share:g}")
        if self.penalty in ("basis-pursuit", "none") or not kink:
            raise InputError(
                f"strengths: the penalty {self.penalty!r} with these numbers makes no row zero, however strong it is, "
                "so that a path has no beginning; leave strengths out, or take beta > 0 or gamma > 0"
            )
        if self.penalty == "l1" and self.beta is not None:
            raise InputError("beta: a path of l1 sets beta itself, from the largest that matters; leave beta out")
        if self.rounds > 1:
            raise InputError("rounds: a path has no re-weighted rounds; leave out rounds or strengths")
        if self.solver == "reference":
            raise InputError("solver: a path is solved by 'active-set' alone; leave out solver or strengths")

    @property
    def _given(self) -> dict[str, float | None]:
        return {"beta": self.beta, "alpha": self.alpha, "gamma": self.gamma}

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers of the penalty, defaults included."""
        return penalty_parameters(self.penalty, self._given)

    @property
    def share(self) -> float:
        """The last strength of a path, as a share of the first."""
        return SMALLEST if self.smallest is None else self.smallest

    def columns(self) -> slice:
        """`ball_columns` as a slice.

        Raises
        ------
        InputError
            Not START:STOP with 0 <= START < STOP.
        """
        found = re.fullmatch(r"(\d{0,18}):(\d{0,18})", self.ball_columns or ":")
        start, stop = (int(text) if text else None for text in (found[1], found[2])) if found else (0, 0)
        if stop is not None and stop <= (start or 0):
            raise InputError(f"ball_columns: expected START:STOP with 0 <= START < STOP, got {self.ball_columns!r}")
        return slice(start, stop)

    def to_config(self, folder: Path) -> dict[str, Any]:
        """Plain values for ``run.json`` in `folder`, paths as seen from there."""
        values = dataclasses.asdict(self) | self.numbers
        for name in ("features", "targets", "support"):
            if values[name] is not None:
                values[name] = relative_to(Path(values[name]), folder)
        return values


@dataclass(frozen=True, eq=False)
class Member:
    """One solution: the numbers of its penalty, its slope at 0 (what makes zeros), and the rows."""

    numbers: dict[str, float]
    kink: float
    solution: Solution

    def figures(self) -> dict[str, Any]:
        """For ``run.json`` and ``--json``."""
        rounds = [_counts(solution) for solution in (*self.solution.earlier, self.solution)]
        return self.numbers | rounds[-1] | ({"rounds": rounds} if len(rounds) > 1 else {})


def _counts(solution: Solution) -> dict[str, Any]:
    names, counts = np.unique(solution.status, return_counts=True)
    return {
        "rows_certified": int(solution.converged.sum()),
        "largest_relative_gap": float(solution.relative_gap.max(initial=0.0)),
        "non_zeros": int(solution.coefficients.nnz),
        "status": {RowStatus(int(name)).name.lower(): int(count) for name, count in zip(names, counts, strict=True)},
        "row_seconds": float(solution.seconds.sum()),
    }


@dataclass(frozen=True, eq=False)
class SolveRun:
    """Solved rows, with what they were made from.

    Parameters
    ----------
    settings : SolveSettings
    members : tuple of Member
        One, or those of a path from strong to weak.
    samples : int
    inputs : dict
        What was read, with shapes, types and hashes.
    seconds : dict
        Wall-clock time of each stage.
    """

    settings: SolveSettings
    members: tuple[Member, ...]
    samples: int
    inputs: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        rows, columns = self.members[0].solution.coefficients.shape
        return int(rows), int(columns)

    @property
    def timings(self) -> dict[str, float]:
        """Processor seconds by stage, all members and rounds together."""
        total: dict[str, float] = {}
        for member in self.members:
            for solution in (*member.solution.earlier, member.solution):
                for stage, seconds in solution.timings.items():
                    total[stage] = total.get(stage, 0.0) + seconds
        return total

    def results(self) -> dict[str, Any]:
        """The figures for ``run.json`` and ``--json``."""
        rows, columns = self.shape
        return {
            "rows": rows,
            "columns": columns,
            "samples": self.samples,
            "members": [member.figures() for member in self.members],
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "processor_seconds": {stage: round(seconds, 4) for stage, seconds in self.timings.items()},
        }
