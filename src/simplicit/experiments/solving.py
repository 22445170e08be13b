"""Row problems from files: what is asked, and its solution."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.checks import as_count, as_number
from simplicit.errors import InputError
from simplicit.executors import OnProgress
from simplicit.experiments.npy import map_npy
from simplicit.experiments.penalties import make_penalty, penalty_parameters, scaled_penalty
from simplicit.experiments.run import file_hash, relative_to
from simplicit.rows import Ball, Penalty, RowStatus, Solution
from simplicit.solve import beta_max, solve_path, solve_rows

__all__ = ["SMALLEST", "Member", "SolveRun", "SolveSettings", "run_solve"]

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
    weight, intercept, tol, rounds, solver, executor, workers, device, throw
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
    device: str = "cpu"
    throw: bool = True

    def __post_init__(self) -> None:
        as_count("rounds", self.rounds)
        kink = float(make_penalty(self.penalty, self._given).spread(1, 1).kink.max())
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


def run_solve(settings: SolveSettings, *, progress: OnProgress | None = None) -> SolveRun:
    """Read the files and solve.

    Raises
    ------
    SimplicitError
        As :func:`simplicit.solve_rows`; what is wrong with a file names it.
    """
    paths = {"features": Path(settings.features), "targets": Path(settings.targets)}
    if settings.support is not None:
        paths["support"] = Path(settings.support)
    arrays = {name: map_npy(path) for name, path in paths.items()}
    features, targets = arrays["features"], arrays["targets"]
    if targets.ndim == 1:
        raise InputError(
            f"targets {paths['targets']}: shape {targets.shape} is one target; save targets[:, None], a column per row"
        )
    with _named(paths):
        ball = _ball(settings, features)
        shared: dict[str, Any] = {"weight": settings.weight, "intercept": settings.intercept}
        if "support" in arrays:
            shared["support"] = np.array(arrays["support"])
        inputs, seconds = {}, {}
        begun = time.perf_counter()
        for name, path in paths.items():
            inputs[name] = {
                "shape": list(arrays[name].shape),
                "dtype": str(arrays[name].dtype),
                "hash": file_hash(path),
            }
        seconds["hashing"] = time.perf_counter() - begun
        begun = time.perf_counter()
        members = _solved(settings, features, targets, shared, ball, progress)
        seconds["solving"] = time.perf_counter() - begun
    return SolveRun(settings, members, len(features), inputs, seconds)


def _solved(
    settings: SolveSettings,
    features: Any,
    targets: Any,
    shared: dict[str, Any],
    ball: Ball | None,
    progress: OnProgress | None,
) -> tuple[Member, ...]:
    running: dict[str, Any] = {
        "ball": ball,
        "tol": settings.tol,
        "executor": settings.executor,
        "workers": settings.workers,
        "device": settings.device,
        "throw": settings.throw,
        "progress": progress,
    }
    name = settings.penalty
    if settings.strengths is None:
        penalty = make_penalty(name, settings.numbers)
        solution = solve_rows(
            features,
            targets,
            penalty=penalty,
            rounds=settings.rounds,
            solver=settings.solver,
            **shared,
            **running,
        )
        return (Member(settings.numbers, _kink(penalty), solution),)
    largest = float(beta_max(features, targets, **shared).max())
    if not largest:
        raise InputError("strengths: every target is zero or orthogonal to all columns, so all rows are zero anyway")
    first = largest / _kink(make_penalty(name, settings.numbers))
    pairs = [
        scaled_penalty(name, settings.numbers, first * share)
        for share in np.geomspace(1.0, settings.share, settings.strengths).tolist()
    ]
    solutions = solve_path(features, targets, [penalty for penalty, _ in pairs], **shared, **running)
    return tuple(
        Member(numbers, _kink(penalty), solution) for (penalty, numbers), solution in zip(pairs, solutions, strict=True)
    )


def _kink(penalty: Penalty) -> float:
    return float(penalty.spread(1, 1).kink.max())


def _ball(settings: SolveSettings, features: npt.NDArray[Any]) -> Ball | None:
    if settings.kappa is None:
        return None
    columns = settings.columns()
    last = columns.stop or (columns.start or 0) + 1
    if features.ndim == 2 and last > features.shape[1]:
        raise InputError(
            f"ball_columns: {settings.ball_columns} goes beyond the {features.shape[1]} columns of features"
        )
    return Ball(settings.kappa, columns)


@contextmanager
def _named(paths: dict[str, Path]) -> Iterator[None]:
    """An error about an array names the file that it came from."""
    try:
        yield
    except InputError as error:
        name = re.match(r"\w+", str(error))
        if name is None or name[0] not in paths:
            raise
        raise InputError(f"{name[0]} {paths[name[0]]}{str(error)[name.end() :]}") from error
