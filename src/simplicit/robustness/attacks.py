r"""Attacks in the ℓ∞ box: FGSM and PGD, with the true gradient through the equilibrium.

Both climb the cross-entropy ℓ = log Σⱼ exp yⱼ - y_c of the true class c. Its gradient by the outputs is

    softmax(y) - e_c = (1 - softmax(y)_c) · (softmax over j ≠ c of y - e_c).

Only signs of the gradient by the inputs matter, so that the positive factor is left out: it vanishes in floating point
for confident samples, and with it the gradient that an attack needs most there.

The box |u' - u| <= ε is kept to the last bit, in exact arithmetic and not only as rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplicit.checks import as_count, as_interval, as_number, as_seed
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, linearise
from simplicit.implicit.batch import Batch, as_batch, like
from simplicit.implicit.model import as_model
from simplicit.robustness.labels import as_labels

__all__ = ["fgsm", "pgd"]

Clip = tuple[float, float] | None

_BATCH_SIZE = 2048


def fgsm(
    model: ImplicitModel,
    U: Batch,
    labels: Any,
    eps: float,
    *,
    clip: Clip = (0.0, 1.0),
    batch_size: int = _BATCH_SIZE,
) -> Any:
    """The fast gradient sign method: u + ε sign(∇ᵤ ℓ), clipped.

    Parameters
    ----------
    model : ImplicitModel
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape)
    labels : array of integers, shape (m,)
        The true classes, in [0, q).
    eps : float
        Half-width ε of the box, in units of the inputs.
    clip : (float, float) or None
        Range of valid inputs, which U must keep too; None for no range.
    batch_size : int
        Samples worked on at a time; bounds the memory.

    Returns
    -------
    Adversarial inputs of the kind and shape of U, in the model's dtype. The middle of the box is U as cast to it, and
    at the ends of ``clip`` towards the inside.

    Raises
    ------
    InputError
        U or labels do not fit the model; NaN or infinite values, also in the model's outputs; ``eps`` negative, too
        large for the dtype or wider than ``clip``; ``clip`` no interval; U outside ``clip``.
    NotWellPosedError, ConvergenceError
        The model has no unique equilibrium, or iterating for it takes too long.
    """
    problem = _Problem.checked(model, U, labels, eps, clip, batch_size)
    adversarial = torch.empty_like(problem.inputs)
    for rows in problem.batches():
        box = problem.box(rows)
        adversarial[rows] = _climb(model, box, box.centre.clone(), problem.labels[rows], problem.eps, 1)
    return problem.returned(adversarial)


def pgd(
    model: ImplicitModel,
    U: Batch,
    labels: Any,
    eps: float,
    steps: int,
    *,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    clip: Clip = (0.0, 1.0),
    seed: int = 0,
    batch_size: int = _BATCH_SIZE,
) -> Any:
    """Projected gradient descent (Madry et al., 2018): steps along sign(∇ᵤ ℓ), each projected on the box.

    For every sample the worst point is returned: one that is misclassified before one that is not, then the one with
    the largest loss, among the ends of all restarts and the sample itself. Samples once misclassified sit out the
    remaining restarts.

    Parameters
    ----------
    model, U, labels, eps, clip, batch_size
        As in :func:`fgsm`.
    steps : int
        Gradient steps in each restart, at least 1.
    step_size : float, optional
        In units of the inputs; 2.5 eps / steps if None.
    restarts : int
        At least 1.
    random_start : bool
        Start uniformly in the box; False: the first restart starts at the sample, later ones are random.
    seed : int
        Of the random starts, in [0, 2⁶⁴). They depend on ``batch_size`` too.

    Returns
    -------
    As :func:`fgsm`.

    Raises
    ------
    InputError
        As :func:`fgsm`; ``steps``, ``restarts``, ``step_size`` or ``seed`` out of range.
    NotWellPosedError
        As :func:`fgsm`.
    """
    problem = _Problem.checked(model, U, labels, eps, clip, batch_size)
    steps, restarts = as_count("steps", steps), as_count("restarts", restarts)
    stride = 2.5 * problem.eps / steps if step_size is None else as_number("step_size", step_size, positive=True)
    # The box is no wider than 2 ε, so that longer steps end at the same edges, without overflow.
    stride = min(stride, 2.0 * problem.eps)
    generator = torch.Generator().manual_seed(as_seed("seed", seed))
    adversarial = torch.empty_like(problem.inputs)
    for rows in problem.batches():
        box, classes = problem.box(rows), problem.labels[rows]
        worst = _Worst.at(model, box.centre, classes)
        for restart in range(restarts):
            open_rows = slice(None) if restart == 0 else torch.nonzero(~worst.broken).flatten()
            part = box.part(open_rows)
            start = part.random_point(generator) if random_start or restart else part.centre.clone()
            worst.update(model, open_rows, _climb(model, part, start, classes[open_rows], stride, steps))
        adversarial[rows] = worst.points
    return problem.returned(adversarial)


@dataclass(frozen=True)
class _Box:
    """Points between ``lower`` and ``upper``, which lie within ε of ``centre`` and in the valid range; all (m, p)."""

    centre: Tensor
    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, centre: Tensor, eps: float, clip: Clip) -> _Box:
        """The largest floating-point box that is inside the exact one."""
        radius = torch.tensor(_rounded_down(eps, centre.dtype), dtype=centre.dtype)
        # Rounding may push an edge outwards; two-sum gives its exact error, one step back inwards mends it.
        upper = _sum_rounded_down(centre, radius)
        lower = -_sum_rounded_down(-centre, radius)
        if clip is not None:
            lower, upper = lower.clamp_(min=clip[0]), upper.clamp_(max=clip[1])
        return cls(centre, lower, upper)

    def part(self, rows: slice | Tensor) -> _Box:
        """The box of some samples."""
        return _Box(self.centre[rows], self.lower[rows], self.upper[rows])

    def project_(self, points: Tensor) -> Tensor:
        """The nearest points in the box; overwrites ``points``."""
        torch.maximum(points, self.lower, out=points)
        return torch.minimum(points, self.upper, out=points)

    def random_point(self, generator: torch.Generator) -> Tensor:
        """Uniform in the box."""
        share = torch.rand(self.centre.shape, generator=generator, dtype=self.centre.dtype)
        return self.project_(torch.lerp(self.lower, self.upper, share))


def _rounded_down(value: float, dtype: torch.dtype) -> float:
    """The largest number of ``dtype`` that is at most ``value``."""
    nearest = torch.tensor(value, dtype=dtype)
    if nearest.item() > value:
        nearest = torch.nextafter(nearest, torch.full_like(nearest, -math.inf))
    return nearest.item()


def _sum_rounded_down(a: Tensor, b: Tensor) -> Tensor:
    """a + b, rounded towards minus infinity."""
    total = a + b
    b_part = total - a
    error = (a - (total - b_part)) + (b - b_part)
    return torch.where(error < 0, torch.nextafter(total, torch.full_like(total, -math.inf)), total)


@dataclass
class _Worst:
    """For every sample the worst point so far, (m, p), its loss, (m,), and whether it is misclassified, (m,)."""

    points: Tensor
    loss: Tensor
    broken: Tensor
    classes: Tensor

    @classmethod
    def at(cls, model: ImplicitModel, points: Tensor, classes: Tensor) -> _Worst:
        """Starting with ``points``."""
        return cls(points.clone(), *_judge(model, points, classes), classes)

    def update(self, model: ImplicitModel, rows: slice | Tensor, points: Tensor) -> None:
        """Take ``points`` for the samples ``rows`` where they are worse."""
        if not points.shape[0]:
            return
        loss, broken = _judge(model, points, self.classes[rows])
        was_broken = self.broken[rows]
        better = (broken & ~was_broken) | ((broken == was_broken) & (loss > self.loss[rows]))
        self.points[rows] = torch.where(better[:, None], points, self.points[rows])
        self.loss[rows] = torch.where(better, loss, self.loss[rows])
        self.broken[rows] = was_broken | broken


def _judge(model: ImplicitModel, points: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy, (m,), and whether another class has the largest output, (m,)."""
    Y = model.predict(points)
    return torch.nn.functional.cross_entropy(Y, classes, reduction="none"), Y.argmax(dim=1) != classes


