r"""From the sums over patches to the row problems of a layer, and to the moments of what its rows give.

A row's target is t = r + W⁰φ, the baseline's own result and a residual
(:mod:`~simplicit.training.channels.statistics`): ΦᵀΦ, tᵀΦ and ‖t‖² follow from the sums with r, less the means of
features and targets where a constant is free. Patches weigh as in the statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from simplicit.training.channels.statistics import Statistics
from simplicit.training.problem import Sums

__all__ = ["Moments", "centred", "sums_of"]

Array = npt.NDArray[np.float64]


def sums_of(statistics: Statistics, group: int, *, constant: bool) -> Sums:
    """What the rows of a group of channels are fitted to; about the means if a ``constant`` is free."""
    G, cross, energy = centred(statistics, group) if constant else _plain(statistics, group)
    return Sums(G, cross, energy, statistics.count, statistics.rounding)


def _plain(statistics: Statistics, group: int) -> tuple[Array, Array, Array]:
    """ΦᵀΦ, tᵀΦ and ‖t‖² as they are."""
    s, W, o = statistics, statistics.weights[group], statistics.offset[group]
    across = np.outer(o, s.features[group])
    G = s.products[group] + across + across.T + s.mass[group] * np.outer(o, o)
    return _shifted(G, s.cross[group] + np.outer(s.residuals[group], o), s.energy[group], W)


def centred(statistics: Statistics, group: int) -> tuple[Array, Array, Array]:
    """ΦᵀΦ, tᵀΦ and ‖t‖² less the means of features and targets."""
    s, W, n = statistics, statistics.weights[group], float(statistics.mass[group, 0])
    mean, shift = s.features[group] / n, s.shift[group]  # about the offset
    G = s.products[group] - n * np.outer(mean, mean)
    # A constant column leaves only rounding behind, which must not count as a direction.
    constant = G.diagonal() <= 1e-12 * s.products[group].diagonal()
    G[constant] = G[:, constant] = 0.0
    cross = s.cross[group] - n * np.outer(shift, mean)
    cross[:, constant] = 0.0
    energy = np.maximum(s.energy[group] - n * shift**2, 0.0)
    return _shifted(G, cross, energy, W)


def _shifted(G: Array, cross: Array, energy: Array, W: Array) -> tuple[Array, Array, Array]:
    """From products with the residual to those with the target t = r + W⁰φ."""
    through = W @ G
    energy = energy + 2 * np.einsum("ij,ij->i", cross, W) + np.einsum("ij,ij->i", through, W)
    return G, cross + through, np.maximum(energy, 0.0)


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and variances over all patches, weighted as their sums are, of a layer's targets and of what its new
    weights give, (rows,) each.

    The baseline's own bias is in neither. ``error`` is the variance of their difference.
    """

    target_mean: Array
    target_variance: Array
    mean: Array
    variance: Array
    error: Array

    @classmethod
    def of(cls, statistics: Statistics, weights: Array) -> Self:
        """For weights (g, r, d)."""
        s, parts = statistics, []
        for group, W in enumerate(weights):
            G, cross, energy = centred(s, group)
            fitted = np.maximum(np.einsum("ij,ij->i", W @ G, W), 0.0)
            error = np.maximum(energy - 2 * np.einsum("ij,ij->i", W, cross) + fitted, 0.0)
            target_mean = s.shift[group] + s.weights[group] @ s.mean[group]
            n = s.mass[group]
            parts.append((target_mean, energy / n, W @ s.mean[group], fitted / n, error / n))
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))
