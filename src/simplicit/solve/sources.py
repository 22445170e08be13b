"""Features and targets in whatever form they are known: samples, or Gram statistics.

A source writes what blocks of rows need of it into arrays that an executor has made, by the names that
:mod:`simplicit.solve.block` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from simplicit.executors import Arrays, Spec
from simplicit.rows import Gram, GramDesign, SampleDesign
from simplicit.rows.design import forms_gram
from simplicit.rows.products import fill_gram

__all__ = ["GramSource", "Samples", "Source"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: Rows or columns that are converted at a time.
CHUNK = 256


class Source(Protocol):
    """Features and targets."""

    @property
    def n_samples(self) -> int | None:
        """m; None if the samples are not known one by one."""
        ...

    @property
    def feature_mean(self) -> Array | None:
        """(d,), where an intercept is wanted."""
        ...

    def live(self, columns: Index) -> Index:
        """Those of the columns that are not zero, or, with an intercept, not constant."""
        ...

    def norms(self) -> Array:
        """‖Φⱼ‖ of all d columns (centred)."""
        ...

    def energies(self) -> Array:
        """‖z‖² of all r targets (centred)."""
        ...

    def design_specs(self, n_columns: int) -> dict[str, Spec]:
        """The arrays of a design on so many columns."""
        ...

    def fill_design(self, columns: Index, arrays: Arrays, device: str, threads: int) -> None:
        """Write them."""
        ...

    def row_specs(self, n_rows: int) -> dict[str, Spec]:
        """The arrays of so many targets."""
        ...

    def fill_rows(self, rows: Index, arrays: Arrays) -> None:
        """Write them."""
        ...

    def identity(self) -> dict[str, Any]:
        """Arrays and values that say which source this is."""
        ...


class Samples:
    """Features (m, d) and targets (m, r) as they are."""

    def __init__(
        self, features: npt.NDArray[np.floating[Any]], targets: npt.NDArray[np.floating[Any]], *, intercept: bool
    ) -> None:
        self.features, self.targets = features, targets
        self.feature_mean = features.mean(axis=0, dtype=np.float64) if intercept else None
        self.target_mean = targets.mean(axis=0, dtype=np.float64) if intercept else None

    @property
    def n_samples(self) -> int | None:
        return len(self.features)

    def live(self, columns: Index) -> Index:
        if self.feature_mean is None:
            live = np.asarray(self.features.any(axis=0))
        else:
            # A constant column leaves only rounding behind, which must not count as a direction.
            live = np.asarray(self.features.max(axis=0) != self.features.min(axis=0))
        return columns[live[columns]]

    def norms(self) -> Array:
        return np.sqrt(_column_squares(self.features, self.feature_mean))

    def energies(self) -> Array:
        return _column_squares(self.targets, self.target_mean)

    def design_specs(self, n_columns: int) -> dict[str, Spec]:
        m = len(self.features)
        specs = {"transposed": Spec((n_columns, m)), "units": Spec((n_columns,))}
        return specs | ({"gram": Spec((n_columns, n_columns))} if forms_gram(m, n_columns) else {})

    def fill_design(self, columns: Index, arrays: Arrays, device: str, threads: int) -> None:
        transposed = arrays["transposed"]
        design = SampleDesign.of_features(self.features, columns, self.feature_mean, device, out=transposed)
        arrays["units"][...] = design.units
        if "gram" not in arrays:
            return
        if device == "cpu":
            fill_gram(transposed, arrays["gram"], threads)
        else:
            arrays["gram"][...] = design.gram.cpu().numpy()

    def row_specs(self, n_rows: int) -> dict[str, Spec]:
        specs = {"targets": Spec((n_rows, len(self.features)))}
        return specs if self.target_mean is None else specs | {"target_mean": Spec((n_rows,))}

    def fill_rows(self, rows: Index, arrays: Arrays) -> None:
        for first in range(0, len(rows), CHUNK):
            part = slice(first, first + CHUNK)
            arrays["targets"][part] = self.targets[:, rows[part]].T
            if self.target_mean is not None:
                arrays["targets"][part] -= self.target_mean[rows[part], None]
        if self.target_mean is not None:
            arrays["target_mean"][...] = self.target_mean[rows]

    def identity(self) -> dict[str, Any]:
        return {"features": self.features, "targets": self.targets, "intercept": self.feature_mean is not None}


def _column_squares(array: npt.NDArray[np.floating[Any]], mean: Array | None) -> Array:
    """Σᵢ (aᵢⱼ − meanⱼ)² of every column, in float64."""
    squares = np.empty(array.shape[1])
    for first in range(0, len(squares), CHUNK):
        part = slice(first, first + CHUNK)
        shifted = array[:, part] - (0.0 if mean is None else mean[part])
        squares[part] = np.einsum("ij,ij->j", shifted, shifted, dtype=np.float64)
    return squares


class GramSource:
    """Only ΦᵀΦ, Φᵀz and ‖z‖², accumulated when they are first asked for.

    Parameters
    ----------
    accumulate : callable
        Returns the statistics.
    intercept : bool
    origin : dict
        What they are accumulated from, for :meth:`identity`: hashing it costs less than accumulating.
    """

    n_samples = None

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
        return columns[self.gram.gram.diagonal()[columns] > 0]

    def norms(self) -> Array:
        return np.asarray(np.sqrt(self.gram.gram.diagonal()))

    def energies(self) -> Array:
        return self.gram.energy

    def design_specs(self, n_columns: int) -> dict[str, Spec]:
        return {"gram": Spec((n_columns, n_columns)), "units": Spec((n_columns,))}

    def fill_design(self, columns: Index, arrays: Arrays, device: str, threads: int) -> None:
        design = GramDesign.of_gram(self.gram.gram[np.ix_(columns, columns)])
        arrays["gram"][...], arrays["units"][...] = design.gram.numpy(), design.units

    def row_specs(self, n_rows: int) -> dict[str, Spec]:
        specs = {"cross": Spec((n_rows, self.gram.shape[1])), "energy": Spec((n_rows,))}
        return specs | {"target_mean": Spec((n_rows,))} if self.intercept else specs

    def fill_rows(self, rows: Index, arrays: Arrays) -> None:
        arrays["cross"][...], arrays["energy"][...] = self.gram.cross[rows], self.gram.energy[rows]
        if self.intercept:
            arrays["target_mean"][...] = self.given.target_mean[rows]

    def identity(self) -> dict[str, Any]:
        intercept = {"intercept": self.intercept}
        if self.origin is not None:
            return self.origin | intercept
        gram = self.given
        means = {"feature_mean": gram.feature_mean, "target_mean": gram.target_mean, "n_samples": gram.n_samples}
        return {"gram": gram.gram, "cross": gram.cross, "energy": gram.energy} | means | intercept
