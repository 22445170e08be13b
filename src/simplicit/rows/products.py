"""Large products are formed tile by tile: as fast as whole, and the same bits however many threads share the tiles.

A product by several BLAS threads is cut where their number says, and rounds accordingly. Here every tile is one product
by one thread, so that the result depends on nothing but the factors.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations_with_replacement, product

import torch

from simplicit.rows.batch import Array

#: Rows and columns of a tile: large enough for BLAS, and small enough to share out. For R of 2,048 × 1,000 tiles of 512
#: take a sixth more processor time than of 256, of 1,024 half as much again, for those on the diagonal are whole.
TILE = 512


def fill_gram(rows: Array, out: Array, threads: int | None = None) -> None:
    """Write R Rᵀ to ``out`` (k, k), exactly symmetric, from R (k, m), by torch's number of threads or another."""
    factor, strips = torch.from_numpy(rows), _strips(len(rows))

    def tile(above: slice, left: slice) -> None:
        found = factor[above] @ factor[left].T
        if above == left:
            found = found.tril() + found.tril(-1).T
        else:
            out[left, above] = found.T.numpy()
        out[above, left] = found.numpy()

    _shared_out(tile, list(combinations_with_replacement(strips, 2)), threads)


def fill_product(left: Array, right: Array, out: Array, threads: int | None = None) -> None:
    """Write L Rᵀ to ``out`` (a, b), from L (a, m) and R (b, m); ``threads`` as for :func:`fill_gram`."""
    first, second = torch.from_numpy(left), torch.from_numpy(right)

    def tile(above: slice, beside: slice) -> None:
        out[above, beside] = (first[above] @ second[beside].T).numpy()

    _shared_out(tile, list(product(_strips(len(left)), _strips(len(right)))), threads)


def _strips(length: int) -> list[slice]:
    return [slice(first, first + TILE) for first in range(0, length, TILE)]


def _shared_out(tile: Callable[[slice, slice], None], pairs: list[tuple[slice, slice]], threads: int | None) -> None:
    # In threads of their own also where one is enough: the number of BLAS threads is each thread's own affair.
    workers = max(1, min(threads or torch.get_num_threads(), len(pairs)))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(tile, *zip(*pairs, strict=True)))
