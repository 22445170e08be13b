"""Features and targets in whatever form they are known: samples, or Gram statistics.

A source plans the arrays that blocks of rows need of it, and writes them where an executor has made them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from simplicit.checks import SMALLEST
from simplicit.executors.records import planned
from simplicit.rows import Gram
from simplicit.rows.batch import Array, Index
from simplicit.rows.design import GramDesign, SampleDesign, forms_gram
from simplicit.rows.products import fill_gram
from simplicit.solve.arrays import DesignArrays, TargetArrays
from simplicit.solve.features import DenseFeatures, Features, Floats

#: Rows or columns that are converted at a time.
CHUNK = 256


class Samples:
    """Features (m, d) and targets (m, r) as they are, less their means where an intercept is wanted.

    With sample weights (m,), all above 0, the means are weighted, and every line is multiplied by the root of its own.
    """

    def __init__(
        self, features: Features, targets: Floats, *, intercept: bool, sample_weight: Array | None = None
    ) -> None:
        self.features, self.targets, self.n_samples = features, targets, len(features)
        self.sample_weight = sample_weight
        self.root = None if sample_weight is None else np.sqrt(sample_weight)
        self.feature_mean = features.means(sample_weight) if intercept else None
        self.target_mean = DenseFeatures(targets).means(sample_weight) if intercept else None

    def live(self, columns: Index) -> Index:
        """Those of the columns that are not zero, or, with an intercept, not constant."""
        # A constant column leaves only rounding behind, which must not count as a direction.
        live = self.features.nonzero() if self.feature_mean is None else self.features.varying()
        return columns[live[columns]]

    def norms(self) -> Array:
        """‖Φⱼ‖ of all d columns (centred)."""
        return np.sqrt(self.features.squares(self.feature_mean, self.sample_weight))

    def energies(self) -> Array:
        """‖z‖² of all r targets (centred)."""
        return DenseFeatures(self.targets).squares(self.target_mean, self.sample_weight)

    def plan_design(self, columns: Index) -> DesignArrays:
        """The design on these columns; see :func:`simplicit.executors.records.planned`."""
        m, k = self.n_samples, len(columns)
        gram = planned((k, k)) if forms_gram(m, k) else None
        return DesignArrays(planned((k,), np.intp), planned((k,)), planned((k, m)), gram)

    def fill_design(self, design: DesignArrays, columns: Index, device: str, threads: int) -> None:
        """Write it, with so many threads."""
        assert design.transposed is not None
        made = SampleDesign.of_features(
            self.features, columns, self.feature_mean, device, out=design.transposed, scale=self.root
        )
        design.columns[...], design.units[...] = columns, made.units
        if design.gram is None:
            return
        if device == "cpu":
            fill_gram(design.transposed, design.gram, threads)
        else:
            design.gram[...] = made.gram.cpu().numpy()

    def plan_targets(self, n_rows: int) -> TargetArrays:
        """So many targets."""
        mean = None if self.target_mean is None else planned((n_rows,))
        return TargetArrays(samples=planned((n_rows, self.n_samples)), mean=mean)

    def fill_targets(self, targets: TargetArrays, rows: Index) -> None:
        """Write those of these rows."""
        assert targets.samples is not None
        for first in range(0, len(rows), CHUNK):
            part = slice(first, first + CHUNK)
            targets.samples[part] = self.targets[:, rows[part]].T
            if self.target_mean is not None:
                targets.samples[part] -= self.target_mean[rows[part], None]
            if self.root is not None:
                targets.samples[part] *= self.root
        if self.target_mean is not None and targets.mean is not None:
            targets.mean[...] = self.target_mean[rows]

    def identity(self) -> dict[str, Any]:
        """Arrays and values that say which source this is."""
        weights = {} if self.sample_weight is None else {"sample_weight": self.sample_weight}
        known = {"targets": self.targets, "intercept": self.feature_mean is not None}
        return self.features.identity() | known | weights


class GramSource:
    """Only ΦᵀΦ, Φᵀz and ‖z‖², accumulated when they are first asked for; the methods are those of :class:`Samples`.

    ``origin`` is what they are accumulated from, for :meth:`identity`: hashing it costs less than accumulating.
    """

    n_samples = None  # they are not known one by one

    def __init__(
        self, accumulate: Callable[[], Gram], *, intercept: bool, origin: dict[str, Any] | None = None
    ) -> None:
        self.accumulate, self.intercept, self.origin = accumulate, intercept, origin

    @cached_property
    def given(self) -> Gram:
        """The statistics as they came."""
        return self.accumulate()

    @cached_property
    def gram(self) -> Gram:
        """The statistics, less the means where an intercept is wanted."""
        return self.given.centred() if self.intercept else self.given

    @property
    def feature_mean(self) -> Array | None:
        return self.given.feature_mean if self.intercept else None

    def live(self, columns: Index) -> Index:
        # As of samples, a column that is everywhere below SMALLEST counts as zero.
        return columns[self.gram.gram.diagonal()[columns] >= SMALLEST**2]

    def norms(self) -> Array:
        return np.asarray(np.sqrt(self.gram.gram.diagonal()))

    def energies(self) -> Array:
        return self.gram.energy

    def plan_design(self, columns: Index) -> DesignArrays:
        k = len(columns)
        return DesignArrays(planned((k,), np.intp), planned((k,)), gram=planned((k, k)))

    def fill_design(self, design: DesignArrays, columns: Index, device: str, threads: int) -> None:
        assert design.gram is not None
        made = GramDesign.of_gram(self.gram.gram[np.ix_(columns, columns)])
        design.columns[...], design.units[...], design.gram[...] = columns, made.units, made.gram.numpy()

    def plan_targets(self, n_rows: int) -> TargetArrays:
        mean = planned((n_rows,)) if self.intercept else None
        return TargetArrays(cross=planned((n_rows, self.gram.shape[1])), energy=planned((n_rows,)), mean=mean)

    def fill_targets(self, targets: TargetArrays, rows: Index) -> None:
        assert targets.cross is not None
        assert targets.energy is not None
        targets.cross[...], targets.energy[...] = self.gram.cross[rows], self.gram.energy[rows]
        if targets.mean is not None:
            targets.mean[...] = self.given.target_mean[rows]

    def identity(self) -> dict[str, Any]:
        intercept = {"intercept": self.intercept}
        if self.origin is not None:
            return self.origin | intercept
        gram = self.given
        means = {"feature_mean": gram.feature_mean, "target_mean": gram.target_mean, "n_samples": gram.n_samples}
        return {"gram": gram.gram, "cross": gram.cross, "energy": gram.energy} | means | intercept


Source = Samples | GramSource
