"""The strength of the penalty that gives a wanted sparsity.

Sparsity grows with the strength, by steps and nearly always. The search brackets the target by factors and then bisects
in the logarithm, guided by interpolation; every trial starts from the nearest one before it, so that a whole search
costs a few solves. :func:`solve_at_sparsity` does so where it is asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from simplicit.checks import as_number, refused
from simplicit.errors import InputError
from simplicit.progress import phase
from simplicit.training.training import Trained, Training

#: What is solved at one strength.
M = TypeVar("M")

#: In points of sparsity.
SPARSITY_TOLERANCE = 0.5
FACTOR = 4.0
LIMIT = 1e7
MAX_TRIALS = 40


def check_sparsity(value: object, name: str = "sparsity") -> None:
    """Refuse what is no share in per cent, [0, 100), and ask back where it looks like one in (0, 1)."""
    if value is None:
        return
    share = as_number(name, value)
    if share >= 100:
        raise InputError(f"{name} is in per cent, from 0 to below 100, got {value!r}", argument=name)
    if 0 < share < 1:
        raise InputError(f"{name} is in per cent, got {value!r}; did you mean {100 * share:g}?", argument=name)


def tolerance_of(weight_count: int) -> float:
    """How far from the wanted sparsity a fit may be, in points: half a point, or half a weight where that is more."""
    return max(SPARSITY_TOLERANCE, 50 / weight_count) * (1 + 1e-12)


def solve_at_sparsity(training: Training[Any], sparsity: float | None) -> Trained:
    """The solution of problem (7) at the strength given, or at the one that gives a wanted sparsity in per cent.

    InputError is raised where the penalty does not lead to the wanted sparsity, or no strength gives it.
    """
    if sparsity is None:
        return training.solve()
    _check_searchable(training)
    count, numbers = training.provider.weight_count, itertools.count(1)

    def solve(strength: float, start: Trained | None) -> Trained:
        with phase(f"strength, trial {next(numbers)}"):
            return training.solve(strength, start)

    found, trials = search_strength(solve, lambda one: 100 * (1 - one.nnz / count), sparsity, tolerance_of(count))
    return replace(found, trials=trials)


def _check_searchable(training: Training[Any]) -> None:
    """Refuse to search a sparsity where the strength of the penalty does not lead to it.

    Zeros come from the kink of h at 0; ridge (``Perspective(gamma=0)``, ``ElasticNet(beta=0)``) and ``NoPenalty`` have
    none. With exact matching the penalty is the whole objective, and a factor on it changes nothing.
    """
    if training.pieces.equality:
        raise refused(
            "sparsity",
            f"{training.penalty} matches exactly, whatever its strength, so no sparsity can be asked for; leave it "
            "out, or take simplicit.L1",
        )
    if not training.makes_zeros:
        raise refused(
            "sparsity",
            f"{training.penalty} gives no zeros, however strong it is; take a penalty with a price on non-zeros: L1 or "
            "ElasticNet with beta > 0, or Perspective with gamma > 0",
        )


def search_strength(
    solve: Callable[[float, M | None], M],
    sparsity_of: Callable[[M], float],
    target: float,
    tolerance: float,
) -> tuple[M, int]:
    """The match whose sparsity is within ``tolerance`` points of ``target``, in per cent, and the number of trials.

    ``solve`` goes from a strength, and a match to start from, to a match. InputError is raised if no strength gives the
    sparsity, and says how near one comes.
    """
    trials: list[tuple[float, float, M]] = []

    def tried(log_strength: float) -> float:
        near = min(trials, key=lambda t: abs(t[0] - log_strength), default=None)
        match = solve(math.exp(log_strength), None if near is None else near[2])
        trials.append((log_strength, sparsity_of(match), match))
        return trials[-1][1]

    at, value = 0.0, tried(0.0)
    step = math.copysign(math.log(FACTOR), target - value)
    while abs(value - target) > tolerance and (value < target) == (step > 0):
        if abs(at) > math.log(LIMIT):
            raise _unreachable(target, trials)
        at += step
        value = tried(at)
    while abs(trials[-1][1] - target) > tolerance:
        # Of equal sparsities the inner ones: on a step of the curve the bracket would stand still otherwise.
        below = max((t for t in trials if t[1] < target), key=lambda t: (t[1], t[0]))
        above = min((t for t in trials if t[1] >= target), key=lambda t: (t[1], t[0]))
        width = above[0] - below[0]
        if len(trials) >= MAX_TRIALS or abs(width) < 1e-6:
            raise _unreachable(target, trials)
        share = (target - below[1]) / (above[1] - below[1])
        # Away from the ends, so that the bracket shrinks even where the sparsity jumps.
        tried(below[0] + min(max(share, 0.15), 0.85) * width)
    return trials[-1][2], len(trials)


def _unreachable(target: float, trials: list[tuple[float, float, M]]) -> InputError:
    reached = sorted(value for _, value, _ in trials)
    nearest = min(reached, key=lambda value: abs(value - target))
    return refused(
        "sparsity",
        f"{target:g} % cannot be reached with these settings; the nearest found is {nearest:.2f} %, of "
        f"{reached[0]:.1f} to {reached[-1]:.1f} % (few samples, a small kappa or a tight structure leave few "
        "non-zeros; a network with few weights has few steps)",
    )
