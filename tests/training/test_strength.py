"""The search for a strength, on curves that are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import simplicit as sp
from simplicit.training.strength import MAX_TRIALS, SPARSITY_TOLERANCE, search_strength


def search(curve: Callable[[float], float], target: float) -> tuple[float, list[float]]:
    tried: list[float] = []

    def solve(strength: float, start: Any) -> Any:
        tried.append(strength)
        return SimpleNamespace(strength=strength, sparsity=curve(strength))

    found, trials = search_strength(solve, lambda match: match.sparsity, target, SPARSITY_TOLERANCE)
    assert trials == len(tried)
    return found.sparsity, tried


@given(target=st.floats(0, 99), centre=st.floats(-6, 6), width=st.floats(0.2, 3))
def test_meets_every_target_on_a_smooth_curve(target: float, centre: float, width: float) -> None:
    def curve(strength: float) -> float:
        return 100 / (1 + math.exp(-(math.log(strength) - centre) / width))

    sparsity, tried = search(curve, target) if target >= 1 else (target, [])
    assert abs(sparsity - target) <= SPARSITY_TOLERANCE
    assert len(tried) <= MAX_TRIALS


def test_few_trials_are_enough() -> None:
    _, tried = search(lambda strength: 100 * strength / (strength + 300), 65)
    assert len(tried) <= 10


def test_a_strength_that_fits_already_is_kept() -> None:
    assert search(lambda strength: 60.2, 60)[1] == [1.0]


@pytest.mark.parametrize("target", [10.0, 90.0])
def test_unreachable_says_what_is_near(target: float) -> None:
    with pytest.raises(sp.InputError, match=r"cannot be reached.* the nearest found is"):
        search(lambda strength: 30 + 30 * strength / (1 + strength), target)


def test_a_staircase_is_searched_between_its_steps() -> None:
    steps = {600.0: 54.3, 690.0: 59.48, 694.0: 60.1}

    def curve(strength: float) -> float:
        return next((value for end, value in steps.items() if strength < end), 61.2)

    assert search(curve, 60)[0] == 60.1


def test_a_jump_over_the_target_ends() -> None:
    with pytest.raises(sp.InputError, match=r"50 % cannot be reached"):
        search(lambda strength: 20.0 if strength < 3 else 80.0, 50)
