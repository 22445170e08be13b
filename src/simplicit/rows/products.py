"""Large products are formed tile by tile: as fast as whole, and the same bits however many threads share the tiles.

A product by several BLAS threads is cut where their number says, and rounds accordingly. Here every tile is one product
by one thread, so that the result depends on nothing but the factors.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float64]
Strip = slice

#: Rows and columns of a tile: large enough for BLAS, and small enough to share out. For R of 2,048 × 1,000 tiles of 512
#: take a sixth more processor time than of 256, of 1,024 half as much again, for those on the diagonal are whole.
TILE = 512


def fill_gram(rows: Array, out: Array, threads: int | None = None) -> None:
    """Write R Rᵀ to ``out`` (k, k), exactly symmetric, from R (k, m).

    Parameters
    ----------
    rows, out : arrays
    threads : int, optional
        How many to use; torch's number when left out.
    """
    factor, strips = torch.from_numpy(rows), _strips(len(rows))

    def tile(above: Strip, left: Strip) -> None:
        product = factor[above] @ factor[left].T
        if above == left:
            product = product.tril() + product.tril(-1).T
        out[above, left] = product.numpy()
        if above != left:
            out[left, above] = product.T.numpy()

    _shared_out(tile, [(above, left) for place, above in enumerate(strips) for left in strips[place:]], threads)


def fill_product(left: Array, right: Array, out: Array, threads: int | None = None) -> None:
    """Write L Rᵀ to ``out`` (a, b), from L (a, m) and R (b, m); ``threads`` as for :func:`fill_gram`."""
    first, second = torch.from_numpy(left), torch.from_numpy(right)

    def tile(above: Strip, beside: Strip) -> None:
        out[above, beside] = (first[above] @ second[beside].T).numpy()

    _shared_out(tile, [(above, beside) for above in _strips(len(left)) for beside in _strips(len(right))], threads)


def _strips(length: int) -> list[Strip]:
    return [slice(first, first + TILE) for first in range(0, length, TILE)]


def _shared_out(tile: Callable[[Strip, Strip], None], pairs: list[tuple[Any, Any]], threads: int | None) -> None:
    # In threads of their own also where one is enough: the number of BLAS threads is each thread's own affair.
    workers = max(1, min(threads or torch.get_num_threads(), len(pairs)))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(tile, *zip(*pairs, strict=True)))
