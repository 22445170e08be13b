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

from simplicit.robustness.attacks.victims import Victim
from simplicit.robustness.box import InnerBox

#: From outputs (m, q) to a value to be raised, (m,), and its gradient by the outputs up to a positive factor, (m, q).
Objective: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

# The paper's numbers: the momentum; the share of steps that must gain; the first period between looks, by how much each
# is shorter than the one before, and the shortest, in shares of all steps.
_MOMENTUM = 0.75
_RISING = 0.75
_FIRST, _SHRINK, _LEAST = 0.22, 0.03, 0.06


def walk(victim: Victim, box: InnerBox, points: Tensor, objective: Objective, stride: float, steps: int) -> Tensor:
    """Take ``steps`` steps of ``stride``, each projected on the box; overwrite ``points``, (m, p), and return them."""
    for _ in range(steps):
        Y, pull_back = victim.linearise(points)
        box.project_(points.add_(pull_back(objective(Y)[1]).sign_(), alpha=stride))
    return points


def climb(
    victim: Victim, box: InnerBox, points: Tensor, classes: Tensor, objective: Objective, eps: float, steps: int
) -> Tensor:
    """Return the best points met on the way, with ``steps`` gradients, (m, p).

    Those that are not of their ``classes`` (m,) come before all others, then those with the larger objective.
    """
    climber = _Climber(victim, box, points, classes, objective, eps)
    looks = _looks(steps)
    for step in range(1, steps + 1):
        climber.advance(last=step == steps)
        if step in looks and step < steps:
            climber.look(step)
    return climber.best.points


def _looks(steps: int) -> set[int]:
    """Return the steps at which step sizes are reconsidered."""
    shares, period = [_FIRST], _FIRST
    while shares[-1] < 1.0:
        period = max(period - _SHRINK, _LEAST)
        shares.append(shares[-1] + period)
    return {max(1, round(share * steps)) for share in shares}


@dataclass(frozen=True)
class _Place:
    """Points, (m, p), with their objective, (m,), whether they are misclassified, (m,), and the gradient's signs."""

    points: Tensor
    value: Tensor
    broken: Tensor
    gradient: Tensor

    def where(self, rows: Tensor, other: _Place) -> _Place:
        """Return this place for some rows, a mask (m,), and the other for the rest."""
        wide = rows[:, None]
        return _Place(
            torch.where(wide, self.points, other.points),
            torch.where(rows, self.value, other.value),
            torch.where(rows, self.broken, other.broken),
            torch.where(wide, self.gradient, other.gradient),
        )

    def better_than(self, other: _Place) -> Tensor:
        """Return a mask, (m,)."""
        return (self.broken & ~other.broken) | ((self.broken == other.broken) & (self.value > other.value))


class _Climber:
    """A climber knows where the points are, where they were before, and the best place so far."""

    def __init__(
        self, victim: Victim, box: InnerBox, points: Tensor, classes: Tensor, objective: Objective, eps: float
    ) -> None:
        self._victim, self._box, self._classes, self._objective = victim, box, classes, objective
        self._stride = points.new_full((len(points), 1), 2.0 * eps)
        self._here = self.best = self._best_at_look = self._place(points, None)
        self._before = points
        self._gains, self._seen = torch.zeros(len(points)), 0
        self._halved = torch.zeros(len(points), dtype=torch.bool)

    def _place(self, points: Tensor, gradient: Tensor | None) -> _Place:
        """Evaluate points, with the gradient there unless another one will do."""
        if gradient is None:
            Y, pull_back = self._victim.linearise(points)
            value, direction = self._objective(Y)
            gradient = pull_back(direction).sign_()
        else:
            Y = self._victim.outputs(points)
            value = self._objective(Y)[0]
        return _Place(points, value, Y.argmax(dim=1) != self._classes, gradient)

    def advance(self, *, last: bool) -> None:
        """Take a step; the last one needs no gradient where it ends."""
        here, box = self._here, self._box
        target = box.project_(here.points + self._stride * here.gradient)
        if self._before is not here.points:
            move = _MOMENTUM * (target - here.points) + (1.0 - _MOMENTUM) * (here.points - self._before)
            target = box.project_(here.points + move)
        there = self._place(target, here.gradient if last else None)
        self._gains += there.value > here.value
        self.best = there.where(there.better_than(self.best), self.best)
        self._before, self._here = here.points, there

    def look(self, step: int) -> None:
        """Halve the steps of samples that do not gain, and set them back to their best points."""
        slow = self._gains < _RISING * (step - self._seen)
        halve = slow | (~self._halved & ~self.best.better_than(self._best_at_look))
        self._stride = torch.where(halve[:, None], 0.5 * self._stride, self._stride)
        self._before = torch.where(halve[:, None], self.best.points, self._before)
        self._here = self.best.where(halve, self._here)
        self._halved, self._best_at_look = halve, self.best
        self._gains, self._seen = torch.zeros_like(self._gains), step
