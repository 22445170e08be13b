"""The robust mode of ``fit``: its row problems, what it makes, presets, bad input."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from simplicit.training.presets import PRESETS
from simplicit.training.robust.onesided import Layer
from torch import nn

import simplicit as sp
from simplicit.data import load_dataset
from simplicit.runs.mlp import MlpSettings, train_mlp

Array = npt.NDArray[np.float64]
DIGITS = load_dataset("digits")
EPS = 0.06


@cache
def net() -> nn.Module:
    return train_mlp(DIGITS, MlpSettings(arch=(24, 12), bias=False, batch_size=64, epochs=12))


@cache
def fitted(attacks: int = 2) -> sp.FitResult:
    return sp.fit(net(), DIGITS.train_inputs[:500], preset="robust", attacks=attacks, attack_eps=0.04)


def layer(onesided: bool, *, samples: int = 300, seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(0.3, 1, size=(samples, 15)), 0)
    features[:, 4] = 0.7  # a constant column
    targets = features @ (rng.normal(size=(15, 3)) * (rng.random((15, 1)) < 0.5)) - 0.3
    targets[:, 2] = -np.abs(targets[:, 2])  # a state that never is on
    return Layer(features, targets, np.ones((3, 15), dtype=bool), 0.05 + 0.1 * rng.random(15), 0.8, onesided)


def objective(problem: Layer, weights: Array, intercepts: Array) -> Array:
    """The joint objective at the best t, and each of the row problems where there is no side."""
    short = problem.targets - problem.features @ weights.T - intercepts
    if problem.onesided:
        off = problem.features @ weights.T + intercepts
        short = np.where(problem.targets > 0, short, np.maximum(off, 0))
    found: Array = problem.weight * (short**2).mean(axis=0) + np.abs(weights) @ problem.prices
    return found


def test_reduced_rows_are_those_of_the_samples() -> None:
    problem = layer(onesided=False)
    found = problem.solve(1, 1e-9, None, throw=True)
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


def test_turns_descend_to_the_joint_optimum() -> None:
    problem = layer(onesided=True)
    values = [
        objective(problem, found.weights, found.intercepts).sum()
        for found in (problem.solve(turns, 1e-9, None, throw=True) for turns in (1, 4, 10, 300))
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
    found = layer(onesided=True).solve(3, 1e-6, None, throw=True)
    assert not found.weights[2].any()
    assert found.intercepts[2] <= 0


def test_it_is_harder_to_attack_and_more_can_be_proved() -> None:
    base, result = sp.from_torch(net(), DIGITS.test_inputs[:2]), fitted()
    U, labels = DIGITS.test_inputs, DIGITS.test_labels
    clean = [sp.accuracy(model, U, labels) for model in (base, result.model)]
    held = [
        sp.accuracy(m, sp.pgd(m, U, labels, EPS, steps=20), labels) for m in (base, result.model.astype(np.float32))
    ]
    proved = [sp.certify(m.astype(np.float64), U, labels, EPS).accuracy() for m in (base, result.model)]
    assert clean[1] > clean[0] - 0.03
    assert held[1] > held[0] + 0.02
    assert proved[1] > proved[0] + 0.02


def test_every_row_is_certified_and_the_model_is_well_posed() -> None:
    result = fitted()
    assert result.rows.converged.all()
    assert result.row_norm < 1
    assert float(result.perron_frobenius) == 0
    assert result.rows.nnz.sum() == result.model.nnz
    assert result.model.state_bias.any()  # also where the baseline has none
    text = result.summary()
    assert "2 rounds of worst cases at eps 0.04, 1,500 points" in text
    assert "states in their own units" in text


def test_equal_runs_are_equal() -> None:
    again = sp.fit(net(), DIGITS.train_inputs[:500], preset="robust", attacks=2, attack_eps=0.04)
    for part in "ABC":
        ours, theirs = getattr(again.model, part), getattr(fitted().model, part)
        np.testing.assert_array_equal(ours.indices, theirs.indices)
        np.testing.assert_array_equal(ours.data, theirs.data)


def test_a_journal_holds_every_layer(tmp_path: Path) -> None:
    told: list[str | None] = []
    options = {"preset": "robust", "attacks": 1, "attack_eps": 0.04, "journal": tmp_path / "journal"}
    runs = [
        sp.fit(net(), DIGITS.train_inputs[:150], progress=lambda state: told.append(state.stage), **options)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0].model.B.data, runs[1].model.B.data)
    assert {"round 0, 1", "round 1, output"} <= set(told)
    with pytest.raises(sp.InputError, match="journal"):
        sp.fit(net(), DIGITS.train_inputs[:150], **(options | {"attacks": 0}))


def test_worst_cases_matter() -> None:
    with_them, without = fitted(), fitted(attacks=0)
    U, labels = DIGITS.test_inputs, DIGITS.test_labels
    models = [result.model.astype(np.float32) for result in (with_them, without)]
    held = [sp.accuracy(model, sp.pgd(model, U, labels, EPS, steps=20), labels) for model in models]
    assert held[0] > held[1]


def test_sparsity_is_met() -> None:
    result = sp.fit(net(), DIGITS.train_inputs[:300], preset="robust", attacks=1, sparsity=70)
    assert abs(result.sparsity - 70) <= 100 * 0.5 / min(100, result.weight_count) + 1e-9
    assert result.trials > 1


def test_strengths_by_layer() -> None:
    U = DIGITS.train_inputs[:300]
    found = {
        later: sp.fit(net(), U, preset="robust", attacks=0, later=later).rows for later in ((0.1, 0.1), (10.0, 0.1))
    }
    second = [rows.nnz[rows.group == "3"].sum() for rows in found.values()]
    first = [rows.nnz[rows.group == "1"].sum() for rows in found.values()]
    assert second[1] < second[0]
    assert first[1] == first[0]


def test_activations_without_a_side_and_skips() -> None:
    torch.manual_seed(0)

    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(8, 6), nn.Linear(14, 5), nn.Linear(5, 3)

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.first(u))
            return self.last(torch.relu(self.second(torch.cat([x, u], dim=1))))

    U = np.random.default_rng(0).random((200, 8)).astype(np.float32)
    result = sp.fit(Skip().eval(), U, preset="robust", attacks=1, penalty=sp.L1(beta=1e-6), later=1e-3)
    assert result.rows.converged.all()
    assert not result.rescaled
    with torch.no_grad():
        torch.manual_seed(0)
        Y = Skip().eval()(torch.from_numpy(U)).numpy()
    assert np.mean(result.model.predict(U).argmax(axis=1) == Y.argmax(axis=1)) > 0.95


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"preset": "fast"}, "preset: 'fast' is unknown; choose one of 'sparse', 'robust', 'certified', 'paper'"),
        ({"preset": ["robust"]}, "preset: .* is unknown"),
        ({"robust": True}, "kappa: got 0.99; robust takes None"),
        ({"robust": "yes"}, "robust must be True or False"),
        ({"preset": "robust", "structure": "dense"}, "structure: got 'dense'; robust takes 'baseline' or"),
        ({"preset": "robust", "rounds": 2}, "rounds: got 2; robust takes 1"),
        ({"preset": "robust", "normalize": "both"}, "normalize: got 'both'; robust takes 'targets'"),
        ({"preset": "robust", "regenerate": False}, "regenerate: got False; robust takes True"),
        (
            {"preset": "robust", "penalty": sp.BasisPursuit()},
            r"robust: the penalty is the worst case .* take simplicit",
        ),
        ({"preset": "robust", "penalty": sp.L1(beta=np.ones(46))}, "L1 with one strength"),
        ({"preset": "robust", "attacks": -1}, "attacks must be an integer of at least 0"),
        ({"preset": "robust", "attack_eps": -0.1}, "attack_eps must be a finite number of at least 0"),
        ({"preset": "robust", "attack_eps": 2}, "attack_eps must lie between 0 and the width of clip, 1, got 2"),
        ({"preset": "robust", "later": -1.0}, "later must be a finite number of at least 0"),
        ({"preset": "robust", "later": (1.0,)}, "later: 1 strengths for 2 layers after the first"),
        ({"preset": "robust", "clip": (0.0, 0.5)}, r"inputs: values from 0 to 1 lie outside of clip = \(0, 0.5\)"),
        ({"preset": "robust", "clip": (1.0, 0.0)}, "clip must be"),
    ],
)
def test_bad_options(options: dict[str, Any], told: str) -> None:
    with pytest.raises(sp.InputError, match=told):
        sp.fit(net(), DIGITS.train_inputs[:20], **options)


def test_a_single_output_has_no_classes() -> None:
    single = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    with pytest.raises(sp.InputError, match="robust: the network has a single output"):
        sp.fit(single, np.random.default_rng(0).random((20, 4)), preset="robust")


def test_options_beside_a_preset_win() -> None:
    result = sp.fit(net(), DIGITS.train_inputs[:100], preset="certified", attacks=0, penalty=sp.L1(beta=0.02))
    assert result.options.attacks == 0
    assert result.options.preset == "certified"
    assert float(result.options.penalty.beta) == 0.02
    assert result.options.later == PRESETS["certified"].options["later"]
