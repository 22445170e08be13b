"""What a data set is: checked arrays, samples first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simplicit.errors import DataError

__all__ = ["Dataset", "as_inputs", "as_labels"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification problem with a fixed split.

    Parameters
    ----------
    name : str
        Short name, as in ``load_dataset(name)``, or the path it was read from.
    train_inputs, test_inputs : ndarray, (m, p), float32
        One sample per row, flattened; values inside `input_range`.
    train_labels, test_labels : ndarray, (m,), int64
        Classes 0 ... `classes` - 1.
    input_shape : tuple of int
        Shape of one sample before it was flattened; its product is p.
    classes : int
        Number of classes.
    input_range : (float, float)
        Smallest and largest admissible input; attacks clip to it.
    source : str
        Where the data came from, in words.
    hashes : mapping of str to str
        File name (or array name) to ``"algorithm:digest"``, for the manifest of a run.
    """

    name: str
    train_inputs: npt.NDArray[np.float32] = field(repr=False)
    train_labels: npt.NDArray[np.int64] = field(repr=False)
    test_inputs: npt.NDArray[np.float32] = field(repr=False)
    test_labels: npt.NDArray[np.int64] = field(repr=False)
    input_shape: tuple[int, ...]
    classes: int
    input_range: tuple[float, float] = (0.0, 1.0)
    source: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_inputs(self) -> int:
        """Number p of inputs of one sample."""
        return int(self.train_inputs.shape[1])

    def describe(self) -> dict[str, object]:
        """The facts a manifest needs to tell this data set from any other."""
        return {
            "name": self.name,
            "source": self.source,
            "train_samples": len(self.train_labels),
            "test_samples": len(self.test_labels),
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "input_range": list(self.input_range),
            "hashes": dict(self.hashes),
        }


def as_inputs(array: npt.NDArray[np.generic], where: str) -> npt.NDArray[np.float32]:
    """Samples as finite float32 of shape (m, p): ``uint8`` is divided by 255, everything else is taken as it is.

    Parameters
    ----------
    array : ndarray, (m, ...)
        Real numbers, one sample along the first axis.
    where : str
        The file and key, named in errors.

    Raises
    ------
    DataError
        Not numeric, fewer than two dimensions, no sample, or NaN or infinite values (the first one is named).
    """
    if array.dtype.kind not in "buif":
        raise DataError(f"{where}: inputs must be real numbers, got dtype {array.dtype}; save them as float32 or uint8")
    if array.ndim < 2 or array.size == 0:
        raise DataError(f"{where}: inputs must have shape (samples, ...) with at least one sample, got {array.shape}")
    flat = array.reshape(len(array), -1)
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite and is told below
        inputs = np.ascontiguousarray(flat, dtype=np.float32)
    if array.dtype == np.uint8:
        inputs = inputs / np.float32(255)
    finite = np.isfinite(inputs)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise DataError(
            f"{where}: sample {row} has the value {flat[row, column]} at place {column}; remove NaN, infinite "
            "values and values beyond float32"
        )
    return inputs


def as_labels(array: npt.NDArray[np.generic], samples: int, where: str) -> npt.NDArray[np.int64]:
    """Labels as int64 of shape (samples,), all of them non-negative integers.

    Raises
    ------
    DataError
        Wrong length, not integers, or negative (the first offender is named).
    """
    if array.shape != (samples,):
        raise DataError(f"{where}: labels must have shape ({samples},), one per sample, got {array.shape}")
    if array.dtype.kind not in "buif":
        raise DataError(f"{where}: labels must be integers 0, 1, ..., got dtype {array.dtype}")
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.int64)
    wrong = (labels != array) | (labels < 0)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{where}: label {first} is {array[first]}; labels must be integers 0, 1, ...")
    return labels
