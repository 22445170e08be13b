r"""The least-squares problem behind refinement and refit: ridge, towards the baseline's own weights.

For the rows of one stage, with targets z and features Φ (less their means, where the model has biases):

    min over w   ‖z − Φw‖² + δ Σⱼ (wⱼ − a·w⁰ⱼ)²        w zero off the support, and in the ball where there is one

w⁰ are the baseline's weights, a in [0, 1] is the *anchor* and δ the *ridge* in units of the mean of ‖Φⱼ‖². Few samples
say little about most directions of the input. An anchor of 1 keeps the baseline there: it is what least squares on
inputs with noise of variance δ/m would do, if the baseline's answer to the noisy input is wanted. An anchor of 0 wants
the answer to the clean one: the noise, and with it any small change of the input, is to be ignored.

The ridge is least squares on d samples more, √δ·I with targets √δ·a·w⁰: so a refit is a row problem like any other, and
comes with a duality gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

__all__ = ["Ridge"]

Array = npt.NDArray[np.float64]

#: The least ridge, in the same units: keeps every support's Gram matrix positive definite in float64.
LEAST_RIDGE = 1e-10


@dataclass(frozen=True, eq=False)
class Ridge:
    """The rows of one stage.

    Parameters
    ----------
    features : (m, d) array
    targets : (m, r) array
    prior : (r, d) array
        a·w⁰.
    ridge : float
        δ in units of the mean of ‖Φⱼ‖² over the columns that ``support`` admits in any row.
    support : (r, d) array of bool
        Admissible coefficients.
    intercept : bool
        Whether rows have a free constant.
    rounding : float
        ε of the sums in ``gram``.
    """

    features: Array
    targets: Array
    prior: Array
    ridge: float
    support: npt.NDArray[np.bool_]
    intercept: bool
    rounding: float = float(np.finfo(np.float64).eps)

    @cached_property
    def means(self) -> tuple[Array, Array]:
        """Of features, (d,), and targets, (r,); zero without intercept."""
        if not self.intercept:
            return np.zeros(self.features.shape[1]), np.zeros(self.targets.shape[1])
        return self.features.mean(axis=0), self.targets.mean(axis=0)

    @cached_property
    def centred(self) -> tuple[Array, Array]:
        """Features and targets less their means."""
        return self.features - self.means[0], self.targets - self.means[1]

    @cached_property
    def delta(self) -> float:
        """δ."""
        features = self.centred[0][:, self.support.any(axis=0)]
        squares = np.einsum("ij,ij->j", features, features)
        mean = float(squares.mean()) if len(squares) else 0.0
        return max(self.ridge, LEAST_RIDGE) * (mean or 1.0)

    @cached_property
    def gram(self) -> Array:
        """H = ΦᵀΦ + δI, (d, d)."""
        features = self.centred[0]
        H = features.T @ features
        H[np.diag_indices_from(H)] += self.delta
        return H

    @cached_property
    def cross(self) -> Array:
        """c = Φᵀz + δa·w⁰, one row per target, (r, d)."""
        features, targets = self.centred
        return np.asarray(targets.T @ features + self.delta * self.prior)

    @cached_property
    def energy(self) -> Array:
        """‖z‖² + δ‖a·w⁰‖², the error at w = 0, (r,)."""
        return np.asarray(np.square(self.centred[1]).sum(axis=0) + self.delta * np.square(self.prior).sum(axis=1))

    def samples(self) -> tuple[Array, Array]:
        """Features and targets of the equal problem without ridge: (m + d, d) and (m + d, r)."""
        features, targets = self.centred
        root = float(np.sqrt(self.delta))
        return (
            np.vstack([features, root * np.eye(features.shape[1])]),
            np.vstack([targets, root * self.prior.T]),
        )

    def constants(self, coefficients: Array) -> Array:
        """The biases that go with coefficients (r, d), (r,)."""
        return np.asarray(self.means[1] - coefficients @ self.means[0])
