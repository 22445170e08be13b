"""How rows are solved, and where: what ``solve_rows`` and its kin take beside the problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from torch import Tensor

from simplicit.checks import as_count, as_number, as_path, check_choice, refused
from simplicit.executors import Executor, Journal, as_executor
from simplicit.machine import versions
from simplicit.progress import OnProgress
from simplicit.rows.active_set import solve_block_path
from simplicit.rows.equality import solve_equality_path
from simplicit.rows.outcome import BlockSolution
from simplicit.rows.problem import RowProblem
from simplicit.rows.reference import reference_path

#: Solves a block of rows under several penalties and balls to a relative gap, from coefficients (r, k) or from zero.
PathSolver = Callable[[Sequence[RowProblem], float, Tensor | None], list[BlockSolution]]


def _active_set_path(problems: Sequence[RowProblem], tol: float, start: Tensor | None) -> list[BlockSolution]:
    solve = solve_equality_path if problems[0].penalty.equality else solve_block_path
    return solve(problems, tol=tol, start=start)


#: By their names as :func:`simplicit.solve_rows` takes them.
SOLVERS: dict[str, PathSolver] = {"active-set": _active_set_path, "reference": reference_path}


@dataclass(frozen=True)
class Method:
    """How rows are solved, as far as it decides what comes out; InputError for what is out of range or unknown."""

    tol: float = 1e-6
    rounds: int = 1
    solver: str = "active-set"
    block_rows: int | None = None

    def __post_init__(self) -> None:
        if not 0 < as_number("tol", self.tol) < 1:
            raise refused("tol", f"must lie between 0 and 1, got {self.tol!r}")
        check_choice("solver", self.solver, SOLVERS)
        as_count("rounds", self.rounds)
        if self.block_rows is not None:
            as_count("block_rows", self.block_rows)


@dataclass(frozen=True)
class RunOptions:
    """Where rows are solved, and what is kept and reported meanwhile: nothing that decides what comes out.

    All is as for :func:`simplicit.solve_rows`, but that a journal may be open already, for one of several solves that
    it keeps, and that part i of n may be solved alone: every n-th block. InputError is raised for what is unknown.
    """

    executor: str | Executor = "threads"
    journal: str | PathLike[str] | Journal | None = None
    progress: OnProgress | None = None
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        as_executor(self.executor)
        if self.journal is not None and not isinstance(self.journal, Journal):
            as_path("journal", self.journal)
        if not (self.progress is None or callable(self.progress)):
            raise refused("progress", f"expected a function of a Progress, got {self.progress!r}")

    @property
    def arguments(self) -> dict[str, Any]:
        """As :func:`simplicit.solve_rows` takes them."""
        return {"executor": self.executor, "journal": self.journal, "progress": self.progress}

    @property
    def n_workers(self) -> int:
        """How many blocks are solved at a time."""
        return as_executor(self.executor).n_workers

    @contextmanager
    def opened(self) -> Iterator[RunOptions]:
        """With an executor that is made already: the one given, or a new one whose workers end with this block."""
        executor = as_executor(self.executor)
        try:
            yield replace(self, executor=executor)
        finally:
            if executor is not self.executor:
                executor.close()

    @contextmanager
    def kept(self, kind: str, key: Callable[[], str], facts: dict[str, Any]) -> Iterator[RunOptions]:
        """With a journal that is open already, if there is to be one: the one given, or the folder's.

        That is one of a ``kind``, such as "solve"; ``key`` returns the hash of what is solved, and the ``facts`` are
        what else its header says.
        """
        if self.journal is None or isinstance(self.journal, Journal):
            yield self
            return
        header = {"kind": kind, "versions": versions()} | facts
        with Journal.open(self.journal, key(), header, part=self.part) as journal:
            yield replace(self, journal=journal)
