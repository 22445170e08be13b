"""What a data set is: checked arrays, samples first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simplicit.errors import DataError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification problem with a fixed split.

    Parameters
    ----------
    name : str
        As in ``load_dataset(name)``, or the path it was read from.
    train_inputs, test_inputs : ndarray, (m, p), float32
        One flattened sample per row.
    train_labels, test_labels : ndarray, (m,), int64
        Classes 0 ... `classes` - 1.
    input_shape : tuple of int
        Shape of one sample before it was flattened; its product is p.
    classes : int
    input_range : (float, float)
        Smallest and largest admissible input; attacks clip to it.
    source : str
        In words.
    hashes : mapping of str to str
        File name (or array name) to ``"algorithm:digest"``, for the manifest of a run.
    class_names : tuple of str
        What people call the classes, in a word or two; empty where nobody said it.
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
    class_names: tuple[str, ...] = ()

    @classmethod
    def from_images(
        cls,
        name: str,
        train: tuple[Array, Array],
        test: tuple[Array, Array],
        *,
        classes: int,
        source: str,
        hashes: Mapping[str, str] | None = None,
        largest: int = 255,
        class_names: tuple[str, ...] = (),
    ) -> Dataset:
        """Images (m, ...), uint8, divided by ``largest`` into [0, 1], with labels (m,) that have been checked.

        ``hashes`` are those of the inputs where there are no files to have any.
        """
        inputs, others = _scaled(train[0], largest), _scaled(test[0], largest)
        arrays = inputs, train[1].astype(np.int64), others, test[1].astype(np.int64)
        if hashes is None:
            hashes = {"train": _hash(inputs), "test": _hash(others)}
        shape = train[0].shape[1:]
        return cls(name, *arrays, shape, classes, source=source, hashes=hashes, class_names=class_names)

    @property
    def n_inputs(self) -> int:
        """p, how many inputs a sample has."""
        return int(self.train_inputs.shape[1])

    def describe(self) -> dict[str, object]:
        """The facts by which a manifest tells this data set from any other."""
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


def _hash(array: Array) -> str:
    return "sha256:" + hashlib.sha256(array.tobytes()).hexdigest()


def _scaled(images: Array, largest: int) -> npt.NDArray[np.float32]:
    """Flatten bytes (m, ...) to float32 (m, p), divided by ``largest``."""
    inputs = images.reshape(len(images), -1).astype(np.float32)
    inputs /= np.float32(largest)  # in place: all of CIFAR takes 0.6 GB
    return inputs


def as_inputs(array: Array, what: str) -> npt.NDArray[np.float32]:
    """Samples (m, ...) of real numbers as finite float32 of shape (m, p); ``uint8`` is divided by 255.

    DataError names ``what``, the file and key, where the array is not numeric, has fewer than two dimensions or no
    sample, or holds NaN, infinite values or values beyond float32 (the first one is named).
    """
    if array.dtype.kind not in "buif":
        raise DataError(f"{what}: inputs must be real numbers, got dtype {array.dtype}; save them as float32 or uint8")
    if array.ndim < 2 or array.size == 0:
        hint = "; are inputs and labels swapped?" if array.ndim == 1 and array.size else ""
        found = f"inputs must have shape (samples, ...) with at least one sample, got {array.shape}{hint}"
        raise DataError(f"{what}: {found}")
    if array.dtype == np.uint8:
        return _scaled(array, 255)
    flat = array.reshape(len(array), -1)
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite and is reported below
        inputs = np.ascontiguousarray(flat, dtype=np.float32)
    finite = np.isfinite(inputs)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        found = f"sample {row} has the value {flat[row, column]} at place {column}"
        raise DataError(f"{what}: {found}; remove NaN, infinite values and values beyond float32")
    return inputs


def as_labels(array: Array, samples: int, what: str, *, classes: int | None = None) -> npt.NDArray[np.int64]:
    """Labels as int64 of shape (samples,): integers from 0, below ``classes`` where that is known, else DataError."""
    if array.shape != (samples,):
        remedy = f"labels must have shape ({samples},), one per sample, got {array.shape}"
        if array.ndim == 2 and len(array) == samples:
            remedy += "; take .argmax(1) of one-hot ones"
        elif array.ndim == 1:
            remedy += "; samples come first: are the inputs transposed?"
        raise DataError(f"{what}: {remedy}")
    allowed = "integers 0, 1, ..." if classes is None else f"integers from 0 to {classes - 1}"
    if array.dtype.kind not in "buif":
        raise DataError(f"{what}: labels must be {allowed}, got dtype {array.dtype}")
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.int64)
    wrong = (labels != array) | (labels < 0)
    if classes is not None:
        wrong |= labels >= classes
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(f"{what}: label {first} is {array[first]}; labels must be {allowed}")
    return labels
