r"""From the sums over patches to the row problems of a layer, and to the moments of what its rows give.

A row's target is t = r + W⁰φ, the baseline's own result and a residual
(:mod:`~simplicit.training.channels.statistics`): ΦᵀΦ, tᵀΦ and ‖t‖² follow from the sums with r, less the means of
features and targets where a constant is free. Patches weigh as in the statistics.

Sums about an offset o leave sums about the mean by taking n(m − o)(m − o)ᵀ away, and what rounding did to the first
stays: ε times their diagonal. Where o is far from the mean, as it can be where a few patches have nearly all of the
weight, that is most of what is left. A column that varies by no more than that is constant, and the ridge of the others
is told of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from simplicit.rows.batch import Array
from simplicit.training.channels.statistics import Statistics
from simplicit.training.problem import Sums

#: A column is constant where its squares about the mean are no more than so many roundings of those about the offset.
CONSTANT = 4


def sums_of(statistics: Statistics, group: int, *, constant: bool) -> Sums:
    """What the rows of a group of channels are fitted to; about the means if a ``constant`` is free."""
    s, rounding = statistics, statistics.rounding
    if constant:
        G, cross, energy = _centred(s, group)
        varies = G.diagonal() > 0
        about_offset, about_mean = (float(one.diagonal()[varies].sum()) for one in (s.products[group], G))
        rounding *= max(1.0, about_offset / about_mean) if varies.any() else 1.0
    else:
        G, cross, energy = _plain(s, group)
    W = s.weights[group]
    through = W @ G  # from products with the residual to those with the target t = r + W⁰φ
    energy = energy + 2 * np.einsum("ij,ij->i", cross, W) + np.einsum("ij,ij->i", through, W)
    return Sums(G, cross + through, np.maximum(energy, 0.0), s.count, rounding)


def _plain(statistics: Statistics, group: int) -> tuple[Array, Array, Array]:
    """ΦᵀΦ, rᵀΦ and ‖r‖² as they are."""
    s, o = statistics, statistics.offset[group]
    across = np.outer(o, s.features[group])
    G = s.products[group] + across + across.T + s.mass[group] * np.outer(o, o)
    return G, s.cross[group] + np.outer(s.residuals[group], o), s.energy[group]


def _centred(statistics: Statistics, group: int) -> tuple[Array, Array, Array]:
    """ΦᵀΦ, rᵀΦ and ‖r‖² less the means of features and residuals."""
    s, n = statistics, float(statistics.mass[group, 0])
    mean, shift = s.features[group] / n, s.shift[group]  # about the offset
    G = s.products[group] - n * np.outer(mean, mean)
    # A constant column leaves only rounding behind, which must not count as a direction.
    constant = G.diagonal() <= CONSTANT * s.rounding * s.products[group].diagonal()
    G[constant] = G[:, constant] = 0.0
    cross = s.cross[group] - n * np.outer(shift, mean)
    cross[:, constant] = 0.0
    return G, cross, np.maximum(s.energy[group] - n * shift**2, 0.0)


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and variances over all patches, weighted as their sums are, of a layer's targets and of what its new
    weights give, (rows,) each. The baseline's own bias is in neither."""

    target_mean: Array
    target_variance: Array
    mean: Array
    variance: Array

    @classmethod
    def of(cls, statistics: Statistics, weights: Array) -> Self:
        """For weights (g, r, d)."""
        s, parts = statistics, []
        for group, W in enumerate(weights):
            sums, n = sums_of(s, group, constant=True), s.mass[group]
            fitted = np.maximum(np.einsum("ij,ij->i", W @ sums.gram, W), 0.0)
            target_mean = s.shift[group] + s.weights[group] @ s.mean[group]
            parts.append((target_mean, sums.energy / n, W @ s.mean[group], fitted / n))
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))
