"""Gram statistics of a row problem, accumulated batch by batch: all of Φ and the targets that the solver needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from simplicit.checks import as_float_array, check_finite
from simplicit.errors import InputError

__all__ = ["Gram"]

Array = npt.NDArray[np.float64]


class Gram:
    r"""ΦᵀΦ, Φᵀz and ‖z‖² of features and targets that need never be in memory as a whole.

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
    feature_sum, target_sum : (d,) and (r,) arrays
        For the intercept.
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
        self.gram: Array = np.zeros((0, 0))
        self.cross: Array = np.zeros((0, 0))
        self.energy: Array = np.zeros(0)
        self.feature_sum: Array = np.zeros(0)
        self.target_sum: Array = np.zeros(0)

    @classmethod
    def from_batches(cls, batches: Iterable[tuple[Any, Any]]) -> Self:
        """Of all pairs (features (b, d), targets (b, r)) in turn.

        Raises
        ------
        InputError
            If there is none, or for a batch that :meth:`update` refuses.
        """
        result = cls()
        for features, targets in batches:
            result.update(features, targets)
        if not result.n_samples:
            raise InputError("batches: there was none; give an iterable of pairs (features, targets)")
        return result

    def update(self, features: Any, targets: Any) -> None:
        """Add a batch of samples, features (b, d) and targets (b, r), float32 or float64.

        Raises
        ------
        InputError
            If the shapes do not fit each other or the batches before, or a value is not finite; nothing is added then.
        """
        number = self.n_samples
        phi, z = as_float_array("features", features, ndim=2), as_float_array("targets", targets, ndim=2)
        if len(phi) != len(z):
            raise InputError(f"targets: shape {z.shape} does not fit features {phi.shape}; both need a line per sample")
        for name, array in (("features", phi), ("targets", z)):
            check_finite(name, array)
        if not number:
            d, r = phi.shape[1], z.shape[1]
            self.gram, self.cross, self.energy = np.zeros((d, d)), np.zeros((r, d)), np.zeros(r)
            self.feature_sum, self.target_sum = np.zeros(d), np.zeros(r)
        elif phi.shape[1] != len(self.gram) or z.shape[1] != len(self.energy):
            raise InputError(
                f"features {phi.shape} and targets {z.shape} do not fit the batches before, "
                f"which had {len(self.gram)} columns and {len(self.energy)} targets"
            )
        wide, tall = torch.from_numpy(phi.astype(np.float64)), torch.from_numpy(z.astype(np.float64))
        torch.from_numpy(self.gram).addmm_(wide.T, wide)
        torch.from_numpy(self.cross).addmm_(tall.T, wide)
        self.energy += (tall * tall).sum(0).numpy()
        self.feature_sum += wide.sum(0).numpy()
        self.target_sum += tall.sum(0).numpy()
        self.n_samples = number + len(phi)

    @property
    def shape(self) -> tuple[int, int]:
        """(targets r, columns d)."""
        return self.cross.shape[0], self.cross.shape[1]

    def centred(self) -> Gram:
        """The statistics of features and targets less their means."""
        result, m = Gram(), max(self.n_samples, 1)
        result.n_samples = self.n_samples
        result.gram = self.gram - np.outer(self.feature_sum, self.feature_sum) / m
        # A constant column leaves only rounding behind, which must not count as a direction.
        constant = result.gram.diagonal() <= 1e-12 * self.gram.diagonal()
        result.gram[constant] = result.gram[:, constant] = 0.0
        result.cross = self.cross - np.outer(self.target_sum, self.feature_sum) / m
        result.cross[:, constant] = 0.0
        result.energy = np.maximum(self.energy - self.target_sum**2 / m, 0.0)
        result.feature_sum, result.target_sum = np.zeros_like(self.feature_sum), np.zeros_like(self.target_sum)
        return result

    def __repr__(self) -> str:
        r, d = self.shape
        return f"Gram({self.n_samples} samples, {d} columns, {r} targets)"
