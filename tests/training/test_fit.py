"""``fit``: without a recipe, on any network, with any executor; what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from fitting import Subject, matrix, mlp, uniform
from tied_nets import made

NET = mlp(12, 10, 8, 4)


def test_without_a_recipe_a_network_of_linear_layers_keeps_a_fifth_of_its_weights() -> None:
    before = {key: value.clone() for key, value in NET.state_dict().items()}
    result = sp.fit(NET, uniform())
    assert result.recipe == sp.Sparse(candidates=result.recipe.candidates)  # type: ignore[attr-defined]
    assert result.nnz == result.model.nnz == int(0.2 * sp.weight_count(NET) + 1e-9)
    assert result.rows.converged.all()
    network = result.network()
    assert type(network) is nn.Sequential
    assert sum(int((p != 0).sum()) for p in network.parameters() if p.ndim > 1) == result.nnz
    U = uniform(30, seed=5)
    with torch.no_grad():
        np.testing.assert_allclose(result.model.predict(U), network(torch.from_numpy(U)).numpy(), atol=1e-12)
        wanted = NET(torch.from_numpy(U)).numpy()
    assert np.linalg.norm(result.model.predict(U) - wanted) < 0.7 * np.linalg.norm(wanted - wanted.mean(axis=0))
    assert all(torch.equal(before[key], value) for key, value in NET.state_dict().items())


def test_without_a_recipe_a_network_with_convolutions_does_too() -> None:
    net, inputs = made("plain")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    result = sp.fit(net, inputs)
    assert result.nnz == int(0.2 * sp.weight_count(net) + 1e-9)
    assert result.rows.converged.all()
    with torch.no_grad():
        np.testing.assert_allclose(result.model.predict(inputs), result.network()(inputs), atol=1e-10)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


@pytest.mark.slow
def test_executors_and_repetition_give_the_same_model() -> None:
    recipe, own = sp.Matching(sparsity=50, kappa=0.99), Subject(NET, uniform())
    first, *others = (own.fit(recipe, executor=each) for each in ("serial", "threads", "threads"))
    for other in others:
        np.testing.assert_array_equal(matrix(other.model), matrix(first.model))


def test_float32_networks_images_and_tensors() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    images = torch.rand(50, 1, 3, 4)
    for recipe in (sp.Matching(sp.L1(1e-6)), sp.Sparse(0)):
        result = sp.fit(net, images, recipe)
        assert result.model.input_shape == (1, 3, 4)
        assert result.model.predict(images).shape == (50, 3)
        np.testing.assert_allclose(result.model.predict(images).numpy(), net(images).detach().numpy(), atol=2e-2)
    assert result.model.dtype == np.float32


def test_a_network_that_ends_in_an_activation_comes_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 20), nn.Sigmoid()).eval()
    inputs = torch.rand(300, 20)
    result = sp.fit(net, inputs, sp.Sparse(50))
    with torch.no_grad():
        found = result.network()(inputs)
    assert 0 < float(found.min()) < float(found.max()) < 1
    np.testing.assert_allclose(found.numpy(), result.model.predict(inputs.numpy()), atol=1e-5)


def test_training_mode_is_said_and_evaluated_without() -> None:
    net = nn.Sequential(nn.Linear(12, 6), nn.Dropout(0.9), nn.ReLU(), nn.Linear(6, 3)).double().train()
    with pytest.warns(sp.network.TrainingModeWarning):
        result = sp.fit(net, uniform(200), sp.Matching(sp.L1(1e-7)))
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(uniform(5))).numpy()
    np.testing.assert_allclose(result.model.predict(uniform(5)), expected, atol=1e-3)


def test_rows_of_channels_around_blocks() -> None:
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 4)

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(torch.softmax(self.norm(self.first(u)), dim=-1))
            return result

    torch.manual_seed(0)
    net = Normalised().double().eval()
    result = sp.fit(net, uniform(), sp.Sparse(50))
    found = result.network()
    assert sum(int((p != 0).sum()) for p in found.parameters() if p.ndim > 1) == 64
    assert [layer.name for layer in result.layers] == ["first", "last"]
    assert "64 non-zeros" in result.summary()
    with torch.no_grad():
        wanted = net(torch.from_numpy(uniform()))
        assert (found(torch.from_numpy(uniform())) - wanted).norm() < 0.7 * (wanted - wanted.mean(dim=0)).norm()
    assert result.model.n_states == 16  # the norm's and the softmax's


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sp.Sparse(10**400), "sparsity must be a finite number"),
        (lambda: sp.Sparse(structure=np.array([0, 1])), "structure: .* is unknown"),  # type: ignore[arg-type]
        (lambda: sp.Robust(clip=np.array(1.0)), "clip must be"),  # type: ignore[arg-type]
        (lambda: sp.Matching(refit=0.1), "refit: expected a ridge"),  # type: ignore[arg-type]
        (lambda: sp.fit(NET, uniform(), throw="yes"), "throw must be True or False"),  # type: ignore[arg-type]
        (lambda: sp.fit(NET, uniform(), progress=3), "progress: expected a function"),  # type: ignore[arg-type]
        (lambda: sp.fit(NET, uniform(), journal="a\0b"), "journal must be a path"),
    ],
)
def test_values_of_another_kind(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        make()


@pytest.mark.parametrize("recipe", [sp.Sparse(), sp.Matching(), sp.Robust()])
def test_a_network_without_weights_is_refused(recipe: sp.training.Recipe) -> None:
    with pytest.raises(sp.InputError, match="net: it has no weights to be trained"):
        sp.fit(nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), torch.rand(5, 6), recipe)


@pytest.mark.parametrize(
    ("change", "message", "argument"),
    [
        ({"tol": 0}, "tol", "tol"),
        ({"tol": 1.0}, "tol: must lie between 0 and 1, got 1.0", "tol"),
        ({"block_rows": 0}, "block_rows must be an integer of at least 1", None),
        ({"executor": "moon"}, "executor", None),
        ({"recipe": "sparse"}, r"recipe: expected a recipe such as simplicit\.Sparse\(80\), got 'sparse'", "recipe"),
        ({"recipe": sp.Sparse}, "recipe: expected a recipe", "recipe"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str, argument: str | None) -> None:
    with pytest.raises(sp.InputError, match=message) as caught:
        sp.fit(NET, uniform(20), **change)
    if argument is not None:
        assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((0, 12)), r"inputs must have shape .* m >= 1, got \(0, 12\)"),
        (np.zeros((5, 11)), "11"),
        (np.where(np.arange(60) == 30, np.nan, np.arange(60) / 60).reshape(5, 12), "nan|finite"),
        (np.where(np.arange(60) == 30, np.inf, np.arange(60) / 60).reshape(5, 12), "inf|finite"),
        (None, "inputs must be a NumPy array or a tensor, .* got NoneType"),
    ],
)
@pytest.mark.parametrize("recipe", [sp.Sparse(50), sp.Matching()], ids=["channels", "states"])
def test_bad_inputs(bad: Any, message: str, recipe: sp.training.Recipe) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.fit(NET, bad, recipe)
