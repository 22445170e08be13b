"""The ℓ1 penalty against brute force and its defining inequalities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import simplicit as sp
from simplicit.errors import InputError

numbers = st.floats(-50, 50, allow_nan=False)
positive = st.floats(1e-3, 20)


def block(strengths: list[float]) -> sp.L1:
    return sp.L1(beta=1.0, column_weights=np.array(strengths)).broadcast(1, len(strengths))


@given(v=numbers, step=positive, strength=positive)
def test_prox_is_the_minimiser(v: float, step: float, strength: float) -> None:
    penalty = block([strength])
    found = float(penalty.prox(torch.tensor([[v]], dtype=torch.float64), torch.tensor([[step]], dtype=torch.float64)))

    def objective(w: float) -> float:
        return 0.5 * (w - v) ** 2 + step * strength * abs(w)

    reach = abs(v) + 1
    brute = minimize_scalar(objective, bounds=(-reach, reach), method="bounded", options={"xatol": 1e-10}).fun
    assert objective(found) <= brute + 1e-9
    assert objective(found) <= objective(0.0)


@given(a=numbers, b=numbers, step=positive, strength=positive)
def test_prox_is_non_expansive(a: float, b: float, step: float, strength: float) -> None:
    penalty = block([strength])
    steps = torch.tensor([[step]], dtype=torch.float64)
    x, y = (float(penalty.prox(torch.tensor([[v]], dtype=torch.float64), steps)) for v in (a, b))
    assert abs(x - y) <= abs(a - b) * (1 + 1e-12) + 1e-12


@given(w=numbers, v=numbers, strength=positive)
def test_fenchel_young(w: float, v: float, strength: float) -> None:
    penalty = block([strength])
    value = float(penalty.value(torch.tensor([[w]], dtype=torch.float64)))
    conjugate = float(penalty.conjugate(torch.tensor([[v]], dtype=torch.float64)))
    assert value + conjugate >= v * w - 1e-9


@given(v=st.lists(numbers, min_size=3, max_size=3), strengths=st.lists(positive, min_size=3, max_size=3))
def test_dual_scale_is_the_largest_admissible(v: list[float], strengths: list[float]) -> None:
    penalty = block(strengths)
    point = torch.tensor([v], dtype=torch.float64)
    t = penalty.dual_scale(point)
    assert 0 < float(t) <= 1
    assert not torch.isinf(penalty.conjugate(t * point)).any()
    if float(t) < 1:
        assert torch.isinf(penalty.conjugate(1.001 * t * point)).any()


def test_units_are_those_of_target_and_features() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2, 3))
    sigma, c = np.array([2.0, 0.5]), np.array([1.0, 10.0, 0.1])
    scaled = sp.L1(beta=0.3).broadcast(2, 3).in_units(4.0, sigma, c)
    expected = 4.0 * 0.3 * sigma**2 * (np.abs(w) * c / sigma[:, None]).sum(axis=1)
    np.testing.assert_allclose(scaled.value(torch.from_numpy(w)).numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (sp.L1(beta=0.0), "beta must be finite and > 0, got 0"),
        (sp.L1(beta=-1.0), "got -1"),
        (sp.L1(beta=np.nan), "beta must be finite"),
        (sp.L1(beta=np.ones(4)), r"beta has shape \(4,\); give one number, or an array of shape \(2,\)"),
        (sp.L1(column_weights=np.ones(5)), "column_weights has shape"),
        (sp.L1(column_weights=np.zeros(3)), "column_weights must be finite and > 0, got 0"),
    ],
)
def test_bad_parameters(penalty: sp.L1, message: str) -> None:
    with pytest.raises(InputError, match=message):
        penalty.broadcast(2, 3)


def test_parameters_must_be_spread_first() -> None:
    with pytest.raises(InputError, match="broadcast"):
        sp.L1().value(torch.zeros(1, 1))
