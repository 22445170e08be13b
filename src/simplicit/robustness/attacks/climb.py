r"""Ways up an objective in a box, along signs of its gradient.

``walk`` takes steps of one size and returns where it ends. ``climb`` is Auto-PGD (Croce and Hein, 2020, algorithm 1):

    v = P(x_k + η sign ∇f(x_k)),   x_{k+1} = P(x_k + ¾ (v - x_k) + ¼ (x_k - x_{k-1})),   η = 2 ε at first,

and at steps that come closer and closer together a sample halves its η and goes back to its best point, if f rose in
fewer than ¾ of the steps since the last such look, or if neither η nor the best value has changed since.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from simplicit.progress import counted
from simplicit.robustness.attacks.victims import Victim
from simplicit.robustness.box import InnerBox, PerSample

#: From outputs (m, q) to a value to be raised, (m,), and its gradient by the outputs up to a positive factor, (m, q).
Objective: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

#: One length for all columns, or one for each, (p,).
Stride: TypeAlias = float | Tensor

# The paper's numbers: the momentum; the share of steps that must gain; the first period between looks, by how much each
# is shorter than the one before, and the shortest, in shares of all steps.
_MOMENTUM = 0.75
_RISING = 0.75
_FIRST, _SHRINK, _LEAST = 0.22, 0.03, 0.06


@dataclass(frozen=True)
class Place(PerSample):
    """Points, (m, p), with a value that is to be raised, (m,), and whether they are misclassified, (m,)."""

    points: Tensor
    value: Tensor
    broken: Tensor

    @classmethod
    def of(cls, points: Tensor, Y: Tensor, classes: Tensor, objective: Objective) -> Place:
        """Return points with outputs Y (m, q) and true classes (m,) as a place, its value that of the objective."""
        return cls(points, objective(Y)[0], Y.argmax(dim=1) != classes)

    def better_than(self, other: Place) -> Tensor:
        """Return a mask, (m,): misclassified points come before all others, then those with the larger value."""
        return (self.broken & ~other.broken) | ((self.broken == other.broken) & (self.value > other.value))

    def where(self, rows: Tensor, other: Place) -> Place:
        """Return this place for some rows, a mask (m,), and the other for the rest."""
        return Place(
            torch.where(rows[:, None], self.points, other.points),
            torch.where(rows, self.value, other.value),
            torch.where(rows, self.broken, other.broken),
        )


def walk(victim: Victim, box: InnerBox, points: Tensor, objective: Objective, stride: Stride, steps: int) -> Tensor:
    """Take ``steps`` steps of ``stride``, each projected on the box; overwrite ``points``, (m, p), and return them."""
    for _ in counted(range(steps), "gradient steps", steps):
        Y, pull_back = victim.linearise(points)
        box.project_(points.add_(pull_back(objective(Y)[1]).sign_().mul_(stride)))
    return points


def climb(
    victim: Victim, box: InnerBox, points: Tensor, classes: Tensor, objective: Objective, eps: Stride, steps: int
) -> Tensor:
    """Return the best points met on the way from ``points`` with ``steps`` gradients, (m, p); ``classes`` are (m,)."""

    def evaluated(points: Tensor) -> tuple[Place, Tensor]:
        Y, pull_back = victim.linearise(points)
        value, direction = objective(Y)
        return Place(points, value, Y.argmax(dim=1) != classes), pull_back(direction).sign_()

    here, signs = evaluated(points)
    best, best_signs, best_at_look, before = here, signs, here, points
    stride, looks = points.new_full((len(points), 1), 2.0) * eps, _looks(steps)
    gains, seen, halved = torch.zeros(len(points)), 0, torch.zeros(len(points), dtype=torch.bool)
    for step in counted(range(1, steps), "gradient steps", steps - 1):
        there, there_signs = evaluated(_ahead(box, here.points, before, stride * signs))
        gains += there.value > here.value
        better = there.better_than(best)
        best, best_signs = there.where(better, best), torch.where(better[:, None], there_signs, best_signs)
        before, here, signs = here.points, there, there_signs
        if step in looks:
            slow = gains < _RISING * (step - seen)
            halved, best_at_look = slow | (~halved & ~best.better_than(best_at_look)), best
            wide = halved[:, None]
            stride, before = torch.where(wide, 0.5 * stride, stride), torch.where(wide, best.points, before)
            here, signs = best.where(halved, here), torch.where(wide, best_signs, signs)
            gains, seen = torch.zeros_like(gains), step
    end = _ahead(box, here.points, before, stride * signs)
    last = Place.of(end, victim.outputs(end), classes, objective)  # no gradient is needed where the last step ends
    return last.where(last.better_than(best), best).points


def _ahead(box: InnerBox, points: Tensor, before: Tensor, move: Tensor) -> Tensor:
    """Return x_{k+1} for x_k = ``points``, x_{k-1} = ``before``, which is ``points`` at first, and η sign ∇f(x_k)."""
    target = box.project_(points + move)
    if before is points:
        return target
    return box.project_(points + (_MOMENTUM * (target - points) + (1.0 - _MOMENTUM) * (points - before)))


def _looks(steps: int) -> set[int]:
    """Return the steps at which step sizes are reconsidered."""
    shares, period = [_FIRST], _FIRST
    while shares[-1] < 1.0:
        period = max(period - _SHRINK, _LEAST)
        shares.append(shares[-1] + period)
    return {max(1, round(share * steps)) for share in shares}
