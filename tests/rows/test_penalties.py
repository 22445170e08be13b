"""Every penalty against its formula, brute force, and the inequalities that define prox and conjugate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import simplicit as sp
from reference import Prices
from simplicit.errors import InputError
from simplicit.rows import PENALTIES, Penalty

numbers = st.floats(-50, 50, allow_nan=False)
strength = st.floats(1e-3, 20)
or_zero = st.one_of(st.just(0.0), strength)
penalties = st.one_of(
    st.builds(sp.L1, or_zero),
    st.builds(sp.ElasticNet, or_zero, or_zero),
    st.builds(sp.Perspective, strength, or_zero),
    st.just(sp.NoPenalty()),
    st.just(sp.BasisPursuit()),
)


def one(value: float) -> torch.Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


pieces = st.builds(
    lambda p, c, t: sp.rows.PiecewiseQuadratic(one(p), one(c), one(t)),
    or_zero,
    or_zero,
    st.one_of(st.just(0.0), strength),
)
any_penalty = st.one_of(penalties, pieces)


def formula(penalty: Any, w: float) -> float:
    """h(w) by its definition, without the library."""
    if isinstance(penalty, sp.rows.PiecewiseQuadratic):
        p, c, t = (float(a) for a in (penalty.kink, penalty.curvature, penalty.threshold))
        return p * abs(w) + 0.5 * c * max(abs(w) - t, 0.0) ** 2
    return float(Prices.of(penalty, 1).value(np.array([w])))


def conjugate(penalty: Any, v: float) -> float:
    return float(penalty.pieces(1, 1).conjugate(one(v)))


@given(penalty=any_penalty, w=numbers)
def test_value_is_the_formula(penalty: Any, w: float) -> None:
    block = penalty.pieces(1, 1)
    assert float(block.value(one(w))) == pytest.approx(formula(penalty, w), rel=1e-12, abs=1e-12)
    assert float(block.terms(one(w))) == float(block.value(one(w)))
    assert float(block.value(one(-w))) == float(block.value(one(w)))
    assert float(block.value(one(0.0))) == 0


@given(w=numbers, alpha=strength, gamma=or_zero)
def test_perspective_is_its_definition(w: float, alpha: float, gamma: float) -> None:
    """min over t of αw²/t + γt, which is what is left of min αs + γt with w² ≤ st."""
    found = float(sp.Perspective(alpha, gamma).pieces(1, 1).value(one(w)))
    brute = minimize_scalar(
        lambda t: alpha * w * w / t + gamma * t, bounds=(1e-9, 1), method="bounded", options={"xatol": 1e-12}
    ).fun
    brute = min(brute, alpha * w * w + gamma)
    assert found <= brute * (1 + 1e-9) + 1e-9
    assert found == pytest.approx(brute, rel=1e-4, abs=1e-4)
    # The convex envelope lies below the price that it relaxes.
    assert found <= alpha * w * w + gamma * (w != 0) + 1e-9


@given(penalty=any_penalty, v=numbers, step=strength)
def test_prox_is_the_minimiser(penalty: Any, v: float, step: float) -> None:
    found = float(penalty.pieces(1, 1).prox(one(v), one(step)))

    def objective(w: float) -> float:
        return 0.5 * (w - v) ** 2 + step * formula(penalty, w)

    reach = abs(v) + 1
    brute = minimize_scalar(objective, bounds=(-reach, reach), method="bounded", options={"xatol": 1e-10})
    assert objective(found) <= brute.fun + 1e-9 * (1 + abs(brute.fun))
    assert objective(found) <= objective(0.0) * (1 + 1e-12)
    # The objective is 1-strongly convex, so that its minimiser is known as well as its minimum.
    assert abs(found - brute.x) <= 1e-3
    assert found * v >= 0


@given(penalty=any_penalty, a=numbers, b=numbers, step=strength)
def test_prox_is_non_expansive(penalty: Any, a: float, b: float, step: float) -> None:
    x, y = (float(penalty.pieces(1, 1).prox(one(v), one(step))) for v in (a, b))
    assert abs(x - y) <= abs(a - b) * (1 + 1e-12) + 1e-12
    # Firmly so: (x − y)² ≤ (x − y)(a − b).
    assert (x - y) ** 2 <= (x - y) * (a - b) + 1e-9


@settings(max_examples=25)
@given(penalty=any_penalty, v=numbers)
def test_conjugate_is_the_supremum(penalty: Any, v: float) -> None:
    found = conjugate(penalty, v)
    assert found >= 0
    block = penalty.pieces(1, 1)
    slope, curvature = float(block.kink), float(block.curvature)
    if curvature == 0 and abs(v) > slope * (1 + 1e-11):
        assert found == np.inf
        return
    # The supremum is where the slope is v.
    reach = 1.0 + float(block.threshold) + (abs(v) / curvature if curvature else 0.0)
    grid = np.linspace(-reach, reach, 501)
    values = v * grid - np.array([formula(penalty, w) for w in grid])
    assert found >= values.max() - 1e-9 * (1 + abs(found))
    brute = minimize_scalar(
        lambda w: formula(penalty, w) - v * w, bounds=(-reach, reach), method="bounded", options={"xatol": 1e-10}
    )
    if np.isfinite(found):
        assert found == pytest.approx(max(-brute.fun, 0.0), rel=1e-6, abs=1e-6 * (1 + slope))


@given(penalty=any_penalty, w=numbers, v=numbers)
def test_fenchel_young(penalty: Any, w: float, v: float) -> None:
    block = penalty.pieces(1, 1)
    assert float(block.value(one(w))) + conjugate(penalty, v) >= v * w - 1e-9
    # With equality where v is a subgradient, here the one from the right.
    size, p, c, t = abs(w), *(float(a) for a in (block.kink, block.curvature, block.threshold))
    slope = np.copysign(p + c * max(size - t, 0.0), w)
    total = formula(penalty, w) + conjugate(penalty, slope)
    assert total == pytest.approx(slope * w, rel=1e-9, abs=1e-7)


@pytest.mark.slow
@given(penalty=any_penalty, w=st.floats(-10, 10))
def test_biconjugate_is_the_penalty(penalty: Any, w: float) -> None:
    block = penalty.pieces(1, 1)
    p, c, t = (float(a) for a in (block.kink, block.curvature, block.threshold))
    # Where the slope at w is v, vw − h*(v) is largest; a grid around it finds nothing above.
    top = p + c * max(abs(w) - t, 0.0)
    grid = np.unique(np.concatenate([np.linspace(-top - 1, top + 1, 401), [-top, top, p, -p, 0.0]]))
    values = [v * w - conjugate(penalty, v) for v in grid]
    assert max(values) == pytest.approx(formula(penalty, w), rel=1e-9, abs=1e-9)


@given(
    penalty=any_penalty,
    v=st.lists(numbers, min_size=1, max_size=5),
    strict=st.booleans(),
)
def test_domain_excess_leads_to_the_largest_admissible_point(penalty: Any, v: list[float], strict: bool) -> None:
    block = penalty.pieces(1, len(v))
    point = torch.tensor([v], dtype=torch.float64)
    over = block.domain_excess(point, strict=strict)
    assert over.shape == point.shape
    t = 1 / float(over.max())
    assert 0 <= t <= 1

    def admissible(scale: float) -> bool:
        values = block.conjugate(scale * point)
        return bool((values <= 1e-9 * (1 + point.abs().max())).all() if strict else torch.isfinite(values).all())

    assert admissible(t)
    if 0 < t < 1:
        assert not admissible(1.001 * t + 1e-12) or (strict and admissible(1.0))


ALL = [sp.L1(0.3), sp.ElasticNet(0.3, 0.7), sp.Perspective(0.3, 0.7), sp.NoPenalty(), sp.BasisPursuit()]


@pytest.mark.parametrize("penalty", ALL, ids=lambda p: type(p).__name__)
def test_units_select_and_scale(penalty: Any) -> None:
    rng = np.random.default_rng(0)
    w = torch.from_numpy(rng.normal(size=(2, 3)) * 2)
    block = penalty.pieces(2, 3)
    sigma, c = np.array([2.0, 0.5]), np.array([1.0, 10.0, 0.1])
    inner = w.numpy() * c / sigma[:, None]
    expected = 4.0 * sigma[:, None] ** 2 * np.vectorize(lambda x: formula(penalty, x))(inner)
    np.testing.assert_allclose(block.in_units(4.0, sigma, c).terms(w).numpy(), expected, rtol=1e-13)
    factor, unit = torch.tensor([[2.0], [3.0]]).double(), torch.tensor([[0.5, 1.0, 4.0]]).double()
    np.testing.assert_allclose(
        block.scaled(factor, unit).terms(w).numpy(), (factor * block.terms(unit * w)).numpy(), rtol=1e-13
    )
    rows, columns = np.array([1]), np.array([2, 0])
    chosen = block.select(rows).on_columns(torch.from_numpy(columns))
    np.testing.assert_array_equal(
        chosen.terms(w[1:2][:, [2, 0]]).numpy(), block.terms(w).numpy()[np.ix_(rows, columns)]
    )
    assert chosen.equality == block.equality
    assert chosen.cardinality == block.cardinality
    assert block.to(torch.zeros(0, dtype=torch.float32)).kink.dtype == torch.float32


@pytest.mark.parametrize("kind", [sp.L1, sp.ElasticNet, sp.Perspective, sp.BasisPursuit])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_column_weights_are_factors(kind: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    factors = rng.uniform(0, 3, size=shape)
    factors[..., 1] = 0.0
    w = torch.from_numpy(rng.normal(size=(2, 3)))
    plain, weighted = kind().pieces(2, 3), kind(column_weights=factors).pieces(2, 3)
    np.testing.assert_allclose(weighted.terms(w).numpy(), factors * plain.terms(w).numpy(), rtol=1e-13)
    assert not weighted.terms(w)[:, 1].any()
    assert (weighted.conjugate(w)[:, 1] > 0).all()
    step = one(0.7)
    np.testing.assert_array_equal(weighted.prox(w, step)[:, 1].numpy(), w[:, 1].numpy())


@given(w=st.lists(numbers, min_size=1, max_size=4), alpha=strength, gamma=or_zero)
def test_cardinality_excess(w: list[float], alpha: float, gamma: float) -> None:
    """What γ‖w‖₀ + α‖w‖² is above its relaxation."""
    block = sp.Perspective(alpha, gamma).pieces(1, len(w))
    point = torch.tensor([w], dtype=torch.float64)
    true = sum(alpha * x * x + gamma * (x != 0) for x in w)
    excess = float(block.cardinality_excess(point))
    assert excess >= 0
    assert float(block.value(point)) + excess == pytest.approx(true, rel=1e-9, abs=1e-9)


def test_strengths_go_by_row() -> None:
    w = torch.ones(3, 2, dtype=torch.float64)
    values = sp.ElasticNet(beta=np.array([0.0, 1.0, 2.0]), alpha=0.5).pieces(3, 2).value(w)
    assert values.tolist() == [1.0, 3.0, 5.0]


def test_every_penalty_is_registered_and_is_one() -> None:
    assert {type(p) for p in ALL} == {type(p) for p in PENALTIES.values()}
    assert all(isinstance(p, Penalty) for p in ALL)
    assert [name for name, p in PENALTIES.items() if p.pieces(1, 1).equality] == ["basis-pursuit"]
    assert [name for name, p in PENALTIES.items() if p.pieces(1, 1).cardinality] == ["perspective"]


@pytest.mark.parametrize(
    ("penalty", "message"),
    [
        (sp.L1(beta=-1.0), "beta must be finite and >= 0, got -1"),
        (sp.L1(beta=np.nan), "beta must be finite"),
        (sp.L1(beta=np.ones(4)), r"beta has shape \(4,\); give one number, or an array of shape \(2,\)"),
        (sp.L1(column_weights=np.ones(5)), "column_weights has shape"),
        (sp.L1(column_weights=-np.ones(3)), "column_weights must be finite and >= 0, got -1"),
        (sp.ElasticNet(alpha=-1.0), "alpha must be finite and >= 0"),
        (sp.ElasticNet(beta=np.inf), "beta must be finite"),
        (sp.Perspective(alpha=0.0), "alpha must be finite and > 0, got 0"),
        (sp.Perspective(gamma=-1e-3), "gamma must be finite and >= 0"),
        (sp.BasisPursuit(column_weights=np.full(3, np.nan)), "column_weights must be finite"),
        (
            sp.rows.PiecewiseQuadratic(torch.ones(5, 1), one(0.0), one(0.0)),
            r"kink of shape \(5, 1\) does not fit 2 rows",
        ),
        (sp.rows.PiecewiseQuadratic(one(0.0), torch.ones(3), one(0.0)), r"curvature of shape \(3,\) does not fit"),
    ],
)
def test_bad_parameters(penalty: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        penalty.pieces(2, 3)
