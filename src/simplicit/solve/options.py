"""How rows are solved, and where: what ``solve_rows`` and its kin take beside the problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from simplicit.checks import as_count, as_number
from simplicit.errors import InputError
from simplicit.executors import Executor, Journal, as_executor, opened
from simplicit.machine import versions
from simplicit.progress import OnProgress, within
from simplicit.solve.block import SOLVERS


@dataclass(frozen=True)
class Method:
    """How rows are solved, as far as it decides what comes out.

    Raises
    ------
    InputError
        If something is out of range or unknown.
    """

    tol: float = 1e-6
    rounds: int = 1
    solver: str = "active-set"
    block_rows: int | None = None

    def __post_init__(self) -> None:
        if not 0 < as_number("tol", self.tol) < 1:
            raise InputError(f"tol: must lie between 0 and 1, got {self.tol!r}", argument="tol")
        if self.solver not in SOLVERS:
            known = ", ".join(map(repr, SOLVERS))
            raise InputError(f"solver: {self.solver!r} is unknown; choose one of {known}", argument="solver")
        as_count("rounds", self.rounds)
        if self.block_rows is not None:
            as_count("block_rows", self.block_rows)


@dataclass(frozen=True)
class RunOptions:
    """Where rows are solved, and what is kept and reported meanwhile: nothing that decides what comes out.

    Parameters
    ----------
    executor, progress
        As for :func:`simplicit.solve_rows`.
    journal : path or Journal, optional
        The folder, or a journal that is open already, for one of several solves that it keeps.
    part : (int, int), optional
        Solve part i of n alone: every n-th block, which the journal keeps.

    Raises
    ------
    InputError
        If something is unknown, or no folder.
    """

    executor: str | Executor = "threads"
    journal: str | PathLike[str] | Journal | None = None
    progress: OnProgress | None = None
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        as_executor(self.executor)
        if self.journal is not None and not isinstance(self.journal, str | PathLike | Journal):
            raise InputError(f"journal: expected a folder, got {self.journal!r}", argument="journal")

    @property
    def arguments(self) -> dict[str, Any]:
        """As :func:`simplicit.solve_rows` takes them."""
        return {"executor": self.executor, "journal": self.journal, "progress": self.progress}

    @property
    def n_workers(self) -> int:
        """How many blocks are solved at a time."""
        return as_executor(self.executor).n_workers

    def staged(self, stage: str) -> RunOptions:
        """The same, with progress that says which stage it is of."""
        return replace(self, progress=within(self.progress, stage))

    @contextmanager
    def opened(self) -> Iterator[RunOptions]:
        """With an executor that is made already: the one given, or a new one that ends with this block."""
        with opened(self.executor) as executor:
            yield replace(self, executor=executor)

    @contextmanager
    def kept(self, kind: str, key: Callable[[], str], facts: dict[str, Any]) -> Iterator[RunOptions]:
        """With a journal that is open already, if there is to be one: the one given, or the folder's.

        Parameters
        ----------
        kind : str
            What it is a journal of.
        key : callable
            Returns the hash of what that is.
        facts : dict
            What else to say about it.
        """
        if self.journal is None or isinstance(self.journal, Journal):
            yield self
            return
        header = {"kind": kind, "versions": versions()} | facts
        with Journal.open(self.journal, key(), header, part=self.part) as journal:
            yield replace(self, journal=journal)
