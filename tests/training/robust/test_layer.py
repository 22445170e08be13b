"""The row problems of robust training: one-sided, reduced to moments, descended by turns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import simplicit as sp
from simplicit.solve import RunOptions
from simplicit.training.robust.layer import LayerFit, OneSidedLayer
from simplicit.training.training import RowOptions

Array = npt.NDArray[np.float64]


def layer(onesided: bool, *, samples: int = 300, seed: int = 0) -> OneSidedLayer:
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(0.3, 1, size=(samples, 15)), 0)
    features[:, 4] = 0.7  # a constant column
    targets = features @ (rng.normal(size=(15, 3)) * (rng.random((15, 1)) < 0.5)) - 0.3
    targets[:, 2] = -np.abs(targets[:, 2])  # a state that never is on
    return OneSidedLayer(features, targets, np.ones((3, 15), dtype=bool), 0.05 + 0.1 * rng.random(15), 0.8, onesided)


def solved(problem: OneSidedLayer, turns: int) -> LayerFit:
    return problem.solve(turns, None, RowOptions(tol=1e-9), RunOptions(sp.Serial()))


def objective(problem: OneSidedLayer, weights: Array, intercepts: Array) -> Array:
    """The joint objective at the best t, and each of the row problems where there is no side."""
    short = problem.targets - problem.features @ weights.T - intercepts
    if problem.onesided:
        off = problem.features @ weights.T + intercepts
        short = np.where(problem.targets > 0, short, np.maximum(off, 0))
    found: Array = problem.weight * (short**2).mean(axis=0) + np.abs(weights) @ problem.prices
    return found


def test_reduced_rows_are_those_of_the_samples() -> None:
    problem = layer(onesided=False)
    found = solved(problem, 1)
    direct = sp.solve_rows(
        problem.features,
        problem.targets,
        penalty=sp.L1(beta=1.0, column_weights=len(problem.features) * problem.prices),
        weight=problem.weight,
        intercept=True,
        tol=1e-9,
    )
    np.testing.assert_allclose(found.weights, direct.coefficients.toarray(), atol=1e-6)
    np.testing.assert_allclose(found.intercepts, direct.intercepts, atol=1e-6)
    np.testing.assert_allclose(found.solution.objective, objective(problem, found.weights, found.intercepts), rtol=1e-9)
    assert not found.weights[:, 4].any()


@pytest.mark.slow
def test_turns_descend_to_the_joint_optimum() -> None:
    problem = layer(onesided=True)
    values = [
        objective(problem, found.weights, found.intercepts).sum()
        for found in (solved(problem, turns) for turns in (1, 4, 10, 80))
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 1.02 * values[-1]
    # The joint problem, modelled apart: the one-sided squared loss is convex in w and c alone.
    cp = pytest.importorskip("cvxpy")
    W, c = cp.Variable((3, 15)), cp.Variable(3)
    fit = problem.features @ W.T + np.ones((len(problem.features), 1)) @ cp.reshape(c, (1, 3), order="C")
    on = problem.targets > 0
    squares = cp.sum_squares(cp.multiply(on, problem.targets - fit)) + cp.sum_squares(cp.multiply(~on, cp.pos(fit)))
    least = cp.Minimize(problem.weight * squares / len(problem.features) + cp.sum(cp.abs(W) @ problem.prices))
    assert values[-1] == pytest.approx(cp.Problem(least).solve(solver="CLARABEL"), rel=1e-3)


def test_a_state_that_never_is_on_gets_no_weights() -> None:
    found = solved(layer(onesided=True), 3)
    assert not found.weights[2].any()
    assert found.intercepts[2] <= 0
