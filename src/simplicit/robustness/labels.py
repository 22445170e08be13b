"""Labels that fit a model, and the accuracy against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import as_array
from simplicit.errors import InputError

__all__ = ["as_labels"]


def as_labels(labels: Any, samples: int, classes: int) -> Tensor:
    """``labels`` as an int64 tensor (samples,).

    Raises
    ------
    InputError
        Not one-dimensional, of another length, not integer, or outside [0, classes).
    """
    array = as_array("labels", labels)
    if array.shape != (samples,):
        raise InputError(f"labels must have shape ({samples},), one for each sample, got {array.shape}")
    if array.dtype.kind not in "iu":
        raise InputError(f"labels must be integers, got dtype {array.dtype}; pass class numbers")
    outside = (array < 0) | (array >= classes)
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(f"labels must lie in [0, {classes}), the model's outputs; got {array[row]} for sample {row}")
    return torch.from_numpy(array.astype(np.int64))
