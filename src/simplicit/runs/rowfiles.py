"""Row problems from files: solved at once, in parts, or from the journals that parts have left.

A journal written here has a file ``solve.json`` beside its blocks, with what a run's folder tells of files and
settings, so that merging needs the journals alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.checks import refused
from simplicit.errors import DataError, InputError
from simplicit.files import file_hash, read_json, write_json
from simplicit.progress import OnProgress
from simplicit.rows import Ball, Penalty
from simplicit.runs.npy import map_npy
from simplicit.runs.options import flat, restored
from simplicit.runs.solving import Member, SolveRun, SolveSettings, numbers_of, scaled
from simplicit.solve.front import beta_max, raise_unconverged, solve_path, solve_rows
from simplicit.solve.parts import JournalState, merge_journals, solve_part

RECORD = "solve.json"


def run_solve(settings: SolveSettings, *, journal: Path | None = None, progress: OnProgress | None = None) -> SolveRun:
    """Read the files and solve; `journal`, `progress` and errors are as in :func:`simplicit.solve_rows`."""
    files = _Files(settings)
    begun = time.perf_counter()
    with files.named(), settings.running.executor:
        pairs = files.penalties()
        penalties = [penalty for penalty, _ in pairs]
        running = vars(settings.running) | {"journal": journal, "progress": progress}
        if settings.strengths is None:
            running |= {"rounds": settings.rounds, "solver": settings.solver}
            solutions = [solve_rows(penalty=penalties[0], **files.problem, **running)]
        else:
            solutions = solve_path(penalties=penalties, **files.problem, **running)
    seconds = {"hashing": files.seconds, "solving": time.perf_counter() - begun}
    if journal is not None:
        files.record(journal, pairs)
    members = tuple(
        Member(numbers, _kink(penalty), solution) for (penalty, numbers), solution in zip(pairs, solutions, strict=True)
    )
    return SolveRun(settings, members, files.samples, files.inputs, seconds)


def run_part(
    settings: SolveSettings, part: tuple[int, int], *, journal: Path, progress: OnProgress | None = None
) -> JournalState:
    """Read the files and solve one part of the blocks into a journal, for :func:`merge_solve`; return what is in it.

    `part` says which, from 1, and of how many, as for :func:`simplicit.solve_part`.
    """
    files = _Files(settings)
    with files.named(), settings.running.executor:
        pairs = files.penalties()
        penalties = [penalty for penalty, _ in pairs]
        running = {name: value for name, value in vars(settings.running).items() if name != "throw"}
        running |= {"rounds": settings.rounds, "solver": settings.solver, "progress": progress}
        state = solve_part(part, penalties=penalties, journal=journal, **files.problem, **running)
    files.record(journal, pairs)
    return state


def merge_solve(journals: Sequence[Path], *, throw: bool | None = None) -> SolveRun:
    """The solution that the blocks in some journals make together, as :func:`simplicit.merge_journals`.

    `throw` is that of the parts when left out. Journals that Python has written without ``simplicit solve`` are refused
    by an InputError.
    """
    begun = time.perf_counter()
    solutions = merge_journals(journals)
    found = next((journal for journal in journals if (journal / RECORD).is_file()), None)
    if found is None:
        raise InputError(
            f"journal {journals[0]}: has no {RECORD}, `simplicit solve` has not written it; in Python, "
            "simplicit.merge_journals returns its solution"
        )
    record = read_json(found / RECORD)
    try:
        settings = restored(SolveSettings, record["settings"])
        members = tuple(
            Member(member["numbers"], member["kink"], solution)
            for member, solution in zip(record["members"], solutions, strict=True)
        )
        samples, inputs = int(record["samples"]), dict(record["inputs"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{found / RECORD}: damaged ({error}); solve a part again to write it anew") from error
    if settings.running.throw if throw is None else throw:
        for solution in solutions:
            raise_unconverged(solution)
    return SolveRun(settings, members, samples, inputs, {"merging": time.perf_counter() - begun})


class _Files:
    """The files of a solve, mapped into memory and hashed: ``problem`` are the arguments of the solvers.

    ``inputs`` is what was read, with shapes, types and hashes, ``seconds`` what hashing took.
    """

    def __init__(self, settings: SolveSettings) -> None:
        self.settings, self.paths = settings, settings.files
        arrays = {name: map_npy(path) for name, path in self.paths.items()}
        features, targets = arrays["features"], arrays["targets"]
        if targets.ndim == 1:
            what = f"shape {targets.shape} is one target; save targets[:, None], a column per row"
            raise InputError(f"targets {self.paths['targets']}: {what}", argument="targets")
        self.problem: dict[str, Any] = {"features": features, "targets": targets}
        self.problem |= {"weight": settings.weight, "intercept": settings.intercept}
        if "support" in arrays:
            self.problem["support"] = np.array(arrays["support"])
        with self.named():
            self.problem["ball"] = _ball(settings, features)
        begun = time.perf_counter()
        self.inputs = {
            name: {"shape": list(array.shape), "dtype": str(array.dtype), "hash": file_hash(self.paths[name])}
            for name, array in arrays.items()
        }
        self.samples, self.seconds = len(features), time.perf_counter() - begun

    def penalties(self) -> list[tuple[Penalty, dict[str, float]]]:
        """The penalty, or those of the path, each with its numbers."""
        settings = self.settings
        if settings.strengths is None:
            return [(settings.penalty, numbers_of(settings.penalty))]
        unbounded = {name: value for name, value in self.problem.items() if name != "ball"}
        largest = float(beta_max(**unbounded).max())
        if not largest:
            raise refused("strengths", "every target is zero or orthogonal to all columns, so all rows are zero anyway")
        first = largest / _kink(settings.penalty)
        shares = np.geomspace(1.0, settings.share, settings.strengths).tolist()
        return [scaled(settings.penalty, first * share) for share in shares]

    def record(self, journal: Path, pairs: Sequence[tuple[Penalty, dict[str, float]]]) -> None:
        """Leave in a journal what merging has to know beside its blocks."""
        settings = flat(self.settings) | {name: str(path.resolve()) for name, path in self.paths.items()}
        members = [{"numbers": numbers, "kink": _kink(penalty)} for penalty, numbers in pairs]
        found = {"settings": settings, "inputs": self.inputs, "samples": self.samples, "members": members}
        write_json(journal / RECORD, found)

    @contextmanager
    def named(self) -> Iterator[None]:
        """An error about an array names the file that it came from."""
        try:
            yield
        except InputError as error:
            name = error.argument
            if name is None or name not in self.paths:
                raise
            raise InputError(f"{name} {self.paths[name]}{str(error)[len(name) :]}", argument=name) from error


def _kink(penalty: Penalty) -> float:
    return float(penalty.pieces(1, 1).kink.max())


def _ball(settings: SolveSettings, features: npt.NDArray[Any]) -> Ball | None:
    if settings.kappa is None:
        return None
    columns = settings.columns()
    last = columns.stop or (columns.start or 0) + 1
    if features.ndim == 2 and last > features.shape[1]:
        what = f"{settings.ball_columns} goes beyond the {features.shape[1]} columns of features"
        raise refused("ball_columns", what)
    return Ball(settings.kappa, columns)
