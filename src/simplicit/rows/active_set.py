"""The active-set solver takes a block of rows from start to certificate: ADMM on all, then refinement by groups."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.admm import Start
from simplicit.rows.batch import Array, Index
from simplicit.rows.outcome import BlockSolution, Stage, Stopwatch
from simplicit.rows.problem import RowProblem, SampleProblem
from simplicit.rows.refinement import Refinement
from simplicit.rows.start import by_first_twins, eased, initial, seeded, without_twins

#: Bytes of factorisations that a block keeps at a time: those of 32 rows with 512 columns each.
FACTOR_BYTES = 2**26
#: A larger relative gap than this is not for want of digits alone: 12 of the 15 problems in
#: ``benchmarks/results/row_solver.md`` end below it.
ROUNDED = 1e-7


def solve_block(problem: RowProblem, *, tol: float, start: Tensor | None = None) -> BlockSolution:
    """Solve a block of row problems until gap ≤ tol·scale of their certificates.

    Rows of the start, coefficients (r, k) to begin from, are not used where they are no better than zero.
    """
    return solve_block_path([problem], tol=tol, start=start)[0]


def solve_block_path(problems: Sequence[RowProblem], *, tol: float, start: Tensor | None = None) -> list[BlockSolution]:
    """Solve problems that differ in penalty and ball alone, one after another, each from the one before.

    The polish of a row goes on from member to member, with the same factorisation as long as it serves.
    """
    begun, watch = time.perf_counter(), Stopwatch()
    if start is not None:
        start = by_first_twins(problems, start)
    problems = without_twins(problems)
    first_members = [] if start is not None else eased(problems[0])
    members = [*first_members, *problems]
    with watch.stage(Stage.ITERATIONS):
        first = initial(members[0], start)
    share = (time.perf_counter() - begun) / len(first.w)
    groups: list[list[BlockSolution]] = []
    for group in _groups(first.w.cpu().numpy()):
        found = _solved_path([member.select(group) for member in members], tol, first.select(group), watch)
        groups.append(_without_eased(list(found), len(first_members)))
        groups[-1][0].seconds[:] += share
        watch = Stopwatch()
    blocks = [BlockSolution.joined(parts) for parts in zip(*groups, strict=True)]
    return [
        _retried(block, problem, tol, alone=number == 0)
        for number, (block, problem) in enumerate(zip(blocks, problems, strict=True))
    ]


def _solved_path(problems: Sequence[RowProblem], tol: float, start: Start, watch: Stopwatch) -> Iterator[BlockSolution]:
    """Yield the solutions of a group of rows, member by member."""
    refinement = Refinement(problems[0], tol, start, watch)
    for number, problem in enumerate(problems):
        if number:
            refinement.continue_with(problem, Stopwatch())
        refinement.run(last=number == len(problems) - 1)
        yield refinement.solution()


def _without_eased(found: list[BlockSolution], eased: int) -> list[BlockSolution]:
    """Return the solutions of a group without the first ones, whose time goes to the one after them."""
    rest = found[eased:]
    for one in found[:eased]:
        rest[0] = replace(rest[0], seconds=rest[0].seconds + one.seconds, timings=rest[0].timings + one.timings)
    return rest


def _retried(block: BlockSolution, problem: RowProblem, tol: float, *, alone: bool) -> BlockSolution:
    """Solve rows that did not come near their solutions another way, and return the better of both.

    What was a member of a path is solved alone, else from zero without ADMM.
    """
    block = _with_all_digits(block, problem, tol)
    failed = np.flatnonzero(block.relative_gap > max(tol, ROUNDED))
    if not len(failed):
        return block
    part = problem.select(failed)
    if not alone:
        return block.improved(failed, solve_block(part, tol=tol))
    refinement = Refinement(part, tol, seeded(part, torch.zeros_like(part.cross)), Stopwatch())
    refinement.run()
    return block.improved(failed, refinement.solution())


def _with_all_digits(block: BlockSolution, problem: RowProblem, tol: float) -> BlockSolution:
    """Refine rows that are not converged where they are, by factorisations that do not square the condition of Φ."""
    left = np.flatnonzero(block.relative_gap > tol)
    if not len(left) or not isinstance(problem, SampleProblem):
        return block
    part = problem.select(left)
    part = replace(part, design=part.design.with_all_digits())
    w, multiplier = part.tensor(block.coefficients[left]), part.tensor(block.multiplier[left])
    refinement = Refinement(part, tol, Start(w, multiplier, torch.zeros_like(w, dtype=torch.bool)), Stopwatch())
    refinement.run()
    return block.improved(left, refinement.solution())


def _groups(w: Array) -> Iterator[Index]:
    """Yield rows whose factorisations fit in FACTOR_BYTES together."""
    size = 8 * np.maximum(np.count_nonzero(w, axis=1), 64).astype(float) ** 2
    group = ((np.cumsum(size) - size) // FACTOR_BYTES).astype(int)
    for number in np.unique(group):
        yield np.flatnonzero(group == number)
