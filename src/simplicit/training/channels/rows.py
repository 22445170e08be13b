r"""The row problems of a layer from its statistics: one least-squares problem a channel, ridge towards the baseline.

    min over w   ‖t − Φw‖² + δ Σⱼ (wⱼ − a·w⁰ⱼ)²  (+ the penalty)        w zero off the support

as in :mod:`simplicit.training.ridge`, of Gram statistics: H = ΦᵀΦ + δI, c = Φᵀt + δa·w⁰, and the energy
‖t‖² + δa²‖w⁰‖². Patches weigh as in the statistics. Where a constant is free, all is centred. δ is in units of the mean
of ‖Φⱼ‖² over a group's columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from simplicit.rows import Gram
from simplicit.training.channels.statistics import Statistics
from simplicit.training.ridge import LEAST_RIDGE

__all__ = ["Moments", "TiedProblem"]

#: The least ridge of float32 sums, in units of their rounding.
ROUNDINGS = 4

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TiedProblem:
    """The rows of one group of channels.

    Attributes
    ----------
    gram : (d, d) array
        H.
    cross : (r, d) array
        c.
    energy : (r,) array
    support : (r, d) array of bool
        Where the baseline has weights.
    count : int
        Patches.
    rounding : float
        ε of the sums in ``gram``.
    """

    gram: Array
    cross: Array
    energy: Array
    support: Mask
    count: int
    rounding: float

    @classmethod
    def of(
        cls,
        statistics: Statistics,
        group: int,
        *,
        constant: bool,
        ridge: float = 0.0,
        anchor: float = 0.0,
        positive: bool = False,
    ) -> Self:
        """From the statistics of a layer.

        Parameters
        ----------
        statistics : Statistics
        group : int
        constant : bool
            Whether rows have a free constant.
        ridge : float
            In units of the mean of ‖Φⱼ‖².
        anchor : float
            a.
        positive : bool
            With at least the ridge that makes every support's Gram matrix positive definite.
        """
        G, cross, energy = centred(statistics, group) if constant else _plain(statistics, group)
        weights = statistics.weights[group]
        mean = float(G.diagonal().mean()) or 1.0
        # What rounding may take from an eigenvalue, ε·tr(G), and a few times that.
        least = max(LEAST_RIDGE, ROUNDINGS * statistics.rounding * len(G))
        delta = (max(ridge, least) if positive else ridge) * mean
        prior = anchor * weights
        H = G.copy()
        H[np.diag_indices_from(H)] += delta
        return cls(
            gram=H,
            cross=cross + delta * prior,
            energy=energy + delta * np.square(prior).sum(axis=1),
            support=weights != 0,
            count=statistics.count,
            rounding=statistics.rounding,
        )

    @property
    def statistics(self) -> Gram:
        """As :func:`simplicit.solve_rows` takes them."""
        return Gram.of_products(self.gram, self.cross, self.energy, self.count)


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
