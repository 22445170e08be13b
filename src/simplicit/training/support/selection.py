r"""The supports of rows that share a design, at a wanted number of weights in all.

The ℓ1 norm chooses non-zeros and their values at once, and its shrinkage makes it choose badly when few are to stay. So
supports begin where every row, eliminated backwards from its candidates
(:mod:`~simplicit.training.support.elimination`), has as many weights as one price for a weight leaves it
(:func:`~simplicit.training.support.allocation.allocate`), or where thresholding has all rows at once
(:mod:`~simplicit.training.support.thresholding`), and columns are exchanged until no exchange gains
(:mod:`~simplicit.training.support.exchange`). Of two starts the better end is kept.

Rows go in batches that depend on nothing but their number, each on one core, so that the number of cores does not
change the rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from simplicit.machine import one_thread_each, side_by_side
from simplicit.progress import counted
from simplicit.rows.batch import Array, Index, Mask
from simplicit.training.problem import LeastSquares
from simplicit.training.support.allocation import allocate
from simplicit.training.support.elimination import Elimination, EliminationPath
from simplicit.training.support.exchange import Exchange
from simplicit.training.support.lowrank import LowRankElimination, LowRankExchange
from simplicit.training.support.pattern import Groups
from simplicit.training.support.thresholding import SLOW_GROWTH, support_by_admm

#: After thresholding columns of d are exchanged where the squares of the supports' sizes are no more than so many d in
#: the mean: where it takes no more products than thresholding. With 1,536 columns, half of them kept, it takes 1 % off
#: the error, with 384 a fifth of that.
EXCHANGED = 480


@dataclass(frozen=True, eq=False)
class Selection:
    """The supports (r, d) of some rows, and the coefficients (r, d) of least squares on them, without a ball.

    ``exchanged`` is how many columns differ from where the exchanges began.
    """

    support: Mask
    coefficients: Array
    exchanged: int


def elimination_paths(
    problem: LeastSquares, candidates: Mask, workers: int, *, priced: bool = True
) -> list[EliminationPath]:
    """The paths of all rows from their candidates, (r, d), to none; so many batches of rows at a time.

    Under a pattern they begin where a row has as many columns as that allows. If they are not ``priced``, rows keep
    these, and costs are zero.
    """
    found: dict[int, EliminationPath] = {}
    with one_thread_each():
        # Rows with the same candidates, such as all of a dense layer, start from the same inverse.
        for rows in _alike(candidates, problem.groups):
            begin, cross = _elimination(problem, np.flatnonzero(candidates[rows[0]]), rows), problem.cross[rows]
            parts = [cross[batch] for batch in begin.batches(len(rows))]
            paths = counted(side_by_side(partial(begin.paths, priced=priced), parts, workers), "path", len(parts))
            found.update(zip(rows, chain(*paths), strict=True))
    return [found[i] for i in range(len(candidates))]


def _elimination(problem: LeastSquares, columns: Index, rows: list[int]) -> Elimination | LowRankElimination:
    """What some rows of a problem with these candidates start from, in the cheaper form."""
    groups = None if problem.groups is None else problem.groups.of_rows(rows[:1])
    low_rank = problem.low_rank_for(len(columns))
    if low_rank is None:
        return Elimination.of(problem.gram, columns, groups)
    return LowRankElimination(low_rank, columns, None if groups is None else groups.on(columns))


def select(
    problem: LeastSquares,
    paths: Sequence[EliminationPath],
    sensitivities: Array,
    count: int,
    workers: int,
    *,
    thresholding: bool,
) -> Selection:
    """The supports with ``count`` weights in all, after exchanges, from the paths of the problem's rows.

    ``sensitivities`` (r,) are those of :func:`~simplicit.training.support.allocation.allocate`, and ``workers`` so many
    batches of rows at a time. With ``thresholding`` a support is also sought from the baseline's weights by that, and
    the better of the two is taken.
    """
    starts = []
    if paths:
        eliminated = np.zeros(problem.support.shape, dtype=bool)
        for row, path, kept in zip(eliminated, paths, allocate(paths, sensitivities, count), strict=True):
            row[path.left(kept)] = True
        starts.append(eliminated)
    if thresholding:
        starts.append(_thresholded(problem, sensitivities, count, workers))
    # Elimination took more than exchanges will.
    sizes = np.count_nonzero(starts[0], axis=1)
    pays = bool(paths) or float(np.square(sizes).mean()) <= EXCHANGED * len(problem.gram)
    found = [_exchanged(problem, support, workers, pays=pays) for support in starts]
    # wᵀHw − 2cᵀw is −cᵀw at least squares on a support.
    losses = [-float(sensitivities @ np.einsum("ij,ij->i", problem.cross, w)) for _, w in found]
    best = int(np.argmin(losses))
    support, coefficients = found[best]
    return Selection(support, coefficients, int((support & ~starts[best]).sum()))


def _exchanged(problem: LeastSquares, start: Mask, workers: int, *, pays: bool) -> tuple[Mask, Array]:
    """The support after exchanges, where that pays, and least squares on it."""
    allowed, cross, sizes = problem.support, problem.cross, np.count_nonzero(start, axis=1)
    low_rank = problem.low_rank_for(int(sizes.mean()))
    rows = Exchange.of(problem.gram) if low_rank is None else LowRankExchange(low_rank)
    pays, batches = pays or low_rank is not None, rows.batches(sizes)
    support, coefficients = np.zeros_like(start), np.zeros(start.shape)

    def exchanged(batch: Index) -> tuple[Mask, Array]:
        own = None if problem.groups is None else problem.groups.of_rows(batch)
        return rows.supports(cross[batch], start[batch], allowed[batch], exchanged=pays, groups=own)

    with one_thread_each():
        found = counted(side_by_side(exchanged, batches, workers), "exchange", len(batches))
        for batch, (chosen, values) in zip(batches, found, strict=True):
            support[batch], coefficients[batch] = chosen, values
    return support, coefficients


def _thresholded(problem: LeastSquares, sensitivities: Array, count: int, workers: int) -> Mask:
    """A support of all rows together, errors weighted by the sensitivities."""
    units, weights = np.sqrt(problem.gram.diagonal()), np.sqrt(sensitivities / sensitivities.max())[:, None]
    low_rank = problem.low_rank
    H = problem.gram / np.outer(units, units) if low_rank is None else partial(low_rank.resolvent, 1 / units)
    with one_thread_each():
        return support_by_admm(
            H,
            weights * problem.cross / units,
            weights * problem.weights * units,
            count,
            problem.support,
            problem.groups,
            growth=SLOW_GROWTH,
            workers=workers,
        )


def _alike(candidates: Mask, groups: Groups | None = None) -> list[list[int]]:
    """The rows, with those of equal candidates, and groups of columns, together."""
    found: dict[bytes, list[int]] = {}
    for i, row in enumerate(candidates):
        found.setdefault(row.tobytes() + (b"" if groups is None else groups.row(i)), []).append(i)
    return list(found.values())
