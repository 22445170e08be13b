"""How far errors in states move the outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.training.states import StateData, state_data
from simplicit.training.states.sensitivity import PROBES, state_sensitivities

Array = npt.NDArray[np.float64]


def data_of(own: Subject) -> StateData:
    return state_data(own.captured.model, own.captured.states(own.inputs), own.captured.weight_count)


def shifted(model: sp.ImplicitModel, bias: Array) -> sp.ImplicitModel:
    parts = (model.A, model.B, model.C, model.D)
    return sp.ImplicitModel.from_matrices(*parts, activation=model.groups, state_bias=bias)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_it_is_the_mean_square_of_the_jacobian(activation: type[nn.Module]) -> None:
    own = Subject(mlp(12, 10, 8, 4, bias=False, activation=activation), uniform(40))
    data = data_of(own)
    model, n, step = data.model, data.n_states, 1e-5
    found = state_sensitivities(data)
    np.testing.assert_array_equal(found[n:], 1.0)
    for i in (0, 3, 9, 17):
        bias = np.zeros(n)
        bias[i] = step
        moved = [shifted(model, sign * bias).predict(own.inputs) for sign in (1, -1)]
        slope = (moved[0] - moved[1]) / (2 * step)
        assert found[i] == pytest.approx(float(np.square(slope).sum(axis=1).mean()), rel=0.02, abs=1e-9)


def test_signs_estimate_it_where_outputs_are_many() -> None:
    own = Subject(mlp(8, 6, 400), uniform(200, 8))
    data = data_of(own)
    assert data.model.n_outputs > PROBES
    on = (data.targets[:, :6] > 0).mean(axis=0)
    exact = on * np.square(data.model.C.toarray()).sum(axis=0)
    np.testing.assert_allclose(state_sensitivities(data)[:6], exact, rtol=0.5, atol=1e-6)


def test_a_state_that_no_output_sees_counts_next_to_nothing() -> None:
    net = mlp(8, 6, 3)
    with torch.no_grad():
        net[2].weight[:, 2] = 0.0
    found = state_sensitivities(data_of(Subject(net, uniform(20, 8))))
    assert 0 < found[2] <= 1e-8 * found[:6].max()
