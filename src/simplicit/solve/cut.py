"""Where to cut sorted rows into blocks: of like difficulty, of like size, and not too many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["cut_rows"]

#: What a block costs, and what a full one costs more, in decades of difficulty between its rows.
BLOCK_COST, FULL_COST = 0.5, 0.3
#: So few rows cost as much as one.
FEW = 8
#: Rows that are cut at a time; the cuts of more are looked for piece by piece.
PIECE = 1024


def cut_rows(hardness: npt.NDArray[np.float64], most: int) -> list[int]:
    """Cut rows, sorted from hard to easy, into blocks of at most ``most``.

    The blocks minimise Σ (log₁₀ of the hardness of the first row over that of the last + BLOCK_COST + FULL_COST·(size /
    most)²), by dynamic programming, so that cuts fall between rows of different kinds where there are such: what suits
    the iterations of one row then suits all rows of its block.

    Parameters
    ----------
    hardness : (r,) array
        ≥ 0, descending.
    most : int
        Rows per block.

    Returns
    -------
    list of int
        The rows of each block, in order.
    """
    if len(hardness) <= min(FEW, most):
        return [len(hardness)]
    sizes: list[int] = []
    for first in range(0, len(hardness), PIECE):
        sizes += _cut(np.log10(np.clip(hardness[first : first + PIECE], 1e-300, 1e300)), most)
    return sizes


def _cut(level: npt.NDArray[np.float64], most: int) -> list[int]:
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
