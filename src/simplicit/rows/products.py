"""G = ΦᵀΦ tile by tile: as fast as whole, exactly symmetric, and the same bits however many threads share the tiles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["TILE", "fill_gram"]

Array = npt.NDArray[np.float64]

#: Columns of a tile: its two strips of Φᵀ and itself then are large enough for BLAS and small enough to share out.
TILE = 512


def fill_gram(transposed: Array, out: Array, threads: int) -> None:
    """Write ΦᵀΦ to ``out`` (k, k), from Φᵀ (k, m).

    A product by several BLAS threads is cut where their number says, and rounds accordingly. Here every tile is one
    product by one thread, so that the result depends on nothing but Φ. The caller keeps BLAS to one thread per thread.
    """
    strips = [slice(first, first + TILE) for first in range(0, len(transposed), TILE)]
    rows = torch.from_numpy(transposed)

    def tile(pair: tuple[slice, slice]) -> None:
        above, left = pair
        product = rows[above] @ rows[left].T
        if above == left:
            product = product.tril() + product.tril(-1).T
        out[above, left] = product.numpy()
        if above != left:
            out[left, above] = product.T.numpy()

    pairs = [(above, left) for place, above in enumerate(strips) for left in strips[place:]]
    if threads == 1 or len(pairs) == 1:
        for pair in pairs:
            tile(pair)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(tile, pairs))
