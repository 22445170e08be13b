"""``FitResult``: layers, figures and the summary of fits on states and on channels."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from fitting import Subject, errors_of, mlp, uniform
from tied_nets import subject

NET = Subject(mlp(12, 10, 8, 4), uniform())


@cache
def fitted(name: str) -> sp.FitResult:
    if name == "convolutions":
        return subject("residual").fit(sp.Sparse(60))
    if name == "search":
        return NET.fit(sp.Matching(sparsity=50, kappa=0.99))
    return NET.fit({"states": sp.Sparse(70, structure="feedforward"), "channels": sp.Sparse(70)}[name])


KINDS = ["states", "channels", "convolutions", "search"]


@pytest.mark.parametrize("name", KINDS)
def test_layers_add_up(name: str) -> None:
    result = fitted(name)
    assert sum(layer.rows for layer in result.layers) == len(result.rows)
    assert sum(layer.weights for layer in result.layers) == result.weight_count
    assert sum(layer.non_zeros for layer in result.layers) == result.nnz == result.rows.nnz.sum()
    for layer in result.layers:
        own = result.rows.group == layer.name
        assert own.sum() == layer.rows
        assert result.rows.nnz[own].sum() == layer.non_zeros
        assert 0 <= layer.error < 1
        assert (layer.support_bound is None) == (name == "search")


@pytest.mark.parametrize("name", KINDS)
def test_layers_come_in_the_order_of_evaluation(name: str) -> None:
    names = {
        "states": ["1", "3", "output"],
        "channels": ["0", "2", "4"],
        "convolutions": ["stem", "first", "second", "linear"],
        "search": ["1", "3", "output"],
    }
    assert [layer.name for layer in fitted(name).layers] == names[name]


def test_rows_of_states_are_those_of_m_and_of_channels_come_layer_by_layer() -> None:
    assert fitted("states").rows.group.tolist() == ["3"] * 8 + ["1"] * 10 + ["output"] * 4
    assert fitted("channels").rows.group.tolist() == ["0"] * 10 + ["2"] * 8 + ["4"] * 4
    model = fitted("search").model
    np.testing.assert_array_equal(fitted("search").rows.nnz, np.diff(model.matrix.indptr))


@pytest.mark.parametrize("name", KINDS)
def test_figures_are_plain_numbers(name: str) -> None:
    result = fitted(name)
    figures = json.loads(json.dumps(result.figures()))
    assert figures["rows_certified"] == figures["rows"] == len(result.rows)
    assert figures["largest_relative_gap"] == result.rows.relative_gap.max() <= result.tol
    assert figures["non_zeros"] == result.nnz
    assert figures["sparsity"] == pytest.approx(100 * (1 - result.nnz / result.weight_count))
    assert [layer["name"] for layer in figures["layers"]] == [layer.name for layer in result.layers]
    assert figures["layers"][0]["non_zeros"] == result.layers[0].non_zeros
    assert figures["seconds"].keys() >= {"training"}
    ridge = (None, None) if result.ridge is None else (result.ridge.ridge, result.ridge.anchor)
    assert (figures["ridge"], figures["anchor"]) == ridge
    assert ("perron_frobenius" in figures) == (name in ("states", "search"))
    if "perron_frobenius" in figures:
        assert figures["perron_frobenius"]["upper"] == 0


@pytest.mark.parametrize("name", KINDS)
def test_the_summary_is_one_screen(name: str) -> None:
    result = fitted(name)
    lines = result.summary().splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 120 for line in lines)
    text = " ".join(line.strip() for line in lines)
    for part in (
        f"recipe {type(result.recipe).__name__}",
        f"{len(result.rows)} of {len(result.rows)} certified",
        f"structure {result.recipe.structure}",  # type: ignore[attr-defined]
        f"{result.sparsity:.1f} % sparse",
        *(layer.name for layer in result.layers),
    ):
        assert part in text
    assert ("lambda_pf <= 0 < 1: well-posed" in text) == (name in ("states", "search"))
    assert ("found in" in text) == (name == "search")
    assert ("weights exchanged" in text) == (name != "search")


def test_the_summary_of_channels_says_what_their_values_are_drawn_to() -> None:
    assert "ridge 0.01 towards 1 of the baseline's weights" in fitted("convolutions").summary()


def test_layers_have_the_names_that_the_network_gives_them() -> None:
    result = NET.fit(sp.Matching(sp.L1(1e-3), structure="dense"))
    assert [(layer.name, layer.modules) for layer in result.layers] == [
        ("1", ("0",)),
        ("3", ("2",)),
        ("output", ("4",)),
    ]
    shown = [line.split()[:2] for line in result.summary().splitlines()[-3:]]
    assert shown == [["0", "(1)"], ["2", "(3)"], ["4", "(output)"]]
    assert [layer.shown for layer in fitted("channels").layers] == [layer.name for layer in fitted("channels").layers]


class Skipping(nn.Module):
    """A skip path beside a layer, whose weights make the same states, and a computed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
        self.inner, self.skip, self.head = nn.Linear(5, 5), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(torch.relu(self.up(x))) + self.skip(x)))


