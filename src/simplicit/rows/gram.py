"""Gram statistics are all of Φ and the targets that the solver needs, and are accumulated batch by batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from simplicit.checks import as_float_array, as_positive_array, check_magnitudes, refused
from simplicit.errors import InputError
from simplicit.rows.batch import Array
from simplicit.rows.products import fill_gram, fill_product

#: Largest weight of a sample; its inverse is the smallest above zero.
LARGEST_WEIGHT = 1e30


class Gram:
    r"""It accumulates ΦᵀΦ, Φᵀz and ‖z‖² of features and targets that need never be in memory as a whole.

    ``solve_rows(gram)`` then solves the same problems as ``solve_rows(features, targets)``. The sums are float64
    whatever the batches are. Gradients are Φᵀz − Gw here and not products with a residual, so that the certificate of a
    row whose columns are nearly dependent can end some digits earlier: such a row is marked ``ACCURACY_LIMIT``.

    Attributes
    ----------
    gram : (d, d) array
        ΦᵀΦ.
    cross : (r, d) array
        One row Φᵀz per target.
    energy : (r,) array
        ‖z‖².
    feature_mean : (d,) array
    target_mean : (r,) array
    n_samples : int

    Examples
    --------
    >>> import numpy as np, simplicit as sp
    >>> rng = np.random.default_rng(0)
    >>> gram = sp.Gram()
    >>> for _ in range(10):
    ...     features = rng.normal(size=(1000, 20))
    ...     gram.update(features, features[:, :2] - features[:, 2:4])
    >>> solution = sp.solve_rows(gram, penalty=sp.L1(beta=1.0))
    >>> gram.n_samples, int(solution.coefficients.nnz)
    (10000, 4)
    """

    def __init__(self) -> None:
        self.n_samples = 0
        self._total = 0.0  # of the sample weights
        self.feature_mean: Array = np.zeros(0)
        self.target_mean: Array = np.zeros(0)
        # About the means, so that large offsets cost no digits.
        self._scatter: Array = np.zeros((0, 0))
        self._cross: Array = np.zeros((0, 0))
        self._energy: Array = np.zeros(0)

    @property
    def gram(self) -> Array:
        return self._scatter + self._total * np.outer(self.feature_mean, self.feature_mean)

    @property
    def cross(self) -> Array:
        return self._cross + self._total * np.outer(self.target_mean, self.feature_mean)

    @property
    def energy(self) -> Array:
        return self._energy + self._total * self.target_mean**2

    @classmethod
    def from_batches(cls, batches: Iterable[tuple[Any, Any]]) -> Self:
        """Accumulate all pairs (features (b, d), targets (b, r)) in turn; sample weights (b,) may be third.

        Raises
        ------
        InputError
            If there is none, or for a batch that :meth:`update` refuses.
        """
        result = cls()
        for batch in batches if isinstance(batches, Iterable) else ():
            if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
                what = "every item must be a pair (features, targets), or (features, targets, sample_weight)"
                raise refused("batches", what)
            result.update(*batch)
        if not result.n_samples:
            raise refused("batches", "there was none; give an iterable of pairs (features, targets)")
        return result

    @classmethod
    def of_products(cls, gram: Array, cross: Array, energy: Array, n_samples: int) -> Self:
        """Make them from sums ΦᵀΦ (d, d), Φᵀz (r, d) and ‖z‖² (r,) about one origin; means count as zero."""
        result = cls()
        result.n_samples, result._total = n_samples, float(n_samples)
        result.feature_mean, result.target_mean = np.zeros(gram.shape[0]), np.zeros(len(energy))
        result._scatter, result._cross, result._energy = gram, cross, energy
        return result

    def about(self, feature_mean: Array, target_mean: Array, total: float) -> Self:
        """Say that the sums are about these means (d,) and (r,), and what the sample weights sum up to."""
        self.feature_mean, self.target_mean, self._total = feature_mean, target_mean, total
        return self

    def update(self, features: Any, targets: Any, sample_weight: npt.ArrayLike | None = None) -> None:
        """Add a batch of samples, features (b, d) and targets (b, r) of floats, of which each counts s ≥ 0 times (b,).

        Raises
        ------
        InputError
            If the shapes do not fit each other or the batches before, or a value is not finite or a weight below 0;
            nothing is added then.
        """
        phi, z = checked_samples(features, targets)
        s = None if sample_weight is None else as_sample_weight(sample_weight, len(phi))
        d, r = phi.shape[1], z.shape[1]
        if not self.n_samples:
            self.feature_mean, self.target_mean = np.zeros(d), np.zeros(r)
            self._scatter, self._cross, self._energy = np.zeros((d, d)), np.zeros((r, d)), np.zeros(r)
        elif (r, d) != self.shape:
            raise InputError(
                f"features {phi.shape} and targets {z.shape} do not fit the batches before, "
                f"which had {self.shape[1]} columns and {self.shape[0]} targets",
                argument="features",
            )
        self._merge(phi.astype(np.float64), z.astype(np.float64), s)

    def _merge(self, phi: Array, z: Array, s: Array | None) -> None:
        """Update means and sums about them pairwise (Chan, Golub and LeVeque 1983)."""
        added = float(len(phi) if s is None else s.sum())
        total = self._total + added
        phi_mean, z_mean = (np.average(part, axis=0, weights=s) for part in (phi, z))
        phi, z = phi - phi_mean, z - z_mean
        if s is not None:
            phi, z = phi * np.sqrt(s)[:, None], z * np.sqrt(s)[:, None]
        scatter, cross = np.empty_like(self._scatter), np.empty_like(self._cross)
        fill_gram(phi.T, scatter)
        fill_product(z.T, phi.T, cross)
        self._scatter += scatter
        self._cross += cross
        self._energy += np.einsum("ij,ij->j", z, z)
        phi_step, z_step = phi_mean - self.feature_mean, z_mean - self.target_mean
        share = self._total * added / total
        self._scatter += share * np.outer(phi_step, phi_step)
        self._cross += share * np.outer(z_step, phi_step)
        self._energy += share * z_step**2
        self.feature_mean = self.feature_mean + phi_step * (added / total)
        self.target_mean = self.target_mean + z_step * (added / total)
        self.n_samples, self._total = self.n_samples + len(phi), total

    @property
    def shape(self) -> tuple[int, int]:
        """The shape is (targets r, columns d)."""
        return self._cross.shape[0], self._cross.shape[1]

    def centred(self) -> Gram:
        """Return the statistics of features and targets less their means."""
        result = Gram.of_products(self._scatter.copy(), self._cross.copy(), self._energy, self.n_samples)
        result._total = self._total
        # A constant column leaves only rounding behind, which must not count as a direction.
        rounding = 1e-30 * self._total * np.maximum(self.feature_mean**2, np.finfo(float).tiny)
        constant = self._scatter.diagonal() <= rounding
        result._scatter[constant] = result._scatter[:, constant] = 0.0
        result._cross[:, constant] = 0.0
        return result

    def __repr__(self) -> str:
        r, d = self.shape
        return f"Gram({self.n_samples} samples, {d} columns, {r} targets)"


def checked_samples(features: Any, targets: Any) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]:
    """Return features (m, d) and targets (m, r) as arrays of floats; InputError where they are none, or do not fit.

    Targets (m,) are one column.
    """
    phi, z = as_float_array("features", features, ndim=2), checked_targets(targets)
    if len(phi) != len(z):
        raise refused("targets", f"shape {z.shape} does not fit features {phi.shape}; both need a line per sample")
    check_magnitudes("features", phi, or_tiny=True)
    return phi, z


def checked_targets(targets: Any) -> npt.NDArray[np.floating[Any]]:
    """Return targets (m, r), or (m,) as one column, as an array of floats; InputError where they are none."""
    z = as_float_array("targets", targets)
    z = z[:, None] if z.ndim == 1 else as_float_array("targets", z, ndim=2)
    check_magnitudes("targets", z)
    return z


def as_sample_weight(sample_weight: npt.ArrayLike, n_samples: int) -> Array:
    """Return weights (m,) of the samples as float64; InputError where they do not fit, or none is above 0.

    They must be 0 or within 1e-30 to 1e30, so that weighted squares stay within float64.
    """
    weights = as_positive_array("sample_weight", sample_weight, [(n_samples,)], or_zero=True)
    weights = np.array(np.broadcast_to(weights, (n_samples,)))
    used = weights[weights > 0]
    if not len(used):
        raise refused("sample_weight", "is zero for all samples; give at least one sample a weight above 0")
    if used.max() > LARGEST_WEIGHT or used.min() < 1 / LARGEST_WEIGHT:
        limits = f"outside {1 / LARGEST_WEIGHT:.0e} to {LARGEST_WEIGHT:.0e}; measure them in other units"
        raise refused("sample_weight", f"runs from {used.min():.3g} to {used.max():.3g}, {limits}")
    return weights
