"""In which order the rows of M are solved, and on which states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.training.states import StateData, state_data
from simplicit.training.states.stages import Stage, features_on, stages_of

NET = Subject(mlp(12, 10, 8, 4, bias=False), uniform(60))


@pytest.fixture(scope="module")
def data() -> StateData:
    captured = NET.captured
    return state_data(captured.model, captured.states(NET.inputs), captured.weight_count)


def stages(data: StateData, **changed: Any) -> tuple[Stage, ...]:
    options: dict[str, Any] = {"lambda1": 0.1, "lambda2": 0.2, "propagate": False, "regenerate": True}
    return stages_of(data, **({"by_group": False} | options | changed))


def test_stages_cover_all_rows_in_the_order_of_evaluation(data: StateData) -> None:
    found = stages(data, propagate=True)
    assert [stage.at for stage in found] == [slice(8, 18), slice(0, 8), slice(18, 22)]
    assert [stage.name for stage in found] == ["state rows of 1", "state rows of 3", "output rows"]
    assert [(stage.weight, stage.bounded, stage.propagated) for stage in found] == [
        (0.1, True, True),
        (0.1, True, True),
        (0.2, False, True),
    ]


@pytest.mark.parametrize("regenerate", [True, False])
def test_without_propagation_all_states_are_one_stage(data: StateData, regenerate: bool) -> None:
    states, outputs = stages(data, regenerate=regenerate)
    assert (states.at, states.propagated, states.rows) == (slice(0, 18), False, 18)
    assert (outputs.at, outputs.propagated, outputs.rows) == (slice(18, 22), regenerate, 4)
    assert [stage.propagated for stage in stages(data, by_group=True)] == [False, False, True]


def test_features_are_the_baseline_s_states_until_there_is_a_model(data: StateData) -> None:
    assert features_on(data, None) is data.features
    np.testing.assert_allclose(features_on(data, data.model), data.features, atol=1e-12)


@pytest.mark.parametrize(("end", "propagate"), [(torch.nn.Sigmoid, True), (torch.nn.ReLU, False)])
def test_a_network_that_ends_in_an_activation_comes_back(end: type[torch.nn.Module], propagate: bool) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(9, 7), torch.nn.ReLU(), torch.nn.Linear(7, 9), end()).double().eval()
    X = torch.rand(60, 9, dtype=torch.float64)
    result = sp.fit(net, X, sp.Matching(sp.L1(1e-4), propagate=propagate), executor="serial")
    assert [layer.name for layer in result.layers] == ["1", "3"]
    back = result.network()
    assert type(back) is type(net)
    assert 0 < result.nnz == sum(int((layer.weight != 0).sum()) for layer in (back[0], back[2])) < 126
    with torch.no_grad():
        assert torch.allclose(back(X), result.model.predict(X), rtol=0.0, atol=1e-9)
    assert result.layers[1].error < 0.05


def test_so_does_a_robust_one() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(9, 7), torch.nn.ReLU(), torch.nn.Linear(7, 4), torch.nn.Sigmoid())
    X = torch.rand(60, 9, dtype=torch.float64)
    result = sp.fit(net.double().eval(), X, sp.Robust(attacks=0), executor="serial", throw=False)
    with torch.no_grad():
        assert torch.allclose(result.network()(X), result.model.predict(X), rtol=0.0, atol=1e-9)