def _climb(model: ImplicitModel, box: _Box, points: Tensor, classes: Tensor, stride: float, steps: int) -> Tensor:
    """``steps`` steps of ``stride`` along the sign of the gradient, projected on the box; overwrites ``points``."""
    if not points.shape[0]:
        return points
    for _ in range(steps):
        at_points = linearise(model, points)
        gradient = at_points.vjp(_loss_direction(at_points.outputs, classes))
        box.project_(points.add_(gradient.sign_(), alpha=stride))
    return points


def _loss_direction(Y: Tensor, classes: Tensor) -> Tensor:
    """The gradient of the cross-entropy by the outputs, up to a positive factor for every sample, (m, q)."""
    column = classes[:, None]
    others = Y.scatter(1, column, -math.inf).softmax(dim=1)
    return others.scatter_(1, column, -1.0)


@dataclass(frozen=True)
class _Problem:
    """The arguments that FGSM and PGD share, checked."""

    inputs: Tensor
    labels: Tensor
    eps: float
    clip: Clip
    batch_size: int
    given: Batch

    @classmethod
    def checked(cls, model: ImplicitModel, U: Batch, labels: Any, eps: float, clip: Clip, batch_size: int) -> _Problem:
        inputs = as_batch(U, as_model(model).n_inputs, model.input_shape, model.dtype)
        classes = as_labels(labels, inputs.shape[0], model.n_outputs)
        if model.n_outputs < 2:
            raise InputError("an attack needs a model with at least two outputs, one for each class")
        radius = as_number("eps", eps)
        # Points of the box, and steps between them, must be numbers too.
        largest = torch.finfo(inputs.dtype).max / 4.0 - inputs.abs().max().item()
        if radius > largest:
            raise InputError(f"eps = {radius} is too large for inputs in {model.dtype}; pass one of their size")
        if clip is not None:
            clip = _checked_clip(clip, radius, inputs)
            inputs = inputs.clamp(*clip)  # not in place: it may be the caller's
        return cls(inputs, classes, radius, clip, as_count("batch_size", batch_size), U)

    def batches(self) -> list[slice]:
        m = self.inputs.shape[0]
        return [slice(start, min(start + self.batch_size, m)) for start in range(0, m, self.batch_size)]

    def box(self, rows: slice) -> _Box:
        return _Box.around(self.inputs[rows], self.eps, self.clip)

    def returned(self, adversarial: Tensor) -> Any:
        shape = np.shape(self.given) if isinstance(self.given, Sequence) else self.given.shape
        return like(adversarial.reshape(tuple(shape)), self.given)


def _checked_clip(clip: tuple[float, float], eps: float, inputs: Tensor) -> tuple[float, float]:
    """The ends of ``clip``, rounded to the dtype of ``inputs`` towards the inside."""
    low, high = as_interval("clip", clip)
    if eps > high - low:
        raise InputError(f"eps = {eps} is wider than the range of inputs, clip = {clip}")
    smallest, largest = inputs.min().item(), inputs.max().item()
    # Inputs at an end may have been rounded over it by the cast to this dtype; they are brought back.
    if (
        smallest < torch.tensor(low, dtype=inputs.dtype).item()
        or largest > torch.tensor(high, dtype=inputs.dtype).item()
    ):
        raise InputError(
            f"U must lie in clip = {clip}, got values from {smallest:.6g} to {largest:.6g}; "
            "pass the range of the inputs, or clip=None"
        )
    inner = -_rounded_down(-low, inputs.dtype), _rounded_down(high, inputs.dtype)
    if inner[0] > inner[1]:
        raise InputError(f"clip = {clip} holds no number in {inputs.dtype}; pass a wider one")
    return inner
