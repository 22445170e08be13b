"""``Robust`` and ``Certified``: what they make, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from fitting import Subject, row_norm_of
from simplicit.data import load_dataset
from simplicit.progress import Progress
from simplicit.runs.mlp import MlpSettings, train_mlp
from simplicit.training.recipes import RECIPES

DIGITS = load_dataset("digits")
EPS = 0.06
RECIPE = sp.Robust(attacks=2, attack_eps=0.04)


@cache
def baseline() -> Subject:
    net = train_mlp(DIGITS, MlpSettings(arch=(24, 12), bias=False, batch_size=64, epochs=12))
    return Subject(net, DIGITS.train_inputs[:500])


@cache
def fitted(attacks: int = 2) -> sp.FitResult:
    return baseline().fit(replace(RECIPE, attacks=attacks))


def held_by(model: sp.ImplicitModel) -> float:
    """The share of the test images that PGD does not change the class of."""
    U, labels = DIGITS.test_inputs, DIGITS.test_labels
    single = model.astype(np.float32)
    return sp.accuracy(single, sp.pgd(single, U, labels, EPS, steps=20), labels)


@pytest.mark.slow
def test_it_is_harder_to_attack_and_more_can_be_proved() -> None:
    base, result = baseline().captured.model, fitted()
    U, labels = DIGITS.test_inputs, DIGITS.test_labels
    clean = [sp.accuracy(model, U, labels) for model in (base, result.model)]
    held = [held_by(model) for model in (base, result.model)]
    proved = [sp.certify(m.astype(np.float64), U, labels, EPS).accuracy() for m in (base, result.model)]
    assert clean[1] > clean[0] - 0.03
    assert held[1] > held[0] + 0.02
    assert proved[1] > proved[0] + 0.02


def test_every_row_is_certified_and_the_model_is_well_posed() -> None:
    result = fitted()
    assert result.rows.converged.all()
    assert row_norm_of(result) < 1
    assert float(sp.perron_frobenius(result.model)) == 0
    assert result.rows.nnz.sum() == result.model.nnz
    assert result.model.state_bias.any()  # also where the baseline has none
    assert not result.figures()["rescaled"]
    assert [layer.name for layer in result.layers] == ["1", "3", "output"]
    assert all(layer.support_bound is None for layer in result.layers)
    text = " ".join(result.summary().split())
    assert "recipe Robust" in text
    assert "attacks 2, attack_eps 0.04" in text


@pytest.mark.slow
def test_equal_runs_are_equal() -> None:
    again = sp.fit(baseline().net, baseline().inputs, RECIPE)
    for part in "ABC":
        ours, theirs = getattr(again.model, part), getattr(fitted().model, part)
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_a_journal_holds_every_layer(tmp_path: Path) -> None:
    seen: list[str] = []
    U, recipe, journal = DIGITS.train_inputs[:60], replace(RECIPE, attacks=1), tmp_path / "journal"

    def hear(state: Progress) -> None:
        seen.append(" > ".join(one.stage for one in state.chain))

    runs = [baseline().fit(recipe, U, journal=journal, progress=hear) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].model.B.data, runs[1].model.B.data)
    layers = ("round 1 of 2 > layers > in 1", "round 2 of 2 > layers > in output")
    assert {f"{layer} > turns > rows" for layer in layers} <= set(seen)
    with pytest.raises(sp.InputError, match="journal"):
        baseline().fit(replace(recipe, attacks=0), U, journal=journal)


def test_worst_cases_matter() -> None:
    assert held_by(fitted().model) > held_by(fitted(attacks=0).model)


@pytest.mark.slow
def test_sparsity_is_met() -> None:
    result = baseline().fit(sp.Robust(sparsity=70), DIGITS.train_inputs[:300])
    assert abs(result.sparsity - 70) <= 0.5
    assert result.trials > 1
    assert "found in" in result.summary()


@pytest.mark.slow
def test_strengths_by_layer() -> None:
    recipe, U = replace(RECIPE, attacks=0), DIGITS.train_inputs[:300]
    found = [baseline().fit(replace(recipe, hidden_strength=each), U).rows for each in ((0.1, 0.1), (10.0, 0.1))]
    second = [rows.nnz[rows.group == "3"].sum() for rows in found]
    first = [rows.nnz[rows.group == "1"].sum() for rows in found]
    assert second[1] < second[0]
    assert first[1] == first[0]


@pytest.mark.slow
def test_activations_without_a_side_and_skips() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(8, 6), nn.Linear(14, 5), nn.Linear(5, 3)

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.first(u))
            result: torch.Tensor = self.last(torch.relu(self.second(torch.cat([x, u], dim=1))))
            return result

    torch.manual_seed(0)
    U = np.random.default_rng(0).random((200, 8)).astype(np.float32)
    own = Subject(Skip().eval(), U)
    for structure in ("baseline", "feedforward"):
        result = own.fit(sp.Robust(beta=1e-6, hidden_strength=1e-3, structure=structure))
        assert result.rows.converged.all()
        assert not result.figures()["rescaled"]
        assert np.mean(result.model.predict(U).argmax(axis=1) == own.outputs(U).argmax(axis=1)) > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"structure": "dense"},
            "structure: the structure 'dense' has no order of layers.* take 'baseline' or 'feedforward'",
        ),
        ({"structure": "full"}, "structure: 'full' is unknown"),
        ({"beta": 0.0}, "beta must be positive and finite"),
        ({"lambda1": -1.0}, "lambda1 must be positive and finite"),
        ({"sparsity": 0.7}, "did you mean 70"),
        ({"attacks": -1}, "attacks must be an integer of at least 0"),
        ({"attack_eps": -0.1}, "attack_eps must be a finite number of at least 0"),
        ({"attack_eps": 2}, "attack_eps must lie between 0 and the width of clip, 1, got 2"),
        ({"hidden_strength": -1.0}, "hidden_strength must be a finite number of at least 0"),
        ({"hidden_strength": (1.0, -1.0)}, "hidden_strength must be a finite number of at least 0"),
        ({"clip": (1.0, 0.0)}, "clip must be"),
    ],
)
@pytest.mark.parametrize("recipe", [sp.Robust, sp.Certified])
def test_bad_options(recipe: type[sp.Robust], options: dict[str, Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        recipe(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_strength": (1.0,)}, "hidden_strength: 1 strengths for 2 layers after the first"),
        ({"clip": (0.0, 0.5)}, r"inputs: values from 0 to 1 lie outside of clip = \(0, 0.5\)"),
    ],
)
def test_what_does_not_fit_the_network_or_the_inputs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        baseline().fit(sp.Robust(**options), DIGITS.train_inputs[:20])


def test_a_single_output_has_no_classes() -> None:
    single = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    with pytest.raises(sp.InputError, match="net: the network has a single output"):
        Subject(single, np.random.default_rng(0).random((20, 4))).fit(sp.Robust())


def test_certified_is_robust_with_more_weight_on_what_can_be_proved() -> None:
    recipe = sp.Certified(attacks=0, beta=0.02)
    assert isinstance(recipe, sp.Robust)
    assert recipe.hidden_strength == RECIPES["certified"].hidden_strength > sp.Robust().hidden_strength  # type: ignore
    result = baseline().fit(recipe, DIGITS.train_inputs[:100])
    assert result.rows.converged.all()
    assert "recipe Certified" in result.summary()
    assert "beta 0.02" in result.summary()
