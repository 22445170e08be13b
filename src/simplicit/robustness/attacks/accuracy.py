"""The accuracy of a model on samples as they are."""

from __future__ import annotations

from typing import Any

import torch

from simplicit.implicit.batch import Batch, as_batch, chunks
from simplicit.robustness.attacks.victims import AttackedModel, as_victim
from simplicit.robustness.labels import as_labels


def accuracy(model: AttackedModel, U: Batch, labels: Any) -> float:
    """Return the share of samples, in [0, 1], whose largest output is at their label; the first of equal ones counts.

    Parameters
    ----------
    model : ImplicitModel or torch.nn.Module
        A network takes samples in the form of U, returns logits, and is used in evaluation mode.
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape)
    labels : array of integers, shape (m,), in [0, q)

    Raises
    ------
    InputError
        U or labels do not fit the model.
    NotWellPosedError
        The model has no unique equilibrium.
    """
    victim = as_victim(model, U)
    inputs = as_batch(U, victim.n_inputs, victim.input_shape, victim.dtype)
    classes = as_labels(labels, len(inputs), victim.n_outputs)
    rights = [
        victim.outputs(inputs[rows]).argmax(dim=1) == classes[rows] for rows in chunks(len(inputs), victim.n_inputs)
    ]
    return float(torch.cat(rights).double().mean())