def test_states_that_several_layers_make_have_all_their_names() -> None:
    result = sp.fit(Skipping().eval(), torch.rand(40, 6), sp.Sparse(50, "dense"))
    assert [layer.modules for layer in result.layers] == [("up",), ("inner", "skip"), ("head",)]
    assert [line.split()[0] for line in result.summary().splitlines()[-3:]] == ["up", "inner+skip", "head"]


def test_the_layer_that_lost_most_is_said() -> None:
    result = fitted("channels")
    worst = max(result.layers, key=lambda layer: layer.error)
    (line,) = [line for line in result.summary().splitlines() if "most lost" in line]
    assert f"in {worst.name}, whose results are off by {100 * worst.error**0.5:.2g} % of their norm" in line
    assert f"with {100 * worst.non_zeros / worst.weights:.1f} % of its weights" in line
    emptied = NET.fit(sp.Matching(sp.L1(1e4)))
    assert "no weight is left in 0 (1), 2 (3), 4 (output)" in " ".join(emptied.summary().split())


@pytest.mark.parametrize("name", ["states", "channels", "convolutions"])
def test_bounds_of_the_supports_are_never_rounded_up(name: str) -> None:
    result = fitted(name)
    gap, objective = result.rows.cardinality_gap, result.rows.objective
    assert ((gap >= 0) & (gap <= objective * (1 + 1e-9))).all()
    lines = result.summary().splitlines()
    assert any("best >= x" in line for line in lines)
    for line, layer in zip(lines[-len(result.layers) :], result.layers, strict=True):
        rows = result.rows.group == layer.name
        assert layer.support_bound == pytest.approx(1 - gap[rows].sum() / objective[rows].sum())
        assert 0 < layer.support_bound <= 1
        assert line.strip().startswith(f"{layer.shown} ")
        bound = line.split()[-1]
        assert layer.support_bound - 1e-3 < float(bound) <= layer.support_bound


@pytest.mark.parametrize("recipe", [sp.Matching(refit=sp.Ridge()), sp.Matching()])
def test_there_is_no_such_bound_where_the_penalty_selects(recipe: sp.training.Recipe) -> None:
    result = NET.fit(recipe, uniform(40))
    assert all(layer.support_bound is None for layer in result.layers)
    assert np.isnan(result.rows.cardinality_gap).all()
    assert "best >=" not in result.summary()


def test_layers_that_have_no_weights_of_the_network_s_own() -> None:
    """Chosen states, of which the network has none between, under a penalty that leaves nothing."""
    recipe = sp.Matching(sp.L1(1e4), structure="feedforward", states="blocks")
    result = NET.fit(recipe)
    assert [(layer.weights, layer.non_zeros) for layer in result.layers] == [(0, 0)] * 3
    assert [line.split()[-2] for line in result.summary().splitlines()[-3:]] == ["-"] * 3


def test_errors_are_those_of_the_model() -> None:
    result = fitted("search")
    U, wanted = NET.inputs, NET.outputs(NET.inputs)
    expected = np.linalg.norm(result.model.predict(U) - wanted) / np.linalg.norm(wanted)
    assert errors_of(result)["output"] == pytest.approx(expected)


def test_a_saved_model_comes_back(tmp_path: object) -> None:
    for name in ("search", "channels"):
        fitted(name).save(f"{tmp_path}/{name}")
        loaded = sp.load(f"{tmp_path}/{name}")
        np.testing.assert_array_equal(loaded.predict(NET.inputs), fitted(name).model.predict(NET.inputs))
