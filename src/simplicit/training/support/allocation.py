r"""How many weights each row and layer gets: one price for a weight, everywhere.

Every row has a path of prices (:mod:`~simplicit.training.support.elimination`): what its own error ‖z − Φw‖² rises by
when it gives up one weight more. Errors of different rows do not count alike. To first order, an error e in
pre-activation i of a sample moves the outputs by e·∂y/∂zᵢ, so that the outputs' squared error is the rows' errors
weighted by their *sensitivities*

    sᵢ = mean over samples of ‖∂y/∂zᵢ‖²

A weight is kept where its price times s is above one threshold for the whole model. The threshold is the one that
leaves the wanted number of weights, exactly.

How many a whole layer keeps needs no path of every row: of a layer with many rows every nth may stand for n of them,
with the rows in the order of what a row has to lose (:func:`spread`). The number is that of all rows up to the spread
within n neighbours of that order, which comes to little in their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simplicit.checks import refused
from simplicit.rows.batch import Array, Index
from simplicit.training.support.elimination import EliminationPath

#: A row that no output sees counts this share of the most important one, so that its weights have an order too.
FLOOR = 1e-9


@dataclass(frozen=True, eq=False)
class Part:
    """Rows that are given a number of weights together, by the paths of all or of some of them.

    ``available`` is the number of candidates of all; the ``sensitivities`` are those of the rows with ``paths``.
    """

    paths: Sequence[EliminationPath]
    sensitivities: Array
    available: int


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


def allocate_parts(parts: Sequence[Part], count: int) -> Index:
    """How many weights each of some parts of a model keeps, (parts,), ``count`` in all, of no more than there are."""
    prices = [np.concatenate([path.price * s for path, s in zip(p.paths, p.sensitivities, strict=True)]) for p in parts]
    owners = np.repeat(np.arange(len(parts)), [len(price) for price in prices])
    stands_for = np.array([part.available / max(1, len(price)) for part, price in zip(parts, prices, strict=True)])
    order = np.argsort(np.concatenate(prices), kind="stable")[::-1]
    weights = stands_for[owners[order]]
    # What is above the threshold: the weights before come to less than the count, but for rounding.
    kept = order[np.cumsum(weights) - weights < count - 1e-6]
    shares = np.bincount(owners[kept], minlength=len(parts)) * stands_for
    return _whole(shares, np.array([part.available for part in parts]), count)


def _whole(shares: Array, available: Index, count: int) -> Index:
    """Whole numbers near the shares, which come to ``count`` and are no more than available."""
    shares = np.minimum(shares, available)
    found = np.floor(shares + 1e-6).astype(np.intp)
    for part in np.argsort(found - shares, kind="stable"):
        found[part] += min(max(0, count - int(found.sum())), 1, int(available[part] - found[part]))
    for part in np.argsort(-found, kind="stable"):  # where one that is taken stands for many
        missing = count - int(found.sum())
        found[part] = np.clip(found[part] + missing, 0, available[part])
    return found


def spread(losses: Array, most: int) -> Index:
    """Every nth of r rows in the order of their ``losses`` (r,), ``most`` at most; all where they are no more."""
    if len(losses) <= most:
        return np.arange(len(losses))
    order = np.argsort(losses, kind="stable")
    places = ((np.arange(most) + 0.5) * (len(losses) / most)).astype(np.intp)
    return np.sort(order[places])


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
            f"%, for there are {available:,} candidates, of the {count:,} weights wanted: ask for no less, or take a "
            "weaker penalty for the candidates, or none, so that all weights are candidates",
        )
    return count
