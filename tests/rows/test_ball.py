"""The weighted ℓ1 ball against a sorted search, CVXPY, the inequalities of a projection, and the last bit."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import simplicit as sp
from reference import Array
from simplicit.errors import InputError
from simplicit.rows.ball import project_into_ball, shrink_into_ball

values = st.lists(st.floats(-20, 20, allow_nan=False), min_size=1, max_size=12)


def project(w: Array, weights: Array, radius: float | Array) -> Array:
    kappa = torch.from_numpy(np.reshape(np.asarray(radius, dtype=float), (-1, 1)))
    return project_into_ball(torch.from_numpy(np.atleast_2d(w)), torch.from_numpy(weights[None]), kappa).numpy()


def by_sorting(w: Array, weights: Array, radius: float) -> Array:
    """The projection by going through the breakpoints |wⱼ|/aⱼ from the largest down."""
    size = abs(w)
    if weights @ size <= radius:
        return w
    order = np.argsort(-size / weights)
    mu = 0.0
    for count in range(1, len(w) + 1):
        on = order[:count]
        mu = (weights[on] @ size[on] - radius) / (weights[on] @ weights[on])
        following = size[order[count]] / weights[order[count]] if count < len(w) else -np.inf
        if mu >= following:
            break
    return np.sign(w) * np.maximum(size - mu * weights, 0.0)


@given(w=values, radius=st.floats(0.01, 30), data=st.data())
def test_projection_is_that_of_the_sorted_search(w: list[float], radius: float, data: st.DataObject) -> None:
    weights = np.array(data.draw(st.lists(st.floats(0.05, 20), min_size=len(w), max_size=len(w))))
    point = np.array(w)
    found = project(point, weights, radius)[0]
    np.testing.assert_allclose(found, by_sorting(point, weights, radius), rtol=1e-9, atol=1e-10)
    assert weights @ abs(found) <= radius * (1 + 1e-12)
    assert (found * point >= 0).all()
    again = project(found, weights, radius)[0]
    np.testing.assert_allclose(again, found, rtol=1e-12, atol=1e-12)
    if weights @ abs(point) <= radius * (1 - 1e-12):
        np.testing.assert_array_equal(found, point)


@given(a=values, shift=values, radius=st.floats(0.01, 30))
def test_projection_is_non_expansive(a: list[float], shift: list[float], radius: float) -> None:
    size = min(len(a), len(shift))
    x = np.array(a[:size])
    y = x + np.array(shift[:size])
    weights = np.linspace(0.5, 2.0, size)
    px, py = project(x, weights, radius)[0], project(y, weights, radius)[0]
    assert np.linalg.norm(px - py) <= np.linalg.norm(x - y) * (1 + 1e-10) + 1e-12
    # The angle between what was taken off and any way into the ball is obtuse.
    assert (x - px) @ (py - px) <= 1e-9 * (1 + np.linalg.norm(x) * np.linalg.norm(py))


def test_projection_is_that_of_a_modelled_problem() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 3, 8):
        w, weights = rng.normal(size=size), rng.uniform(0.1, 3, size=size)
        radius = 0.3 * float(weights @ abs(w))
        y = cp.Variable(size)
        tight = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
        model = cp.Problem(cp.Minimize(cp.sum_squares(y - w)), [weights @ cp.abs(y) <= radius])
        model.solve(solver=cp.CLARABEL, **tight)
        np.testing.assert_allclose(project(w, weights, radius)[0], y.value, atol=1e-6)


def test_rows_have_their_own_radius() -> None:
    rng = np.random.default_rng(0)
    w, weights, radius = rng.normal(size=(50, 9)), rng.uniform(0.1, 3, size=9), rng.uniform(0.1, 20, size=50)
    found = project(w, weights, radius)
    for i in range(50):
        np.testing.assert_allclose(found[i], by_sorting(w[i], weights, radius[i]), rtol=1e-10, atol=1e-12)


def test_equal_entries_and_far_scales() -> None:
    np.testing.assert_allclose(project(np.full(4, 3.0), np.ones(4), 2.0)[0], 0.5)
    w = np.array([1e12, 1.0, -1e-12, 0.0])
    found = project(w, np.ones(4), 1e-3)[0]
    np.testing.assert_allclose(found, [1e-3, 0, 0, 0], rtol=0.2)
    assert not found[1:].any()


@given(w=values, radius=st.floats(1e-6, 30))
def test_shrinking_is_feasible_in_any_order(w: list[float], radius: float) -> None:
    inside = shrink_into_ball(np.array(w), radius)
    assert np.array_equal(np.sign(inside), np.sign(w)) or radius < 1e-300
    for order in (np.arange(len(w)), np.arange(len(w))[::-1], np.argsort(np.abs(w)), np.argsort(-np.abs(w))):
        assert sum(np.abs(inside[order]).tolist()) <= radius
        assert np.abs(inside[order]).sum() <= radius
    if np.abs(w).sum() <= radius * (1 - 1e-12):
        assert np.array_equal(inside, w)


@given(w=values, radius=st.floats(1e-6, 30), exponents=st.data())
def test_shrinking_with_weights_that_are_powers_of_two(w: list[float], radius: float, exponents: st.DataObject) -> None:
    drawn = exponents.draw(st.lists(st.integers(-20, 20), min_size=len(w), max_size=len(w)))
    weights = np.exp2(np.array(drawn, dtype=float))
    inside = shrink_into_ball(np.array(w), radius, weights)
    rng = np.random.default_rng(0)
    for _ in range(5):
        order = rng.permutation(len(w))
        assert (abs(inside) * weights)[order].sum() <= radius
    direction = np.array(w) / max(abs(np.array(w)).max(), 1e-300)
    np.testing.assert_allclose(inside / max(abs(inside).max(), 1e-300), direction, atol=1e-12)


def test_shrinking_many_entries_loses_no_more_than_rounding() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=20_000) * 10.0 ** rng.uniform(-8, 8, size=20_000)
    inside = shrink_into_ball(w, 1.0)
    assert 1 - 1e-11 <= abs(inside).sum() <= 1
    assert sum(abs(inside).tolist()) <= 1
    zero = np.zeros(3)
    assert shrink_into_ball(zero, 1.0) is zero


def test_masks() -> None:
    assert sp.Ball(1.0).mask(3).all()
    assert sp.Ball(1.0, slice(0, 2)).mask(3).tolist() == [True, True, False]
    assert sp.Ball(1.0, np.array([2])).mask(3).tolist() == [False, False, True]
    assert sp.Ball(1.0, np.array([True, False, True])).mask(3).tolist() == [True, False, True]
    with pytest.raises(InputError, match="do not index the 3 columns"):
        sp.Ball(1.0, np.array([7])).mask(3)
    with pytest.raises(InputError, match="must be a slice, indices or a boolean mask"):
        sp.Ball(1.0, np.array([0.5])).mask(3)
    with pytest.raises(InputError, match="choose none of the 3 columns"):
        sp.Ball(1.0, np.zeros(3, dtype=bool)).mask(3)


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan, np.inf])
def test_bad_radius(radius: float) -> None:
    with pytest.raises(InputError, match="radius must be finite and > 0"):
        sp.Ball(radius).radii(2)


def test_radius_per_row_must_fit() -> None:
    assert sp.Ball(np.array([1.0, 2.0])).radii(2).tolist() == [1.0, 2.0]
    with pytest.raises(InputError, match=r"radius has shape \(3,\); give one number, or an array of shape \(2,\)"):
        sp.Ball(np.ones(3)).radii(2)
