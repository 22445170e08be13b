"""One training over both providers: on a network of linear layers they are the same problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.solve import RunOptions
from simplicit.training.channels import ChannelProvider, ChannelStudent
from simplicit.training.problem import Rows
from simplicit.training.provider import Fit, Layer, Provider, Student
from simplicit.training.recipes import RECIPES, Task, at_sparsity, recipe_of
from simplicit.training.states import StateProvider, StateStudent
from simplicit.training.training import RowOptions, Trained, Training
from tied_nets import subject

Array = npt.NDArray[np.float64]


@cache
def network(*, bias: bool) -> Subject:
    """With an activation that keeps the states in their own units."""
    return Subject(mlp(12, 10, 8, 4, bias=bias, activation=nn.Tanh), uniform())


ONE = Subject(mlp(12, 4), uniform())


def providers(own: Subject, **options: Any) -> tuple[Provider[Any], Provider[Any]]:
    channels = ChannelProvider.of(own.graph, own.inputs, workers=1, weighted=False, **options)
    return channels, StateProvider.of(own.captured, own.inputs, **options)


def training(provider: Provider[Any], penalty: sp.L1 | sp.NoPenalty, ridge: sp.Ridge | None, **options: Any) -> Any:
    run = RunOptions(sp.Serial())
    return Training(provider, penalty, ridge, RowOptions(tol=1e-9), run, **{"thresholding": False} | options)


def parts_of(student: Student) -> list[Array]:
    """Weights of the three layers, and their constants if there are any."""
    if isinstance(student, ChannelStudent):
        return [value.numpy() for key, value in sorted(student.network().state_dict().items())]
    assert isinstance(student, StateStudent)
    model = student.fitted
    found = [model.B[8:, :], model.A[:8, 8:], model.C[:, :8]]
    constants = [model.state_bias[8:], model.state_bias[:8], model.output_bias]
    pairs = zip(constants, (part.toarray() for part in found), strict=True)
    return [part for pair in pairs for part in pair if part.any()]


def assert_same(one: Trained, other: Trained) -> None:
    for ours, theirs in zip(parts_of(one.student), parts_of(other.student), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


#: With a bias targets are measured about their means by channels and about zero by states. On its own states channels
#: measure a layer's columns there, states on the baseline's; and without propagation the states have one ridge.
ALIKE = [
    (False, "targets", True, None),
    (False, "targets", False, None),
    (False, "both", False, None),
    (False, "none", True, sp.Ridge(0.1, 0.5)),
    (True, "none", True, None),
    (True, "none", False, None),
    (True, "none", True, sp.Ridge(0.1, 0.5)),
]


@pytest.mark.parametrize(("bias", "normalize", "propagate", "ridge"), ALIKE)
def test_both_providers_match_alike(bias: bool, normalize: str, propagate: bool, ridge: sp.Ridge | None) -> None:
    found = [
        training(provider, sp.L1(0.03), ridge, normalize=normalize).solve()
        for provider in providers(network(bias=bias), propagate=propagate, regenerate=propagate)
    ]
    assert_same(*found)
    assert 0 < found[0].nnz == found[1].nnz < 232
    if propagate:  # layer by layer in the same order; otherwise all states at once
        for groups, others in zip(found[0].solutions.values(), found[1].solutions.values(), strict=True):
            np.testing.assert_allclose(groups[0].objective, others[0].objective, rtol=1e-8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("candidates", [sp.NoPenalty(), sp.L1(0.05)])
def test_both_providers_select_alike(candidates: Any, bias: bool) -> None:
    found = [
        training(provider, candidates, sp.Ridge(0.02, 0.8), normalize="none").select(70)
        for provider in providers(network(bias=bias), propagate=True)
    ]
    assert found[0].nnz == found[1].nnz == 69
    assert found[0].exchanged == found[1].exchanged
    assert_same(*found)
    for groups, others in zip(found[0].solutions.values(), found[1].solutions.values(), strict=True):
        np.testing.assert_allclose(groups[0].objective, others[0].objective, rtol=1e-8)


@pytest.mark.parametrize("sparsity", [30, 60, 90])
def test_one_layer_has_the_same_supports(sparsity: float) -> None:
    supports = []
    for provider in providers(ONE):
        found = training(provider, sp.NoPenalty(), sp.Ridge(0.02, 0.8)).select(sparsity)
        ((solution,),) = found.solutions.values()
        supports.append(solution.coefficients.toarray() != 0)
    assert supports[0].sum() == int(48 * (1 - sparsity / 100) + 1e-9)
    np.testing.assert_array_equal(*supports)


@pytest.mark.parametrize("bias", [True, False])
def test_both_providers_have_the_same_sensitivities(bias: bool) -> None:
    channels, states = providers(network(bias=bias), propagate=True)
    for layer, stage in zip(channels.layers, states.layers, strict=True):
        assert layer.rows == stage.rows
        np.testing.assert_allclose(channels.sensitivities(layer), states.sensitivities(stage), rtol=1e-9)


@dataclass(frozen=True, eq=False)
class Unsettled:
    """A provider whose rows never say that they are the baseline's still."""

    provider: Provider[Any]
    seen: list[bool]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.provider, name)

    def on_baseline(self) -> Iterator[tuple[Layer, Sequence[Rows]]]:
        return self.provider.on_baseline()

    def sweep(self, fit: Fit[Any]) -> Student:
        def unsettled(layer: Any, groups: Sequence[Rows]) -> Any:
            self.seen.extend(rows.settled for rows in groups)
            return fit(layer, [replace(rows, settled=False) for rows in groups])

        return self.provider.sweep(unsettled)


