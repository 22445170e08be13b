"""Where rows begin: kinks too small for ADMM to see, and columns that are there twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

import simplicit as sp
from simplicit.rows.design import SampleDesign

Array = npt.NDArray[np.float64]


def problem(samples: int, columns: int, noise: float) -> tuple[Array, Array, Array]:
    """A design (m, d), targets (m, 4) of d/20 columns each with so much noise, and their weights (4, d)."""
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(samples, columns)), np.zeros((4, columns))
    for row in W:
        row[rng.choice(columns, columns // 20, replace=False)] = rng.normal(size=columns // 20)
    Z = X @ W.T
    return X, Z + noise * rng.normal(size=Z.shape), W


def serial(X: Array, Z: Array, beta: float, **options: object) -> sp.Solution:
    return sp.solve_rows(X, Z, penalty=sp.L1(beta), executor="serial", **options)


@pytest.mark.parametrize("share", [1e-7, 1e-9, 1e-11])
def test_strengths_that_admm_cannot_see_find_the_weights_that_made_the_targets(share: float) -> None:
    X, Z, W = problem(60, 120, noise=0.0)
    beta = share * 2 * np.abs(X.T @ Z).max()
    solution = serial(X, Z, beta)
    # ADMM leaves nearly all of the 120 columns in; six made each target.
    assert (solution.nnz <= 12).all()
    # The weights themselves are a point to beat.
    assert solution.converged.all()
    assert (solution.objective - solution.dual_gap <= beta * np.abs(W).sum(1)).all()


def test_an_eased_start_costs_the_row_that_it_leads_to() -> None:
    X, Z, _ = problem(60, 120, noise=0.0)
    solution = serial(X, Z, 1e-9 * np.abs(X.T @ Z).max())
    assert (solution.seconds > 0).all()
    assert solution.timings["iterations"] > 0


def test_no_row_needs_a_column_that_is_there_twice() -> None:
    A, Z, _ = problem(40, 60, noise=0.1)
    beta = 1e-4 * np.abs(A.T @ Z).max()
    solution, once = serial(np.hstack([A, -A[:, ::-1], 2 * A[:, :5]]), Z, beta), serial(A, Z, beta)
    coefficients = solution.coefficients.toarray()
    # Twice a column is another one, which costs half as much: it takes the place of the first.
    assert not coefficients[:, 60:120].any()
    halved = sp.L1(beta, column_weights=np.where(np.arange(60) < 5, 0.5, 1.0))
    cheaper = sp.solve_rows(A, Z, penalty=halved, executor="serial")
    np.testing.assert_allclose(solution.objective, cheaper.objective, rtol=1e-5)
    assert (solution.objective < once.objective).all()


def test_a_twin_that_costs_less_is_taken() -> None:
    A, Z, _ = problem(40, 20, noise=0.1)
    prices = np.r_[np.ones(20), np.full(20, 0.5)]
    twice = sp.solve_rows(np.hstack([A, A]), Z, penalty=sp.L1(1.0, column_weights=prices), executor="serial")
    assert not twice.coefficients.toarray()[:, :20].any()
    np.testing.assert_allclose(twice.objective, serial(A, Z, 0.5).objective, rtol=1e-6)


@pytest.mark.parametrize("cheap", [(0.5, 1.0), (1.0, 0.5), (2.0, 1.0, 0.5)])
def test_a_path_may_change_which_twin_is_the_cheaper(cheap: tuple[float, ...]) -> None:
    A, Z, _ = problem(40, 20, noise=0.1)
    prices = [np.r_[np.ones(20), np.full(20, price)] for price in cheap]
    path = sp.solve_path(np.hstack([A, A]), Z, [sp.L1(1.0, column_weights=one) for one in prices], executor="serial")
    for found, price in zip(path, cheap, strict=True):
        assert found.converged.all()
        np.testing.assert_allclose(found.objective, serial(A, Z, min(price, 1.0)).objective, rtol=1e-5)


def test_a_start_on_twins_is_used_at_the_first_of_their_kind() -> None:
    A, Z, _ = problem(40, 20, noise=0.1)
    known = serial(A, Z, 1.0)
    start = np.hstack([np.zeros((4, 20)), -known.coefficients.toarray()])
    again = serial(np.hstack([A, -A]), Z, 1.0, warm_start=start)
    np.testing.assert_allclose(again.coefficients.toarray()[:, :20], known.coefficients.toarray(), atol=1e-6)


def test_twins_are_found_up_to_sign_and_powers_of_two() -> None:
    A = np.random.default_rng(0).normal(size=(7, 3))
    A[0, 1] = 0.0
    features = np.column_stack([A[:, 0], A[:, 1], -A[:, 0], A[:, 2], 4 * A[:, 1], A[:, 0] + 1e-15])
    twins, firsts, signs = SampleDesign.of_features(features, np.arange(6), None).twins
    assert twins.tolist() == [2, 4]
    assert firsts.tolist() == [0, 1]
    assert signs.tolist() == [-1.0, 1.0]
    assert SampleDesign(torch.zeros(0, 3, dtype=torch.float64), np.ones(0)).twins[0].tolist() == []
