"""The partial ℓ1 ball against a sorted search, and against the last bit."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import simplicit as sp
from simplicit.errors import InputError
from simplicit.rows.ball import ball_multiplier, shrink_into_ball

values = st.lists(st.floats(-20, 20, allow_nan=False), min_size=1, max_size=12)


def sorted_multiplier(magnitude: npt.NDArray[np.float64], step: npt.NDArray[np.float64], radius: float) -> float:
    """The root of the piecewise linear function by trying every interval between its breakpoints."""
    if np.maximum(magnitude, 0).sum() <= radius:
        return 0.0
    ends = np.unique(np.concatenate([[0.0], np.maximum(magnitude / step, 0.0)]))
    for low, high in itertools.pairwise(ends):
        on = magnitude / step > (low + high) / 2
        if on.any():
            mu = (magnitude[on].sum() - radius) / step[on].sum()
            if low - 1e-12 <= mu <= high + 1e-12:
                return float(mu)
    raise AssertionError("no root")


@given(magnitude=values, radius=st.floats(0.01, 30), data=st.data())
def test_multiplier_is_the_root(magnitude: list[float], radius: float, data: st.DataObject) -> None:
    size = len(magnitude)
    step = np.array(data.draw(st.lists(st.floats(0.05, 20), min_size=size, max_size=size)))
    a = np.array(magnitude)
    mu = float(
        ball_multiplier(
            torch.from_numpy(a)[None], torch.from_numpy(step)[None], torch.tensor([[radius]], dtype=torch.float64)
        )
    )
    assert mu >= 0
    assert mu == pytest.approx(sorted_multiplier(a, step, radius), rel=1e-9, abs=1e-9)


def test_rows_have_their_own_multiplier() -> None:
    rng = np.random.default_rng(0)
    a, step, radius = rng.normal(size=(50, 9)), rng.uniform(0.1, 3, size=(50, 9)), rng.uniform(0.1, 2, size=(50, 1))
    mu = ball_multiplier(*map(torch.from_numpy, (a, step, radius))).numpy()
    for i in range(50):
        assert mu[i, 0] == pytest.approx(sorted_multiplier(a[i], step[i], radius[i, 0]), rel=1e-10, abs=1e-12)


@given(w=values, radius=st.floats(1e-6, 30))
def test_shrinking_is_feasible_in_any_order(w: list[float], radius: float) -> None:
    inside = shrink_into_ball(np.array(w), radius)
    assert np.array_equal(np.sign(inside), np.sign(w)) or radius < 1e-300
    for order in (np.arange(len(w)), np.arange(len(w))[::-1], np.argsort(np.abs(w)), np.argsort(-np.abs(w))):
        assert sum(np.abs(inside[order]).tolist()) <= radius
        assert np.abs(inside[order]).sum() <= radius
    if np.abs(w).sum() <= radius * (1 - 1e-12):
        assert np.array_equal(inside, w)


def test_masks() -> None:
    assert sp.Ball(1.0).mask(3).all()
    assert sp.Ball(1.0, slice(0, 2)).mask(3).tolist() == [True, True, False]
    assert sp.Ball(1.0, np.array([2])).mask(3).tolist() == [False, False, True]
    with pytest.raises(InputError, match="do not index the 3 columns"):
        sp.Ball(1.0, np.array([7])).mask(3)


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan, np.inf])
def test_bad_radius(radius: float) -> None:
    with pytest.raises(InputError, match="radius must be finite and > 0"):
        sp.Ball(radius).radii(2)


def test_radius_per_row_must_fit() -> None:
    assert sp.Ball(np.array([1.0, 2.0])).radii(2).tolist() == [1.0, 2.0]
    with pytest.raises(InputError, match=r"radius has shape \(3,\); give one number, or an array of shape \(2,\)"):
        sp.Ball(np.ones(3)).radii(2)
