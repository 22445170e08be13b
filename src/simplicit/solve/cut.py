"""Row problems become blocks: gathered on designs by their support, sorted by how hard they are, and cut.

The split must not depend on the executor or the number of workers, or the rounding would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from simplicit.executors import Block
from simplicit.rows import PiecewiseQuadratic
from simplicit.rows.batch import Array, Index, Mask
from simplicit.rows.start import ADMM_COLUMNS
from simplicit.solve.arrays import PenaltyArrays
from simplicit.solve.sources import Source

#: Rows per block, at most: enough for matrix products to be fast, few enough to share out.
BLOCK_ROWS = 32
#: Without ADMM the supports of all rows of a block grow at once, each with a factorisation of its own to remember.
WIDE_ROWS = 8
#: Entries of a block's coefficients, at most: a dozen arrays of this size are in use at a time.
BLOCK_ENTRIES = 2**18
#: What a block costs, and what a full one costs more, in decades of difficulty between its rows.
BLOCK_COST, FULL_COST = 0.5, 0.3
#: So few rows cost as much as one.
FEW = 8
#: Rows that are cut at a time; the cuts of more are looked for piece by piece.
PIECE = 1024


@dataclass(frozen=True, eq=False)
class Problem:
    """The input in one form: every parameter laid over the r rows and d columns."""

    source: Source
    shape: tuple[int, int]  # (r, d)
    penalty: PiecewiseQuadratic
    weight: Array
    in_ball: Mask
    radius: Array
    support: Mask | None
    warm_start: csr_array | None
    device: str

    @property
    def penalty_arrays(self) -> PenaltyArrays:
        """Kink, curvature and threshold of the penalty, each (1 or r, 1 or d)."""
        parts = (self.penalty.kink, self.penalty.curvature, self.penalty.threshold)
        return PenaltyArrays(*(part.cpu().numpy().astype(np.float64, copy=False) for part in parts))


@dataclass(frozen=True, eq=False)
class Group:
    """Rows on one design."""

    rows: Index  # (n,), in the order of the blocks
    columns: Index  # (k,), those of the design, none of them zero
    sizes: tuple[int, ...]  # rows of each block
    masked: bool  # whether the rows differ in their support


def gather(problem: Problem, wanted: int | None = None) -> list[Group]:
    """The rows gathered on designs and cut into blocks, of so many rows if a number is ``wanted``."""
    hardness = _hardness(problem)
    return [_group(problem, rows, columns, hardness[rows], wanted) for rows, columns in _by_support(problem)]


def _hardness(problem: Problem) -> Array:
    """How far from w = 0 a row's solution is likely to be: 2λ‖z‖ in units of its mean kink."""
    kink = problem.penalty.kink.cpu().numpy().mean(axis=1)
    hardness = 2 * problem.weight * np.sqrt(problem.source.energies()) / np.maximum(kink, 1e-200)
    return np.broadcast_to(hardness, len(problem.weight))


def _by_support(problem: Problem) -> list[tuple[Index, Index]]:
    """Rows and columns of each design; where nearly every row has its own support, all on one design, with masks."""
    (r, d), support = problem.shape, problem.support
    if support is None:
        return [(np.arange(r), np.arange(d))]
    if support.ndim == 1:
        return [(np.arange(r), np.flatnonzero(support))]
    patterns, group = np.unique(np.packbits(support, axis=1), axis=0, return_inverse=True)
    # A Gram matrix of its own pays for four rows or more; a few small groups do no harm.
    if 4 * len(patterns) > r + 4:
        return [(np.arange(r), np.flatnonzero(support.any(axis=0)))]
    members = [np.flatnonzero(group.ravel() == g) for g in range(len(patterns))]
    return [(rows, np.flatnonzero(support[rows[0]])) for rows in members]


def _group(problem: Problem, rows: Index, columns: Index, hardness: Array, wanted: int | None) -> Group:
    support = problem.support
    masked = support is not None and support.ndim == 2 and not bool(support[np.ix_(rows, columns)].all())
    live = problem.source.live(columns)
    # Blocks of like difficulty, so that one ρ of ADMM suits a block, and the hardest first.
    order = np.argsort(-hardness, kind="stable")
    if wanted is None:
        sizes = cut_rows(hardness[order], block_rows(len(live)))
    else:
        sizes = [len(part) for part in np.array_split(order, -(-len(rows) // wanted))]
    return Group(rows[order], live, tuple(sizes), masked)


def make_blocks(groups: Sequence[Group], first: int, ends: Index) -> list[Block]:
    """The blocks of groups whose rows lie one after another, numbered from ``first``; those of the widest designs lead.

    ``ends`` (n + 1,) says where the entries of each row begin, and where the last ones end.
    """
    place, blocks = 0, list[Block]()
    for number, group in enumerate(groups):
        for size in group.sizes:
            rows = (place, place + size)
            blocks.append(Block(first + len(blocks), number, rows, (int(ends[rows[0]]), int(ends[rows[1]]))))
            place += size
    return sorted(blocks, key=lambda block: -len(groups[block.group].columns))


def block_rows(n_columns: int) -> int:
    """Rows per block for so many columns, at most."""
    usual = BLOCK_ROWS if n_columns <= ADMM_COLUMNS else WIDE_ROWS
    return min(usual, max(8, BLOCK_ENTRIES // max(1, n_columns)))


def cut_rows(hardness: Array, most: int) -> list[int]:
    """How many rows each block has, at most ``most``, where these rows are cut; their ``hardness`` (r,) ≥ 0 descends.

    The blocks minimise Σ (log₁₀ of the hardness of the first row over that of the last + BLOCK_COST + FULL_COST·(size /
    most)²), by dynamic programming, so that cuts fall between rows of different kinds where there are such: what suits
    the iterations of one row then suits all rows of its block.
    """
    if len(hardness) <= min(FEW, most):
        return [len(hardness)]
    sizes: list[int] = []
    for first in range(0, len(hardness), PIECE):
        sizes += _cut(np.log10(np.clip(hardness[first : first + PIECE], 1e-300, 1e300)), most)
    return sizes


def _cut(level: Array, most: int) -> list[int]:
    n = len(level)
    cost, begin = np.zeros(n + 1), np.zeros(n + 1, dtype=int)  # of the first rows; where their last block begins
    for end in range(1, n + 1):
        starts = np.arange(max(0, end - most), end)
        share = (end - starts) / most
        total = cost[starts] + (level[starts] - level[end - 1]) + BLOCK_COST + FULL_COST * share * share
        best = int(np.argmin(total))
        cost[end], begin[end] = total[best], starts[best]
    sizes, end = list[int](), n
    while end:
        sizes.append(end - int(begin[end]))
        end = int(begin[end])
    return sizes[::-1]
