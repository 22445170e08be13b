"""Labels that fit a model, and the accuracy against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import as_array
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.implicit.batch import Batch
from simplicit.implicit.model import as_model

__all__ = ["accuracy", "as_labels"]


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


def accuracy(model: ImplicitModel, U: Batch, labels: Any) -> float:
    """The share of samples, in [0, 1], whose largest output is that of their label; the first of equal outputs counts.

    Parameters
    ----------
    model : ImplicitModel
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape)
    labels : array of integers, shape (m,), in [0, q)

    Raises
    ------
    InputError
        U or labels do not fit the model.
    NotWellPosedError
        The model has no unique equilibrium.
    """
    Y = torch.as_tensor(as_model(model).predict(U))
    classes = as_labels(labels, Y.shape[0], model.n_outputs)
    return float((Y.argmax(dim=1).cpu() == classes).double().mean())
