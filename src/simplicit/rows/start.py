"""Where a block of rows begins: what ADMM finds of the support, or a start that comes near enough without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from simplicit.rows.admm import Start, admm
from simplicit.rows.certificate import certify
from simplicit.rows.design import by_samples
from simplicit.rows.problem import RowProblem

#: ADMM finds the support with up to so many columns; by samples, where an iteration takes no more products. With 2,584
#: columns the polish alone took seven times as long from zero.
ADMM_COLUMNS = 4096
#: Kinks below this share of the largest gradient are approached from there.
EASED = 1e-6
#: What a row without ADMM begins with in an empty ball, as a share of the largest coefficient that it may have: small,
#: so that little of it must be undone, and far from rounding. The family does not depend on it.
SEED = 1e-3
#: ADMM helps a warm start where more columns a row want in than this, or than a share of those that are in. From easy
#: to .9 and .5 of its β it takes 530 iterations; with 1,000 here none, but then there are three times as many events.
NEAR_LEAST, NEAR_SHARE = 32, 0.05


def admm_pays(n_samples: int | None, n_columns: int) -> bool:
    """Say whether ADMM finds the support of so many columns, not the polish alone; samples are None where unknown."""
    if n_samples is not None and by_samples(n_samples, n_columns):
        return 2 * n_columns * n_samples <= ADMM_COLUMNS**2
    return n_columns <= ADMM_COLUMNS


def eased(problem: RowProblem) -> list[RowProblem]:
    """Return the problems to solve before this one, which differ from it in their kinks alone.

    Where there are no more samples than columns and kinks far below the largest gradient, nothing that ADMM could see
    moves its iterates within the null space of Φ: nearly all columns stay in. Kinks at a share of that gradient have
    nearly the support of the smallest ones, and the polish follows it from there.
    """
    samples, columns = problem.design.n_samples, problem.shape[1]
    if samples is None or samples > columns or not problem.penalty.only_kinks:
        return []
    kink = problem.on_support(problem.penalty.kink.expand(problem.shape))
    largest, wanted = kink.amax(1, keepdim=True), EASED * problem.on_support(problem.cross.abs()).amax(1, keepdim=True)
    factor = torch.where(largest > 0, wanted / largest, 1.0).clamp(min=1.0)
    if float(factor.median()) <= 1:
        return []
    return [replace(problem, penalty=replace(problem.penalty, kink=problem.penalty.kink * factor))]


def initial(problem: RowProblem, start: Tensor | None) -> Start:
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
        found = seeded(problem, nothing if start is None else start)
    w = torch.where((moving & found.w.isfinite().all(1))[:, None], found.w, 0.0)
    return Start(problem.feasible(w), found.multiplier, found.undecided)


def without_twins(problems: Sequence[RowProblem]) -> list[RowProblem]:
    """Return the members of a path in which of columns that are equal, or opposite, only the first may be in.

    No row needs both, and with both its bases are singular. Where penalty, ball and support of all members treat them
    alike the least objective is the same, and so is every dual bound: what is proved of the one is proved of the other.
    """
    alike = _alike(problems)
    if alike is None:
        return [*problems]
    first = problems[0]
    allowed = torch.ones_like(first.cross, dtype=torch.bool) if first.allowed is None else first.allowed.clone()
    allowed[:, first.tensor(first.design.twins[0])] &= ~alike
    return [replace(problem, allowed=allowed) for problem in problems]


def by_first_twins(problems: Sequence[RowProblem], w: Tensor) -> Tensor:
    """Return coefficients (r, k) with what twins have at the first of their kind: the image is the same."""
    alike = _alike(problems)
    if alike is None:
        return w
    twins, firsts, signs = (problems[0].tensor(part) for part in problems[0].design.twins)
    w, moved = w.clone(), torch.where(alike, w[:, twins], 0.0)
    w[:, twins] -= moved
    return w.index_add_(1, firsts, moved * signs)


def _alike(problems: Sequence[RowProblem]) -> Tensor | None:
    """Say which twins (r, t) every member of a path treats as the first of their kind; None where there are none."""
    first = problems[0]
    if not all(problem.penalty.only_kinks for problem in problems) or not len(first.design.twins[0]):
        return None
    twins, firsts, _ = (first.tensor(part) for part in first.design.twins)
    alike = torch.ones(len(first.cross), len(twins), dtype=torch.bool, device=first.cross.device)
    for problem in problems:
        kink, prices = problem.penalty.kink.expand(problem.shape), problem.ball_prices
        alike &= (kink[:, twins] == kink[:, firsts]) & (prices[twins] == prices[firsts])
    return alike if first.allowed is None else alike & first.allowed[:, firsts]


def seeded(problem: RowProblem, w: Tensor) -> Start:
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
