"""Sensitivities and radii of boxes: bounds on what really moves, and the formulas that they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from simplicit.errors import InputError, NotWellPosedError
from simplicit.implicit import ImplicitModel, adjoint, equilibrium
from simplicit.robustness import box_radii, sensitivity
from victims import N, P, Q, corners, data, layered, model_of


@pytest.mark.parametrize("kind", ["triangular", "full"])
@pytest.mark.parametrize("phi", ["relu", "tanh", "sigmoid"])
def test_sensitivity_is_the_formula_and_bounds_the_gradient(kind: str, phi: str) -> None:
    model = model_of(kind, phi)
    A, C = abs(model.A.toarray()), abs(model.C.toarray())
    L = model.groups[0].activation.slope
    S = sensitivity(model)
    assert_allclose(S, C @ np.linalg.inv(np.eye(N) - L * A) * L, rtol=1e-9, atol=1e-12)
    U, _ = data(model, 20)
    for k in range(Q):
        gradient = adjoint(model, U, np.eye(Q)[[k] * 20])
        bound = S[k] @ abs(model.B.toarray()) + abs(model.D.toarray()[k])
        assert (abs(gradient) <= bound * (1 + 1e-9)).all()


@pytest.mark.parametrize("kind", ["triangular", "full"])
def test_radii_hold_what_the_states_do(kind: str) -> None:
    model = model_of(kind)
    U, _ = data(model, 8)
    radii = box_radii(model, U, 0.05)
    points = corners(U, 0.05, 200)
    X = equilibrium(model, points.reshape(-1, P)).states.reshape(200, 8, N)
    moved = 0.5 * (X.max(axis=0) - X.min(axis=0))
    assert (moved <= radii + 1e-8).all()
    assert (moved >= 0.02 * radii).mean() > 0.5


def test_the_worst_case_of_a_row_is_its_weighted_norm() -> None:
    model = layered((5, 4, 3, 2))
    U, _ = data(model, 6)
    radii = box_radii(model, U, 0.1, clip=None)
    first = U @ model.B[:4].T + model.state_bias[:4]
    lower, upper = (np.maximum(first + sign * 0.1 * abs(model.B[:4]).sum(axis=1), 0.0) for sign in (-1, 1))
    assert_allclose(radii[:, :4], (upper - lower) / 2, atol=1e-12)
    row = model.A.toarray()[5, :4]
    worst = np.stack([np.where(row > 0, upper, lower) @ row - np.where(row > 0, lower, upper) @ row])
    assert_allclose(worst[0] / 2, radii[:, :4] @ abs(row), atol=1e-12)


def test_kinds_of_input_and_order_of_states() -> None:
    model = model_of("triangular")  # its working order is not its own
    U, _ = data(model, 5)
    radii = box_radii(model, torch.from_numpy(U).reshape(-1, 3, 4), 0.0)
    assert isinstance(radii, np.ndarray)
    assert radii.shape == (5, N)
    assert_allclose(radii, 0.0, atol=1e-10)


def test_bad_input() -> None:
    model = model_of("triangular")
    with pytest.raises(InputError, match="eps must be a finite number of at least 0, got -1"):
        box_radii(model, np.full((1, P), 0.5), -1)
    with pytest.raises(InputError, match="U must lie in clip"):
        box_radii(model, np.full((1, P), 2.0), 0.1)
    with pytest.raises(InputError, match="model must be an ImplicitModel, got Linear"):
        sensitivity(torch.nn.Linear(2, 2))
    unposed = ImplicitModel.from_matrices(2.0 * np.eye(3), np.eye(3), np.eye(3), np.zeros((3, 3)))
    with pytest.raises(NotWellPosedError):
        sensitivity(unposed)
    with pytest.raises(NotWellPosedError):
        box_radii(unposed, np.full((1, 3), 0.5), 0.1)
