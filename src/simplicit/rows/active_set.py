"""The active-set solver takes a block of rows from start to certificate: ADMM on all, then refinement by groups."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.admm import Start, admm
from simplicit.rows.batch import Array, Index
from simplicit.rows.certificate import certify
from simplicit.rows.design import by_samples
from simplicit.rows.outcome import BlockSolution, Stage, Stopwatch
from simplicit.rows.problem import RowProblem, SampleProblem
from simplicit.rows.refinement import Refinement

#: Bytes of factorisations that a block keeps at a time: those of 32 rows with 512 columns each.
FACTOR_BYTES = 2**26
#: ADMM finds the support with up to so many columns; by samples, where an iteration takes no more products. With 2,584
#: columns the polish alone took seven times as long from zero.
ADMM_COLUMNS = 4096
#: A larger relative gap than this is not for want of digits alone: 12 of the 15 problems in
#: ``benchmarks/results/row_solver.md`` end below it.
ROUNDED = 1e-7
#: What a row without ADMM begins with in an empty ball, as a share of the largest coefficient that it may have: small,
#: so that little of it must be undone, and far from rounding. The family does not depend on it.
SEED = 1e-3
#: ADMM helps a warm start where more columns a row want in than this, or than a share of those that are in. From easy
#: to .9 and .5 of its β it takes 530 iterations; with 1,000 here none, but then there are three times as many events.
NEAR_LEAST, NEAR_SHARE = 32, 0.05
#: A start with more columns than this share of the samples is no support: the polish would take them out one by one.
CROWDED = 0.85
#: Nor does ADMM find the support of fewer samples than columns where the largest gradient is so many times the kink.
HOPELESS = 1e5
#: The continuation that takes its place begins, by ADMM, where the largest gradient is so many times the kink, and its
#: strengths fall by this factor. From 100 on, 32 noiseless rows of 256 × 512 at 6e-8 of the strength that makes them
#: zero take half as long in all as from 1; with steps of 10^(1/2) half as long again as with 10.
LEAD_RANGE, STEP = 100.0, 10.0


def admm_pays(n_samples: int | None, n_columns: int) -> bool:
    """Say whether ADMM finds the support of so many columns, not the polish alone; samples are None where unknown."""
    if n_samples is not None and by_samples(n_samples, n_columns):
        return 2 * n_columns * n_samples <= ADMM_COLUMNS**2
    return n_columns <= ADMM_COLUMNS


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
    with watch.stage(Stage.ITERATIONS):
        first, lead = _beginning(problems[0], start)
    share = (time.perf_counter() - begun) / len(first.w)
    groups: list[list[BlockSolution]] = []
    for group in _groups(first.w.cpu().numpy()):
        members = [problem.select(group) for problem in problems]
        leading = [problem.select(group) for problem in lead]
        groups.append(list(_solved_path(members, tol, first.select(group), watch, leading)))
        groups[-1][0].seconds[:] += share
        watch = Stopwatch()
    blocks = [BlockSolution.joined(parts) for parts in zip(*groups, strict=True)]
    return [
        _retried(block, problem, tol, alone=number == 0)
        for number, (block, problem) in enumerate(zip(blocks, problems, strict=True))
    ]


def _solved_path(
    problems: Sequence[RowProblem], tol: float, start: Start, watch: Stopwatch, lead: Sequence[RowProblem] = ()
) -> Iterator[BlockSolution]:
    """Yield the solutions of a group of rows, member by member; those of the lead only lead to the first."""
    members = [*lead, *problems]
    refinement, seconds = Refinement(members[0], tol, start, watch), np.zeros(len(start.w))
    for number, problem in enumerate(members):
        if number:
            refinement.continue_with(problem, watch if number <= len(lead) else Stopwatch())
        refinement.run(last=number == len(members) - 1)
        if number < len(lead):
            seconds += refinement.seconds
        else:
            solution = refinement.solution()
            solution.seconds[:] += seconds if number == len(lead) else 0.0
            yield solution


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
    refinement = Refinement(part, tol, _seeded(part, torch.zeros_like(part.cross)), Stopwatch())
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


def _initial(problem: RowProblem, start: Tensor | None) -> Start:
    """Return feasible coefficients with nearly the right support, or zero where the polish finds it by itself."""
    # Where no column wants in at zero, zero is the solution, exactly.
    wanted = problem.on_support(problem.cross.abs() > problem.penalty.kink)
    moving = wanted.any(1)
    nothing = torch.zeros_like(problem.cross)
    if not bool(moving.any()):
        return Start(nothing, nothing.sum(1), wanted)
    if start is not None:
        start = _useful(problem, start)
    # Beyond that an iteration costs as much as one of the polish, which lets columns in little by little.
    if admm_pays(problem.design.n_samples, problem.shape[1]) and (start is None or not _near(problem, start)):
        found = admm(problem, start)
    else:
        found = _seeded(problem, nothing if start is None else start)
    w = torch.where((moving & found.w.isfinite().all(1))[:, None], found.w, 0.0)
    return Start(problem.feasible(w), found.multiplier, found.undecided)


def _beginning(problem: RowProblem, start: Tensor | None) -> tuple[Start, list[RowProblem]]:
    """Return where to begin, and the members of a continuation that lead from there to the problem, if it needs one.

    A minimiser under kinks alone needs no more columns than samples. Where ADMM lets in nearly as many, or more, it has
    not found the support, for the kinks are too small beside the gradients; then the same rows under stronger ones lead
    to it column by column.
    """
    samples, penalty = problem.design.n_samples, problem.penalty
    if samples is None or not penalty.only_kinks or not bool(penalty.kink.any()):
        return _initial(problem, start), []
    ratio = _largest_ratio(problem)
    if start is not None or samples >= problem.shape[1] or float(ratio.median()) <= HOPELESS:
        first = _initial(problem, start)
        if int(first.w.count_nonzero()) <= CROWDED * samples * len(first.w):
            return first, []
    lead = _lead(problem, ratio)
    return _initial((lead or [problem])[0], None), lead


def _largest_ratio(problem: RowProblem) -> Tensor:
    """Return the largest gradient at zero in units of its kink, (r, 1), and 1 where it is below or there is none."""
    kink, size = problem.penalty.expanded(problem.shape)[0], problem.on_support(problem.cross).abs()
    return torch.where((size > 0) & (kink > 0), size / kink, 1.0).amax(1, keepdim=True).clamp(min=1.0)


def _lead(problem: RowProblem, ratio: Tensor) -> list[RowProblem]:
    """Return the same rows under stronger penalties, whose strengths fall to theirs; (r, 1) ratios as above."""
    first = (ratio / LEAD_RANGE).clamp(min=1.0)
    count = int(np.ceil(np.log(float(first.max())) / np.log(STEP)))
    factors = [first ** (1 - number / count) for number in range(count)]
    return [replace(problem, penalty=problem.penalty.scaled(factor, 1.0)) for factor in factors]


def _seeded(problem: RowProblem, w: Tensor) -> Start:
    """Return a start without ADMM.

    Where columns of the ball have no penalty of their own, all of them want in at once while the ball is slack. A path
    for such rows begins in a ball that is tight around the column that wants in most.
    """
    inside = problem.ball_columns
    kink = problem.penalty.kink.expand(problem.shape)[:, inside]
    seeded, multiplier = w.clone(), problem.cross.new_zeros(len(w))
    rows = torch.nonzero((kink == 0).any(1) & (w[:, inside] == 0).all(1))[:, 0]
    if len(rows):
        gradient = problem.on_support(problem.residuals(w)[1])[rows][:, inside]
        excess = (gradient.abs() - kink[rows]) / problem.ball_weights
        price, first = excess.max(1)
        step = torch.minimum(price, problem.radius[rows, 0] / problem.ball_weights[0, first]) * SEED
        sign = gradient.gather(1, first[:, None])[:, 0].sign()
        seeded[rows, inside[first]] = torch.where(price > 0, sign * step, 0.0)
        multiplier[rows] = price.clamp(min=0)
    return Start(seeded, multiplier, torch.zeros_like(w, dtype=torch.bool))


def _near(problem: RowProblem, start: Tensor) -> bool:
    """Say whether so few columns want in at ``start``, in the mean over the rows, that the polish does without ADMM."""
    violating = problem.residuals(start)[1].abs() > problem.penalty.kink
    wanting = problem.on_support(violating & (start == 0))
    wanting[:, problem.ball_columns] = False  # what these want depends on the multiplier
    return float(wanting.sum()) <= max(NEAR_LEAST * len(start), NEAR_SHARE * int(start.count_nonzero()))


def _useful(problem: RowProblem, start: Tensor) -> Tensor:
    """Return the start, made feasible, with the rows at zero that are no better than zero."""
    start = problem.feasible(start)
    better = certify(problem, start).objective < 0.5 * problem.energy
    return torch.where(better[:, None], start, 0.0)
