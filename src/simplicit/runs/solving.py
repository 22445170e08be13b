"""Row problems from files: what is asked, and what came of it."""

from __future__ import annotations

import dataclasses
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from simplicit.checks import as_count, as_number, refused
from simplicit.errors import InputError
from simplicit.rows import L1, Penalty, PiecewiseQuadratic, RowStatus, Solution
from simplicit.runs.folder import relative_to
from simplicit.runs.options import flat
from simplicit.runs.running import Running

#: The last strength of a path that names none, as a share of the first.
SMALLEST = 1e-3


@dataclass(frozen=True)
class SolveSettings:
    """The settings of `simplicit solve`. The mathematics is that of :func:`simplicit.solve_rows`.

    Parameters
    ----------
    features : Path
        Φ, a .npy file of shape (m, d).
    targets : Path
        A .npy file of shape (m, r), one column per row problem.
    penalty : Penalty
        What h is: l1, β|w|; elastic-net, β|w| + αw²; perspective, αw² and a price γ on non-zeros, relaxed;
        basis-pursuit, |w| with exact matching; none.
    rounds : int
        Solve so many times; from the second on, what was large the time before is penalised less.
    strengths : int, optional
        Solve a path of so many strengths of the penalty, from the least at which all rows are zero downwards.
    smallest : float, optional
        The last strength of the path, as a share of the first. Default: 0.001.
    weight : float
        λ, the weight of ‖z − Φw‖².
    kappa : float, optional
        Bound on the ℓ1 norm of each row. Default: none.
    ball_columns : str, optional
        Columns that the bound sums over, START:STOP, STOP excluded. Default: all.
    support : Path, optional
        A .npy file of booleans, (d,) or (r, d): the columns that may be used. Default: all.
    intercept : bool
        Fit an unpenalised constant in each row too.
    solver : str
        What solves them: active-set, the library's own, or reference, CVXPY and Clarabel for a second opinion,
        thousands of times slower.
    running : Running
    """

    panel: ClassVar[str] = "Rows"
    arguments: ClassVar[tuple[str, ...]] = ("features", "targets")

    features: Path
    targets: Path
    penalty: Penalty = field(default_factory=L1)
    rounds: int = 1
    strengths: int | None = None
    smallest: float | None = None
    weight: float = 1.0
    kappa: float | None = None
    ball_columns: str | None = None
    support: Path | None = None
    intercept: bool = False
    solver: str = "active-set"
    running: Running = Running()  # noqa: RUF009 - it is frozen

    def __post_init__(self) -> None:
        as_count("rounds", self.rounds)
        if self.kappa is not None:
            as_number("kappa", self.kappa, positive=True)
        pieces = self.penalty.pieces(1, 1)  # checks its numbers before any work is done
        if self.ball_columns is not None and self.kappa is None:
            raise refused("ball_columns", "there is no ball without kappa, its radius; give both")
        self.columns()
        if self.strengths is not None:
            self._check_path(self.strengths, pieces)
        elif self.smallest is not None:
            raise refused("smallest", "belongs to a path; give strengths too, or leave it out")

    def _check_path(self, strengths: int, pieces: PiecewiseQuadratic) -> None:
        """Refuse what a path cannot have."""
        as_count("strengths", strengths, minimum=2)
        if not 0 < as_number("smallest", self.share) < 1:
            raise refused("smallest", f"must lie between 0 and 1, a share of the largest strength, got {self.share:g}")
        if pieces.equality or not bool(pieces.kink.any()):
            what = f"{self.penalty} makes no row zero, however strong it is, so that a path has no beginning"
            remedy = "leave strengths out, or take a penalty with beta > 0 or gamma > 0"
            raise refused("strengths", f"{what}; {remedy}")
        if self.rounds > 1:
            raise refused("rounds", "a path has no re-weighted rounds; leave out rounds or strengths")
        if self.solver == "reference":
            raise refused("solver", "a path is solved by 'active-set' alone; leave out solver or strengths")

    @property
    def files(self) -> dict[str, Path]:
        """The files that are read, by the names of their settings."""
        named = {"features": self.features, "targets": self.targets, "support": self.support}
        return {name: path for name, path in named.items() if path is not None}

    @property
    def share(self) -> float:
        """The last strength of a path, as a share of the first."""
        return SMALLEST if self.smallest is None else self.smallest

    def columns(self) -> slice:
        """`ball_columns` as a slice; InputError for anything but START:STOP with 0 <= START < STOP."""
        found = re.fullmatch(r"(\d{0,18}):(\d{0,18})", self.ball_columns or ":")
        start, stop = (int(text) if text else None for text in (found[1], found[2])) if found else (0, 0)
        if stop is not None and stop <= (start or 0):
            raise refused("ball_columns", f"expected START:STOP with 0 <= START < STOP, got {self.ball_columns!r}")
        return slice(start, stop)

    def to_config(self, folder: Path) -> dict[str, Any]:
        """Plain values for ``run.json`` in `folder`, paths as seen from there."""
        values = flat(self)
        return values | {name: relative_to(path, folder) for name, path in self.files.items()}


@dataclass(frozen=True)
class Scaled:
    """The penalty factor·h, of any other one."""

    penalty: Penalty
    factor: float

    def pieces(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        """The pieces of h, scaled."""
        pieces = self.penalty.pieces(n_rows, n_columns)
        return pieces.in_units(self.factor, np.ones(n_rows), np.ones(n_columns))


def numbers_of(penalty: Penalty) -> dict[str, float]:
    """The numbers of a penalty, by name."""
    return {name: value for name, value in flat(penalty).items() if isinstance(value, float)}


def scaled(penalty: Penalty, factor: float) -> tuple[Penalty, dict[str, float]]:
    """The penalty factor·h, and its numbers: those of h times the factor, if h is linear in them together."""
    wanted = Scaled(penalty, factor)
    numbers = {name: factor * value for name, value in numbers_of(penalty).items()}
    with suppress(InputError):  # a number that has a range of its own, such as a share
        same: Penalty = dataclasses.replace(penalty, **numbers)  # type: ignore[type-var]
        ours, theirs = same.pieces(1, 1), wanted.pieces(1, 1)
        if all(bool(torch.isclose(getattr(ours, name), getattr(theirs, name)).all()) for name in _PARTS):
            return same, numbers
    return wanted, {"factor": factor}


_PARTS = ("kink", "curvature", "threshold")


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
    """Solved rows, one member or those of a path from strong to weak, with what they were made from.

    ``inputs`` is what was read, with shapes, types and hashes, ``seconds`` the wall-clock time of each stage.
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