@pytest.mark.parametrize(
    ("kind", "candidates"),
    [("states", sp.NoPenalty()), ("states", sp.L1(0.01)), ("channels", sp.L1(0.01)), ("convolutions", sp.NoPenalty())],
)
def test_a_pilot_is_used_again_where_nothing_has_changed(kind: str, candidates: Any) -> None:
    if kind == "convolutions":
        own = subject("projection")  # two layers see the stem's result
        provider: Provider[Any] = ChannelProvider.of(own.graph, own.inputs, workers=1)
    else:
        provider = providers(network(bias=True), propagate=True)[kind == "states"]
    seen: list[bool] = []
    again: Any = Unsettled(provider, seen)
    options: dict[str, Any] = {"thresholding": kind == "convolutions"}
    one, other = (training(each, candidates, sp.Ridge(0.02, 0.8), **options).select(70) for each in (provider, again))
    assert seen[0]
    assert not any(seen[1:])
    for groups, others in zip(one.solutions.values(), other.solutions.values(), strict=True):
        for ours, theirs in zip(groups, others, strict=True):
            np.testing.assert_array_equal(ours.coefficients.toarray(), theirs.coefficients.toarray())
            np.testing.assert_array_equal(ours.cardinality_gap, theirs.cardinality_gap)


def test_layers_that_stay_on_the_baseline_s_states_are_settled_too() -> None:
    own = network(bias=False)
    seen: list[bool] = []
    for provider in providers(own, propagate=False):
        training(Unsettled(provider, seen), sp.NoPenalty(), sp.Ridge(0.02)).select(50)  # type: ignore[arg-type]
    assert seen == [True, True, False, True, False]  # three layers, then all states and the outputs


@dataclass(frozen=True)
class Largest(sp.training.Recipe):
    """Keeps the share of weights that a magnitude above ``least`` leaves, and takes their values from ridge."""

    sparsity: float | None = None
    least: float = 0.2

    def train(self, task: Task) -> Trained:
        provider = ChannelProvider.of(task.graph, task.inputs, workers=task.run.n_workers, weighted=False)
        with task.solving(self, provider.samples, provider.shape) as run:
            weights = [rows.weights for _, groups in provider.on_baseline() for rows in groups]
            kept = sum(int((abs(one) > self.least).sum()) for one in weights)
            chosen = Training(provider, sp.NoPenalty(), sp.Ridge(0.01, 1.0), task.rows, run)
            return chosen.select(100 * (1 - kept / provider.weight_count))


def test_a_recipe_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(RECIPES, "largest", Largest())
    assert recipe_of("largest") == Largest()
    assert at_sparsity("largest", 30) == Largest(30)
    net = network(bias=True).net
    result = sp.fit(net, uniform(), Largest(least=0.25), journal=tmp_path / "journal")
    assert result.nnz == sum(int((p.abs() > 0.25).sum()) for p in net.parameters() if p.ndim > 1)
    assert "recipe Largest" in result.summary()
    assert "least 0.25" in result.summary()
    with pytest.raises(sp.InputError, match="journal"):
        sp.fit(net, uniform(), Largest(least=0.2), journal=tmp_path / "journal")


def test_recipes_by_name() -> None:
    for name in ("sparse", "robust", "certified", "matching"):
        assert at_sparsity(name, 65).sparsity == 65  # type: ignore[attr-defined]
    for bad in ("fast", 1, ["robust"]):
        with pytest.raises(sp.InputError, match=r"recipe: .* is unknown; choose one of 'sparse', 'structured'"):
            recipe_of(bad)

    @dataclass(frozen=True)
    class Dense(sp.training.Recipe):
        def train(self, task: Task) -> Trained:
            raise NotImplementedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "dense", Dense())
        with pytest.raises(sp.InputError, match="recipe: 'dense' takes no sparsity"):
            at_sparsity("dense", 50)


def test_a_convolution_with_one_position_is_a_linear_layer() -> None:
    class Pointwise(nn.Module):
        def __init__(self, linear: nn.Sequential) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *(nn.Conv2d(m.in_features, m.out_features, 1) if isinstance(m, nn.Linear) else m for m in linear)
            )
            with torch.no_grad():
                for mine, theirs in zip(self.layers.parameters(), linear.parameters(), strict=True):
                    mine.copy_(theirs.reshape(mine.shape))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.layers(x[..., None, None]).flatten(1)
            return result

    linear = network(bias=True)
    assert isinstance(linear.net, nn.Sequential)
    pointwise = Subject(Pointwise(linear.net).double().eval(), uniform())
    found = [
        training(
            ChannelProvider.of(own.graph, own.inputs, workers=1, weighted=False),
            sp.NoPenalty(),
            sp.Ridge(0.01, 1.0),
        )
        .select(60)
        .student.network()
        for own in (linear, pointwise)
    ]
    for one, other in zip(found[0].parameters(), found[1].parameters(), strict=True):
        torch.testing.assert_close(one.flatten(), other.flatten(), rtol=1e-9, atol=1e-12)
