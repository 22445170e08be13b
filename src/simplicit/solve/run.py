"""One solve from problems to solutions: its blocks on an executor, with a journal, and progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np

from simplicit.executors import Block, Deadline, Executor, Journal, Section, as_executor, digest, run_blocks
from simplicit.executors.records import allocate, flatten
from simplicit.machine import available_processors, one_thread_each, versions
from simplicit.progress import listening, phase
from simplicit.rows.batch import Array
from simplicit.rows.outcome import Stage
from simplicit.solve.arrays import BlockResult
from simplicit.solve.block import RowSolver
from simplicit.solve.collect import Collected, SolveFacts
from simplicit.solve.cut import Problem
from simplicit.solve.memory import check_memory
from simplicit.solve.options import Method, RunOptions
from simplicit.solve.work import RowWork, make_works


def run_problems(problems: Sequence[Problem], method: Method, options: RunOptions) -> Collected:
    """Solve row problems that differ in penalty and ball alone, block by block."""
    with listening(options.progress), options.opened() as options:
        executor = as_executor(options.executor)
        check_memory(problems[0], executor, method.block_rows)
        works = make_works(problems, method)
        blocks, (rows, columns) = sum(len(work.blocks) for work in works), problems[0].shape
        facts = SolveFacts(rows, columns, blocks, len(problems), method.rounds, method.tol)
        key = cache(lambda: _key(problems, method))
        with options.kept("solve", key, asdict(facts)) as options:
            section = options.journal.section(key(), asdict(facts)) if isinstance(options.journal, Journal) else None
            run = _RowRun(works, facts, section, executor, options)
            run.solve()
    return run.collected


def strongest(problem: Problem) -> Array:
    """The largest gradient at zero in units of the kink, (r,): the factor on the penalty that makes a row zero."""
    result = np.zeros(problem.shape[0])
    for work in make_works([problem], Method()):
        arrays = allocate(work.arrays)
        with one_thread_each():
            work.fill(arrays, available_processors())
            solver = RowSolver(arrays.shared, work.settings)
            for block in work.blocks:
                rows, _ = arrays.own(block)
                result[work.numbers(block)] = solver.largest_gradient(block, rows)
    return result * (1 + 8 * np.finfo(float).eps)  # zero there, whatever the rounding


class _RowRun:
    """The works of one solve, one after another."""

    def __init__(
        self,
        works: Sequence[RowWork],
        facts: SolveFacts,
        section: Section | None,
        executor: Executor,
        options: RunOptions,
    ) -> None:
        self.works, self.section, self.part = works, section, options.part
        self.executor, self.deadline = executor, Deadline(executor.block_timeout)
        self.collected, self.solves = Collected(facts), facts.solves
        self.rows = sum(len(block) for work in works for block in self._wanted(work))

    def solve(self) -> None:
        """Take what the journal has, and solve the rest; every block is in the journal before it counts."""
        with phase("rows", self.rows * self.solves) as self.meter:
            self._solve()

    def _solve(self) -> None:
        for work in self.works:
            left = [block for block in self._wanted(work) if not self._resumed(work, block)]
            if not left:
                continue
            thorough = self.section is not None
            for block, result in run_blocks(self.executor, work, left, deadline=self.deadline, thorough=thorough):
                if self.section is not None:
                    self.section.store(block.number, result)
                self._count(result)
            self.collected.add_seconds(Stage.GRAM, work.fill_seconds)

    def _wanted(self, work: RowWork) -> list[Block]:
        if self.part is None:
            return list(work.blocks)
        number, of = self.part
        return [block for block in work.blocks if block.number % of == number - 1]

    def _resumed(self, work: RowWork, block: Block) -> bool:
        result = None if self.section is None else self.section.load(block.number, BlockResult)
        if result is None or not work.fits(block, result):
            return False
        self._count(result, resumed=True)
        return True

    def _count(self, result: BlockResult, *, resumed: bool = False) -> None:
        self.collected.put(result)
        worst_gap = max(float(member.figures.relative_gap.max(initial=0.0)) for member in result.members)
        self.meter.count(len(result.rows) * self.solves, worst_gap, resumed=resumed)


def _key(problems: Sequence[Problem], method: Method) -> str:
    """The hash of everything that decides the coefficients."""
    first = problems[0]
    parts: dict[str, Any] = {
        **{f"source {name}": value for name, value in first.source.identity().items()},
        "weight": first.weight,
        "device": first.device,
        "versions": versions(),
        **asdict(method),
    }
    if first.support is not None:
        parts["support"] = first.support
    if first.warm_start is not None:
        parts |= {f"start {name}": getattr(first.warm_start, name) for name in ("data", "indices", "indptr")}
    for number, problem in enumerate(problems):
        penalty = problem.penalty
        parts |= {f"{number} {name}": array for name, array in flatten(problem.penalty_arrays).items()}
        parts |= {f"{number} equality": penalty.equality, f"{number} cardinality": penalty.cardinality}
        parts |= {f"{number} in_ball": problem.in_ball, f"{number} radius": problem.radius}
    return digest(parts)
