"""Digits that float64 has: tiny columns, designs near dependence, tiny strengths, and what may be called converged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import simplicit as sp
from simplicit.rows import PiecewiseQuadratic
from simplicit.rows.certificate import certify
from simplicit.rows.design import SampleDesign
from simplicit.rows.problem import SampleProblem


@pytest.mark.parametrize("kind", ["dense", "sparse", "gram"])
@pytest.mark.parametrize("intercept", [False, True])
def test_a_column_too_small_to_be_squared_counts_as_zero(kind: str, intercept: bool) -> None:
    rng = np.random.default_rng(0)
    phi, z = rng.normal(size=(50, 6)), rng.normal(size=(50, 3))
    wide = np.c_[phi, 1e-70 * rng.normal(size=50), np.full(50, 1e-200)]
    given: Any = csr_array(wide) if kind == "sparse" else wide
    arguments = (sp.Gram.from_batches([(wide[:20], z[:20]), (wide[20:], z[20:])]),) if kind == "gram" else (given, z)
    found = sp.solve_rows(*arguments, penalty=sp.L1(1.0), intercept=intercept)
    plain = sp.solve_rows(phi, z, penalty=sp.L1(1.0), intercept=intercept)
    assert not found.coefficients.toarray()[:, 6:].any()
    np.testing.assert_allclose(found.coefficients.toarray()[:, :6], plain.coefficients.toarray(), atol=1e-7)
    np.testing.assert_allclose(found.objective, plain.objective, rtol=1e-9)


def vandermonde(seed: int) -> tuple[Any, Any]:
    """A design of condition 3e6 and a target near its range."""
    phi = np.vander(np.linspace(0, 1, 30), 10)
    noise = 0.01 * np.random.default_rng(seed + 9).normal(size=30)
    return phi, phi @ np.random.default_rng(seed).normal(size=10) + noise


def years(seed: int) -> tuple[Any, Any]:
    """A constant, the year and its square: three columns that are nearly one."""
    year = np.arange(1990, 2022.0)
    noise = 0.1 * np.random.default_rng(seed).normal(size=32)
    return np.c_[np.ones(32), year, year**2], 3 + 0.5 * (year - 2000) + 0.02 * (year - 2000) ** 2 + noise


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("make", [vandermonde, years])
def test_least_squares_near_dependence_are_as_good_as_an_orthogonal_factorisation(make: Any, seed: int) -> None:
    phi, z = make(seed)
    best = np.linalg.norm(z - phi @ np.linalg.lstsq(phi, z, rcond=None)[0])
    for penalty in (sp.NoPenalty(), sp.L1(1e-14)):
        found = sp.solve_rows(phi, z, penalty=penalty, throw=False)
        residual = np.linalg.norm(z - phi @ found.coefficients.toarray()[0])
        assert residual <= best * (1 + 1e-8)
        np.testing.assert_allclose(found.residual, residual, rtol=1e-7)


def test_tiny_strengths_converge_as_none_does() -> None:
    rng = np.random.default_rng(0)
    phi, z = rng.normal(size=(50, 20)), rng.normal(size=(50, 3))
    exact = np.linalg.lstsq(phi, z, rcond=None)[0].T
    for beta in (1e-10, 1e-12, 1e-15, 0.0):
        found = sp.solve_rows(phi, z, penalty=sp.L1(beta))
        np.testing.assert_allclose(found.coefficients.toarray(), exact, rtol=1e-7, atol=1e-10)


def noiseless() -> tuple[Any, Any, Any]:
    """Features (64, 128), two targets of six columns each, and the coefficients of these."""
    rng = np.random.default_rng(0)
    truth = np.zeros((128, 2))
    for row in truth.T:
        row[rng.choice(128, 6, replace=False)] = rng.normal(size=6)
    phi = rng.normal(size=(64, 128))
    return phi, phi @ truth, truth


@pytest.mark.parametrize("beta", [1e-4, 1e-8, 1e-10])
def test_converged_is_near_the_least_objective_where_the_fit_is_exact(beta: float) -> None:
    """The truth has the objective β‖w‖₁, which the least one cannot be above; rounding is 5e-15·‖z‖² here at most."""
    phi, z, truth = noiseless()
    found = sp.solve_rows(phi, z, penalty=sp.L1(beta), throw=False)
    w = found.coefficients.toarray()
    objective = np.square(z - phi @ w.T).sum(axis=0) + beta * np.abs(w).sum(axis=1)
    assert found.converged.all()
    least = beta * np.abs(truth).sum(axis=0)
    assert (objective <= (1 + 2e-6) * least + 5e-15 * np.square(z).sum(axis=0)).all()


def test_twice_the_least_objective_is_not_converged_however_small_it_is() -> None:
    """Of all that fit exactly one with twice the ℓ1 norm; no solver, only its certificate."""
    phi, z, truth = noiseless()
    z, truth = z / np.linalg.norm(z, axis=0), truth / np.linalg.norm(z, axis=0)
    null = np.linalg.svd(phi)[2][64]
    worse = truth.T + 0.5 * np.abs(truth).sum(axis=0)[:, None] * null / np.abs(null).max()
    worse += np.linalg.lstsq(phi, z - phi @ worse.T, rcond=None)[0].T
    assert (np.abs(worse).sum(axis=1) > 2 * np.abs(truth).sum(axis=0)).all()
    design = SampleDesign.of_features(phi, np.arange(128), None)
    targets, nothing = torch.from_numpy(z.T.copy()), torch.zeros(0, dtype=torch.int64)
    kink = torch.full((1, 1), 1e-14, dtype=torch.float64)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    parts = (None, nothing, torch.zeros(1, 0).double(), torch.ones(2, 1).double())
    cross, energy = targets @ design.transposed.T, (targets * targets).sum(1)
    problem = SampleProblem(design, cross, energy, PiecewiseQuadratic(kink, zero, zero), *parts, targets)
    certificate = certify(problem, torch.from_numpy(worse / design.units))
    assert not bool(certificate.converged(1e-6).any())
    assert bool((certificate.dual_gap < 1e-12 * 0.5 * energy).all())  # below the share that was always allowed
    assert bool((certificate.relative_gap > 0.3).all())
