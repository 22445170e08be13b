"""One solve from problems to solutions: its blocks on an executor, with a journal, and progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.checks import as_count, as_number
from simplicit.errors import InputError
from simplicit.executors import Block, Deadline, Executor, Journal, Result, Section, digest, make_executor, run_blocks
from simplicit.executors.work import private_arrays
from simplicit.machine import available_processors, one_thread_each, versions
from simplicit.progress import Meter, OnProgress
from simplicit.rows import Solution
from simplicit.solve.block import PENALTY_PARTS, open_rows
from simplicit.solve.collect import Collected, worst_gap
from simplicit.solve.input import check_memory
from simplicit.solve.work import Problem, RowWork, make_works

__all__ = ["Method", "RunOptions", "run_problems", "solutions", "strongest"]

SOLVERS = ("active-set", "reference")


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
            raise InputError(f"tol: must lie between 0 and 1, got {self.tol!r}")
        if self.solver not in SOLVERS:
            raise InputError(f"solver: {self.solver!r} is unknown; choose one of {', '.join(map(repr, SOLVERS))}")
        as_count("rounds", self.rounds)
        if self.block_rows is not None:
            as_count("block_rows", self.block_rows)


@dataclass(frozen=True)
class RunOptions:
    """Where rows are solved, and what is kept and told meanwhile: nothing that decides what comes out.

    Parameters
    ----------
    executor, workers, ray_address, block_timeout, journal, progress
        As for :func:`simplicit.solve_rows`; ``journal`` may be one that is open already.
    part : (int, int), optional
        Solve part i of n alone: every n-th block, which the journal keeps.

    Raises
    ------
    InputError
        If something is out of range, unknown, or said twice.
    """

    executor: str | Executor = "threads"
    workers: int | None = None
    ray_address: str | None = None
    block_timeout: float | None = None
    journal: str | PathLike[str] | Journal | None = None
    progress: OnProgress | None = None
    part: tuple[int, int] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """As :func:`simplicit.solve_rows` takes them."""
        names = ("executor", "workers", "ray_address", "block_timeout", "journal", "progress")
        return {name: getattr(self, name) for name in names}

    def staged(self, stage: str) -> RunOptions:
        """The same, with progress that says which stage it is of."""
        tell = self.progress
        return self if tell is None else replace(self, progress=lambda state: tell(state.within(stage)))

    def __post_init__(self) -> None:
        if self.block_timeout is not None:
            as_number("block_timeout", self.block_timeout, positive=True)
        if isinstance(self.executor, Executor):
            for name in ("workers", "ray_address"):
                if getattr(self, name) is not None:
                    raise InputError(f"{name}: the executor given has its own; leave {name} out, or name the executor")
        if self.journal is not None and not isinstance(self.journal, str | PathLike | Journal):
            raise InputError(f"journal: expected a folder, got {self.journal!r}")

    @contextmanager
    def opened(self) -> Iterator[RunOptions]:
        """With an executor that is made already: the one given, or a new one that ends with this block."""
        if isinstance(self.executor, Executor):
            yield self
            return
        with make_executor(self.executor, self.workers, ray_address=self.ray_address) as executor:
            yield replace(self, executor=executor, workers=None, ray_address=None)

    @property
    def crew(self) -> Executor:
        """The executor, of options that are opened."""
        assert isinstance(self.executor, Executor)
        return self.executor

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


def run_problems(problems: Sequence[Problem], method: Method, options: RunOptions) -> list[Collected]:
    """Solve row problems that differ in penalty and ball alone, block by block.

    Returns
    -------
    list of Collected
        One for each problem; or, for a single one, one for each round.
    """
    shape, solves = problems[0].shape, max(len(problems), method.rounds)
    with options.opened() as options:
        check_memory(problems[0], options.crew, method.block_rows)
        works = make_works(problems, tol=method.tol, rounds=method.rounds, solver=method.solver, rows=method.block_rows)
        collected = [Collected(number, shape, method.tol) for number in range(solves)]
        facts = {
            "rows": shape[0],
            "columns": shape[1],
            "blocks": sum(len(work.blocks) for work in works),
            "members": len(problems),
            "rounds": method.rounds,
            "tol": method.tol,
        }
        key = cache(lambda: _key(problems, method))
        with options.kept("solve", key, facts) as options:
            section = options.journal.section(key(), facts) if isinstance(options.journal, Journal) else None
            _RowRun(works, collected, section, options).solve()
    return collected


def solutions(collected: Sequence[Collected], *, rounds: int) -> list[Solution]:
    """The solutions of the members; of the last round alone, with the earlier ones in it, if there are rounds."""
    found = [part.solution() for part in collected]
    return found if rounds == 1 else [replace(found[-1], earlier=tuple(found[:-1]))]


def strongest(problem: Problem) -> npt.NDArray[np.float64]:
    """The largest gradient at zero in units of the kink, (r,): the factor on the penalty that makes a row zero."""
    result = np.zeros(problem.shape[0])
    for work in make_works([problem], tol=1e-6):
        arrays = private_arrays(work.shared, work.rows, work.entries)
        with one_thread_each():
            work.fill(arrays, available_processors())
            solver = open_rows(arrays, work.settings)
            for block in work.blocks:
                result[work.numbers(block)] = solver.largest_gradient(block, work.recipe.own(arrays, block))
    return result * (1 + 8 * np.finfo(float).eps)  # zero there, whatever the rounding


class _RowRun:
    """The works of one solve, one after another."""

    def __init__(
        self, works: Sequence[RowWork], collected: list[Collected], section: Section | None, options: RunOptions
    ) -> None:
        self.works, self.collected, self.section, self.part = works, collected, section, options.part
        self.executor, self.deadline = options.crew, Deadline(options.block_timeout)
        rows = sum(len(block) for work in works for block in self._wanted(work))
        self.meter = Meter(rows * len(collected), options.progress)

    def solve(self) -> None:
        """Take what the journal has, and solve the rest; every block is in the journal before it counts."""
        for work in self.works:
            left = [block for block in self._wanted(work) if not self._resumed(work, block)]
            if not left:
                continue
            run = run_blocks(self.executor, work, left, deadline=self.deadline, thorough=self.section is not None)
            for block, result in run:
                if self.section is not None:
                    self.section.store(block.number, result)
                self._count(result)
            self.collected[0].add_seconds({"gram": work.fill_seconds})

    def _wanted(self, work: RowWork) -> list[Block]:
        if self.part is None:
            return list(work.blocks)
        number, of = self.part
        return [block for block in work.blocks if block.number % of == number - 1]

    def _resumed(self, work: RowWork, block: Block) -> bool:
        result = None if self.section is None else self.section.load(block.number)
        if result is None or not work.fits(block, result):
            return False
        self._count(result, resumed=True)
        return True

    def _count(self, result: Result, *, resumed: bool = False) -> None:
        for part in self.collected:
            part.put(result)
        members = len(self.collected)
        self.meter.count(len(result["rows"]) * members, worst_gap(result, members), resumed=resumed)


def _key(problems: Sequence[Problem], method: Method) -> str:
    """The hash of everything that decides the coefficients."""
    first = problems[0]
    parts: dict[str, Any] = {
        **{f"source {name}": value for name, value in first.source.identity().items()},
        "weight": first.weight,
        "device": first.device,
        "tol": method.tol,
        "rounds": method.rounds,
        "solver": method.solver,
        "block_rows": method.block_rows,
        "versions": versions(),
    }
    if first.support is not None:
        parts["support"] = first.support
    if first.warm_start is not None:
        parts |= {f"start {name}": getattr(first.warm_start, name) for name in ("data", "indices", "indptr")}
    for number, problem in enumerate(problems):
        penalty = problem.penalty
        parts |= {f"{number} {name}": getattr(penalty, name).cpu().numpy() for name in PENALTY_PARTS}
        parts |= {f"{number} equality": penalty.equality, f"{number} cardinality": penalty.cardinality}
        parts |= {f"{number} in_ball": problem.in_ball, f"{number} radius": problem.radius}
    return digest(parts)
