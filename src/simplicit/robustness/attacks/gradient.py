r"""FGSM and PGD in the ℓ∞ box, with the true gradient through the equilibrium.

The cross-entropy ℓ = log Σⱼ exp yⱼ - y_c of the true class c has the gradient by the outputs

    softmax(y) - e_c = (1 - softmax(y)_c) · (softmax over j ≠ c of y - e_c).

Only signs of the gradient by the inputs matter, so that the positive factor is left out: it vanishes in floating point
for confident samples, and with it the gradient that an attack needs most there.

The box |u' - u| <= ε is kept to the last bit, in exact arithmetic and not only as rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simplicit.checks import as_count, as_number, as_seed
from simplicit.robustness.attacks.climb import Objective, Place, climb, walk
from simplicit.robustness.attacks.problem import BATCH_SIZE, Problem
from simplicit.robustness.attacks.victims import AttackedModel, Victim
from simplicit.robustness.box import Clip, Radius
from simplicit.robustness.labels import at_labels, with_labels


def fgsm(
    model: AttackedModel, U: Any, labels: Any, eps: Radius, *, clip: Clip = (0.0, 1.0), batch_size: int = BATCH_SIZE
) -> Any:
    """Attack by the fast gradient sign method: u + ε sign(∇ᵤ ℓ), clipped (Goodfellow et al., 2015).

    Parameters
    ----------
    model : ImplicitModel or torch.nn.Module
        A network takes samples in the form of U, returns logits, and is used in evaluation mode.
    U : NumPy array or torch tensor, shape (m, p) or (m, *input_shape), or several
        As ``model.predict`` or the network takes them: also a tuple or mapping of arrays. Only floating-point inputs
        are moved; integers and truth values stay.
    labels : array of integers, shape (m,)
        The true classes, in [0, q).
    eps : float, or mapping of str to float
        Half-width ε of the box, in units of the inputs; or of each input by its name, where others stay as they are.
    clip : (float, float) or None
        Range of valid inputs, which those that are moved must keep too; None for no range.
    batch_size : int
        Samples worked on at a time; bounds the memory.

    Returns
    -------
    Adversarial inputs of the kind and shape of U, in the model's dtype. The middle of the box is U as cast to it, and
    at the ends of ``clip`` towards the inside.

    Raises
    ------
    InputError
        U or labels do not fit the model, or all its inputs are integers; NaN or infinite values, also in the model's
        outputs; ``eps`` negative, too large for the dtype or wider than ``clip``; ``clip`` no interval; U outside it.
    NotWellPosedError, ConvergenceError
        The model has no unique equilibrium, or iterating for it takes too long.
    """
    problem = Problem.checked(model, U, labels, eps, clip, batch_size)
    adversarial = torch.empty_like(problem.inputs)
    for rows in problem.batches():
        box, objective = problem.box(rows), cross_entropy(problem.labels[rows])
        adversarial[rows] = walk(problem.victim, box, box.centre.clone(), objective, problem.stride, 1)
    return problem.returned(adversarial)


def pgd(
    model: AttackedModel,
    U: Any,
    labels: Any,
    eps: Radius,
    *,
    steps: int = 50,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    clip: Clip = (0.0, 1.0),
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Any:
    """Attack by projected gradient ascent with restarts; the step sizes adapt, unless one is given.

    Without ``step_size``, steps start at 2 ε with momentum, and each sample halves its own where it stops to gain
    (Auto-PGD; Croce and Hein, *Reliable Evaluation of Adversarial Robustness*, 2020). The first restart climbs the
    cross-entropy, the others the margins y_k - y_c to the classes k that come second, third, … at the sample (Gowal et
    al., *An Alternative Surrogate Loss for PGD-based Adversarial Testing*, 2019). With ``step_size`` all restarts take
    plain steps of that size on the cross-entropy (Madry et al., 2018).

    For every sample the worst point is returned: one that is misclassified before one that is not, then the one with
    the largest loss, among the best of all restarts and the sample itself. Samples once misclassified sit out the
    remaining restarts.

    Parameters
    ----------
    model, U, labels, eps, clip, batch_size
        As in :func:`fgsm`.
    steps : int
        Gradient steps in each restart, at least 1.
    step_size : float, optional
        In units of the inputs.
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
    InputError, NotWellPosedError, ConvergenceError
        As :func:`fgsm`; InputError for ``steps``, ``restarts``, ``step_size`` or ``seed`` out of range.
    """
    problem = Problem.checked(model, U, labels, eps, clip, batch_size)
    steps, restarts = as_count("steps", steps), as_count("restarts", restarts)
    # The box is no wider than 2 ε, so that longer steps end at the same edges, without overflow.
    stride = None if step_size is None else min(as_number("step_size", step_size, positive=True), 2.0 * problem.eps)
    generator = torch.Generator().manual_seed(as_seed("seed", seed))
    adversarial = torch.empty_like(problem.inputs)
    for rows in problem.batches():
        box, worst = problem.box(rows), _Worst.of(problem, rows)
        for restart in range(restarts):
            left = torch.nonzero(~worst.place.broken).flatten() if restart else torch.arange(len(worst.classes))
            if not len(left):
                break
            part, classes = box.part(left), worst.classes[left]
            points = part.random_point(generator) if random_start or restart else part.centre.clone()
            if stride is None:
                objective = worst.objective(restart, left)
                points = climb(problem.victim, part, points, classes, objective, problem.stride, steps)
            else:
                points = walk(problem.victim, part, points, cross_entropy(classes), stride, steps)
            worst.update(left, points)
        adversarial[rows] = worst.place.points
    return problem.returned(adversarial)


def cross_entropy(classes: Tensor) -> Objective:
    """Return ℓ for true classes (m,), to be raised."""

    def objective(Y: Tensor) -> tuple[Tensor, Tensor]:
        value = torch.nn.functional.cross_entropy(Y, classes, reduction="none")
        return value, with_labels(with_labels(Y, classes, -math.inf).softmax(dim=1), classes, -1.0)

    return objective


def margin_to(targets: Tensor, classes: Tensor) -> Objective:
    """Return y_k - y_c for targets k and true classes c, both (m,), to be raised."""

    def objective(Y: Tensor) -> tuple[Tensor, Tensor]:
        value = (at_labels(Y, targets) - at_labels(Y, classes))[:, 0]
        return value, with_labels(with_labels(torch.zeros_like(Y), targets, 1.0), classes, -1.0)

    return objective


@dataclass(frozen=True)
class _Worst:
    """Of every sample of a batch the worst place so far, by cross-entropy, and the true class, (m,).

    ``rivals`` are the other classes at the sample itself, from the likeliest, (m, q - 1).
    """

    victim: Victim
    place: Place
    classes: Tensor
    rivals: Tensor

    @classmethod
    def of(cls, problem: Problem, rows: slice) -> _Worst:
        """Start with the samples themselves."""
        points, classes = problem.inputs[rows].clone(), problem.labels[rows]
        Y = problem.victim.outputs(points)
        rivals = with_labels(Y, classes, -math.inf).argsort(dim=1, descending=True, stable=True)[:, :-1]
        return cls(problem.victim, Place.of(points, Y, classes, cross_entropy(classes)), classes, rivals)

    def objective(self, restart: int, rows: Tensor) -> Objective:
        """Return what a restart climbs: the cross-entropy first, then the margins to one rival after the other."""
        if restart == 0:
            return cross_entropy(self.classes[rows])
        return margin_to(self.rivals[rows, (restart - 1) % self.rivals.shape[1]], self.classes[rows])

    def update(self, rows: Tensor, points: Tensor) -> None:
        """Take ``points`` for the samples ``rows`` where they are worse."""
        classes = self.classes[rows]
        found = Place.of(points, self.victim.outputs(points), classes, cross_entropy(classes))
        worse = found.better_than(self.place.part(rows))
        at, found = rows[worse], found.part(worse)
        self.place.points[at], self.place.value[at], self.place.broken[at] = found.points, found.value, found.broken
