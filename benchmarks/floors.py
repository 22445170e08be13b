"""The floor: what no method that ends on an exact support can avoid.

One Gram matrix, and one Cholesky factorisation per row on the row's final support, by the BLAS that the solver uses.
Measured in two ways, and the faster one counts: the rows one after another, each factorisation on all threads, or the
rows shared out over threads, one BLAS thread each, the largest first.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

Array = npt.NDArray[np.float64]


def median_of(repeats: int, run: Callable[[], Any]) -> tuple[float, Any]:
    """Median wall-clock seconds, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        result = None  # the one before must not count as memory of this one
        begun = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds), result


def supports_of(coefficients: csr_array) -> list[Tensor]:
    """Column indices of every row's non-zeros."""
    parts = np.split(coefficients.indices.astype(np.int64), coefficients.indptr[1:-1])
    return [torch.from_numpy(np.ascontiguousarray(part)) for part in parts]


def floor_seconds(features: Array, coefficients: csr_array, repeats: int, *, blocks: bool = False) -> dict[str, float]:
    """Median seconds of both ways, and of the faster one as ``floor_seconds``.

    Parameters
    ----------
    features : (m, d) array
    coefficients : csr_array of shape (r, d)
        Only the places of the non-zeros matter.
    repeats : int
    blocks : bool
        Compute, per row, only the block of the Gram matrix on its support: the least work where d is far above m.
    """
    phi, supports = torch.from_numpy(features), supports_of(coefficients)
    one_after_another, _ = median_of(repeats, lambda: factorise(phi, supports, blocks=blocks))
    shared_out, _ = median_of(repeats, lambda: factorise_shared(phi, supports, blocks=blocks))
    return {
        "floor_seconds": min(one_after_another, shared_out),
        "floor_all_threads_per_row": one_after_another,
        "floor_rows_over_threads": shared_out,
    }


def factorise(phi: Tensor, supports: Sequence[Tensor], *, blocks: bool) -> None:
    """Row after row, every operation on all threads."""
    gram = None if blocks else phi.T @ phi
    for support in supports:
        _factorise_one(phi, gram, support)


def factorise_shared(phi: Tensor, supports: Sequence[Tensor], *, blocks: bool) -> None:
    """The Gram matrix on all threads, then the rows over as many threads, one BLAS thread each."""
    gram = None if blocks else phi.T @ phi
    threads = torch.get_num_threads()
    in_order = sorted(supports, key=len, reverse=True)
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for done in [pool.submit(_factorise_one, phi, gram, support) for support in in_order]:
                done.result()
    finally:
        torch.set_num_threads(threads)


def _factorise_one(phi: Tensor, gram: Tensor | None, support: Tensor) -> None:
    if gram is None:
        columns = phi.index_select(1, support)
        block = columns.T @ columns
    else:
        chosen = support.numpy()  # NumPy gathers twice as fast as torch
        block = torch.from_numpy(gram.numpy().take(chosen, 0).take(chosen, 1))
    with contextlib.suppress(np.linalg.LinAlgError):  # where the block is singular its factorisation costs the same
        np.linalg.cholesky(block.numpy())
