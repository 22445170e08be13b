"""True classes: checked, and the outputs (m, q) of a model seen from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import as_array
from simplicit.errors import InputError


def as_labels(labels: Any, samples: int, classes: int) -> Tensor:
    """Return ``labels`` as an int64 tensor (samples,); InputError for another shape, or no integers in [0, classes)."""
    array = as_array("labels", labels)
    if array.shape != (samples,):
        problem = f"labels must have shape ({samples},), one for each sample, got {array.shape}"
    elif array.dtype.kind not in "iu":
        problem = f"labels must be integers, got dtype {array.dtype}; pass class numbers"
    elif (outside := (array < 0) | (array >= classes)).any():
        row = int(np.argmax(outside))
        found = f"got {array[row]} for sample {row}; count classes from 0"
        problem = f"labels must lie in [0, {classes}), the model's outputs; {found}"
    else:
        return torch.from_numpy(array.astype(np.int64))
    raise InputError(problem, argument="labels")


def at_labels(Y: Tensor, labels: Tensor) -> Tensor:
    """Return the outputs at their labels, (m, 1)."""
    return Y.gather(1, labels[:, None])


def with_labels(Y: Tensor, labels: Tensor, value: float) -> Tensor:
    """Return the outputs with another value at their labels, (m, q): ``-math.inf`` leaves the other classes alone."""
    return Y.scatter(1, labels[:, None], value)


def by_label(labels: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each class that occurs, and a mask (m,) of its samples."""
    for label in set(labels.tolist()):
        yield label, labels == label
