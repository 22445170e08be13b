r"""Ways up an objective in a box, along signs of its gradient.

``walk`` takes steps of one size and returns where it ends. ``climb`` is Auto-PGD (Croce and Hein, 2020, algorithm 1):

    v = P(x_k + η sign ∇f(x_k)),   x_{k+1} = P(x_k + ¾ (v - x_k) + ¼ (x_k - x_{k-1})),   η = 2 ε at first,

and at steps that come closer and closer together a sample halves its η and goes back to its best point, if f rose in
fewer than ¾ of the steps since the last such look, or if neither η nor the best value has changed since.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from simplicit.robustness.attacks.victims import Victim
from simplicit.robustness.box import InnerBox

__all__ = ["Objective", "climb", "walk"]

#: From outputs (m, q) to a value to be raised, (m,), and its gradient by the outputs up to a positive factor, (m, q).
Objective: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]

_MOMENTUM = 0.75
_RISING = 0.75  # share of steps that must gain
_FIRST, _SHRINK, _LEAST = 0.22, 0.03, 0.06  # of the periods between looks, in shares of all steps


def walk(victim: Victim, box: InnerBox, points: Tensor, objective: Objective, stride: float, steps: int) -> Tensor:
    """``steps`` steps of ``stride``, each projected on the box; overwrites ``points``, (m, p)."""
    for _ in range(steps):
        Y, pull_back = victim.linearise(points)
        box.project_(points.add_(pull_back(objective(Y)[1]).sign_(), alpha=stride))
    return points


def climb(victim: Victim, box: InnerBox, points: Tensor, objective: Objective, eps: float, steps: int) -> Tensor:
    """The points of the largest objective met on the way, with ``steps`` gradients, (m, p)."""
    state = _Climber(victim, box, points, objective, eps)
    looks = _looks(steps)
    for step in range(1, steps + 1):
        state.advance(last=step == steps)
        if step in looks and step < steps:
            state.look(step)
    return state.best


def _looks(steps: int) -> set[int]:
    """Steps at which step sizes are reconsidered."""
    shares, period = [_FIRST], _FIRST
    while shares[-1] < 1.0:
        period = max(period - _SHRINK, _LEAST)
        shares.append(shares[-1] + period)
    return {max(1, round(share * steps)) for share in shares}


class _Climber:
    """Points on their way, the gradient there, and the best points so far with theirs."""

    def __init__(self, victim: Victim, box: InnerBox, points: Tensor, objective: Objective, eps: float) -> None:
        self._victim, self._box, self._objective = victim, box, objective
        self._points, self._before = points, points
        self._stride = points.new_full((len(points), 1), 2.0 * eps)
        self._value, self._gradient = self._evaluated(points)
        self.best, self._best_value, self._best_gradient = points, self._value, self._gradient
        self._gains = torch.zeros(len(points))
        self._seen = 0
        self._best_at_look, self._halved = self._best_value, torch.zeros(len(points), dtype=torch.bool)

    def _evaluated(self, points: Tensor) -> tuple[Tensor, Tensor]:
        Y, pull_back = self._victim.linearise(points)
        value, direction = self._objective(Y)
        return value, pull_back(direction).sign_()

    def advance(self, *, last: bool) -> None:
        """One step; the last one needs no gradient where it ends."""
        points, box = self._points, self._box
        target = box.project_(points + self._stride * self._gradient)
        if self._before is points:
            following = target
        else:
            move = _MOMENTUM * (target - points) + (1.0 - _MOMENTUM) * (points - self._before)
            following = box.project_(points + move)
        if last:
            value, gradient = self._objective(self._victim.outputs(following))[0], self._gradient
        else:
            value, gradient = self._evaluated(following)
        self._gains += value > self._value
        better = value > self._best_value
        self.best = torch.where(better[:, None], following, self.best)
        self._best_gradient = torch.where(better[:, None], gradient, self._best_gradient)
        self._best_value = torch.where(better, value, self._best_value)
        self._before, self._points, self._value, self._gradient = points, following, value, gradient

    def look(self, step: int) -> None:
        """Halve the steps of samples that do not gain, and set them back to their best points."""
        slow = self._gains < _RISING * (step - self._seen)
        stuck = ~self._halved & (self._best_value <= self._best_at_look)
        halve = slow | stuck
        back = halve[:, None]
        self._stride = torch.where(back, 0.5 * self._stride, self._stride)
        self._before = torch.where(back, self.best, self._before)
        self._points = torch.where(back, self.best, self._points)
        self._gradient = torch.where(back, self._best_gradient, self._gradient)
        self._value = torch.where(halve, self._best_value, self._value)
        self._halved, self._best_at_look = halve, self._best_value
        self._gains, self._seen = torch.zeros_like(self._gains), step
