"""The arguments that all attacks share, checked once, and the accuracy on samples as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import as_count
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.implicit.batch import chunks, like
from simplicit.robustness.attacks.climb import Stride
from simplicit.robustness.attacks.victims import AttackedModel, Victim, as_victim
from simplicit.robustness.box import Clip, InnerBox, Radius, Reach, as_reach, clipped
from simplicit.robustness.labels import as_labels

#: Samples worked on at a time.
BATCH_SIZE = 2048
# Gradients keep all states of a batch, several times over: no more than so many at a time, 256 MiB of float64.
_NUMBERS = 2**25


def accuracy(model: AttackedModel, U: Any, labels: Any) -> float:
    """Return the share of samples, in [0, 1], whose largest output is at their label; the first of equal ones counts.

    Parameters
    ----------
    model, U, labels
        As in :func:`simplicit.fgsm`.

    Raises
    ------
    InputError
        U or labels do not fit the model.
    NotWellPosedError
        The model has no unique equilibrium.
    """
    victim, inputs, classes = _checked(model, U, labels)
    parts = chunks(len(inputs), victim.n_inputs)
    rights = [victim.outputs(inputs[rows]).argmax(dim=1) == classes[rows] for rows in parts]
    return float(torch.cat(rights).double().mean())


def _checked(model: AttackedModel, U: Any, labels: Any) -> tuple[Victim, Tensor, Tensor]:
    """Return what ``model`` is as a victim, samples (m, p) in its dtype, and their labels (m,)."""
    victim = as_victim(model, U)
    inputs = victim.batch(U)
    return victim, inputs, as_labels(labels, len(inputs), victim.n_outputs)


@dataclass(frozen=True)
class Problem:
    """A victim is attacked at samples (m, p) in its dtype, with labels (m,), in the box around each."""

    victim: Victim
    inputs: Tensor
    labels: Tensor
    reach: Reach
    clip: Clip
    batch_size: int
    given: Any

    @classmethod
    def checked(cls, model: AttackedModel, U: Any, labels: Any, eps: Radius, clip: Clip, batch_size: int) -> Problem:
        """Check what the user passes; InputError is raised as :func:`simplicit.fgsm` says."""
        victim, inputs, classes = _checked(model, U, labels)
        if victim.n_outputs < 2:
            raise InputError("an attack needs a model with at least two outputs, one for each class")
        reach = as_reach(eps, victim.layout)
        # Points of the box, and steps between them, must be numbers too.
        largest = torch.finfo(inputs.dtype).max / 4.0 - inputs.abs().max().item()
        if reach.eps > largest:
            message = f"eps = {reach.eps} is too large for inputs in {victim.dtype}; pass one of their size"
            raise InputError(message, argument="eps")
        inputs, clip = clipped(inputs, clip, reach)
        states = max(1, model.n_states) if isinstance(model, ImplicitModel) else 1
        samples = min(as_count("batch_size", batch_size), max(1, _NUMBERS // states))
        return cls(victim, inputs, classes, reach, clip, samples, U)

    @property
    def eps(self) -> float:
        """The largest radius."""
        return self.reach.eps

    @property
    def stride(self) -> Stride:
        """The radius of all columns, or of each, (p,) in the dtype of the inputs."""
        radii = self.reach.radii
        return self.reach.eps if radii is None else radii.to(self.inputs.dtype)

    def batches(self) -> Iterator[slice]:
        """Yield slices that cover the samples."""
        return chunks(len(self.inputs), 1, self.batch_size)

    def box(self, rows: slice | Tensor = slice(None)) -> InnerBox:
        """Return the boxes of some samples."""
        return InnerBox.around(self.inputs[rows], self.reach, self.clip)

    def part(self, rows: Tensor) -> Problem:
        """Return the problem of some samples."""
        return replace(self, inputs=self.inputs[rows], labels=self.labels[rows])

    def broken(self, points: Tensor) -> Tensor:
        """Return which points, one for each sample, are misclassified, (m,)."""
        parts = [self.victim.outputs(points[rows]).argmax(dim=1) != self.labels[rows] for rows in self.batches()]
        return torch.cat(parts)

    def image_shape(self, given: tuple[int, ...] | None) -> tuple[int, ...]:
        """Return the form of a sample as an image, as given or as they come; InputError where it is of another size."""
        shape = tuple(as_count("each entry of image_shape", length) for length in given or self.victim.input_shape)
        if math.prod(shape) != self.victim.n_inputs:
            message = f"image_shape = {shape} has {math.prod(shape)} entries, a sample has {self.victim.n_inputs}"
            raise InputError(message, argument="image_shape")
        return shape

    def returned(self, adversarial: Tensor) -> Any:
        """Return points (m, p) in the kind and shape of what was given."""
        if self.victim.layout is not None:
            return self.victim.layout.restored(adversarial, self.given)
        return like(adversarial.reshape(np.shape(self.given)), self.given)
