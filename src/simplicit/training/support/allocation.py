r"""How many weights each row and layer gets: one price for a weight, everywhere.

Every row has a path of prices (:mod:`~simplicit.training.support.elimination`): what its own error ‖z − Φw‖² rises by
when it gives up one weight more. Errors of different rows do not count alike. To first order, an error e in
pre-activation i of a sample moves the outputs by e·∂y/∂zᵢ, so that the outputs' squared error is the rows' errors
weighted by their *sensitivities*

    sᵢ = mean over samples of ‖∂y/∂zᵢ‖²

A weight is kept where its price times s is above one threshold for the whole model. The threshold is the one that
leaves the wanted number of weights, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simplicit.checks import refused
from simplicit.rows.batch import Array, Index
from simplicit.training.support.elimination import EliminationPath

#: A row that no output sees counts this share of the most important one, so that its weights have an order too.
FLOOR = 1e-9


def allocate(paths: Sequence[EliminationPath], sensitivities: Array, count: int) -> Index:
    """How many weights each of r rows keeps, (r,), ``count`` in all, of no more than there are in the paths.

    The sensitivities (r,) are what a unit of each row's error counts.
    """
    prices = [path.price * s for path, s in zip(paths, sensitivities, strict=True)]
    rows = np.repeat(np.arange(len(paths)), [len(price) for price in prices])
    flat = np.concatenate(prices) if prices else np.zeros(0)
    # Stable, so that of equal prices in a row the later ones, which its elimination keeps longer, stay.
    kept = np.argsort(flat, kind="stable")[len(flat) - count :]
    return np.bincount(rows[kept], minlength=len(paths))


def least_sensitivity(highest: float) -> float:
    """What a row counts at least where the most important one counts ``highest``; above 0."""
    return FLOOR * max(highest, float(np.finfo(float).tiny))


def count_kept(total: int, sparsity: float | None, available: int) -> int:
    """How many of ``total`` weights stay at a wanted sparsity in per cent; all that are ``available`` for None.

    InputError is raised where that is more than are available.
    """
    if sparsity is None:
        return available
    count = int(total * (1 - sparsity / 100) + 1e-9)
    if count > available:
        raise refused(
            "sparsity",
            f"{sparsity:g} % cannot be reached with these settings; the nearest is {100 * (1 - available / total):.2f} "
            f"%, for there are {available:,} candidates, of the {count:,} weights wanted: take a weaker penalty for "
            "the candidates, or none, so that all weights are candidates",
        )
    return count
