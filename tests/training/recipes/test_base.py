"""What a recipe is given, and what a journal of a fit is known by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.rows import PiecewiseQuadratic
from tied_nets import subject

LAYERS = Subject(mlp(6, 5, 3), uniform(40, 6))


class Own:
    """A user's penalty without equality, which prints as its place in memory."""

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def pieces(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        return sp.L1(beta=self.beta).pieces(n_rows, n_columns)


@pytest.mark.parametrize("kind", ["matching", "sparse"])
@pytest.mark.parametrize("name", ["layers", "convolutions"])
def test_a_user_s_penalty_is_known_by_what_it_does(name: str, kind: str, tmp_path: Path) -> None:
    subjects = {"layers": LAYERS, "convolutions": subject("plain")}

    def fitted(beta: float) -> sp.FitResult:
        recipe = sp.Matching(Own(beta)) if kind == "matching" else sp.Sparse(60, candidates=Own(beta))
        return subjects[name].fit(recipe, journal=tmp_path / "journal")

    first, again = (fitted(1e-4) for _ in range(2))
    assert np.array_equal(first.rows.objective, again.rows.objective)
    with pytest.raises(sp.InputError, match="journal"):
        fitted(2e-4)


@pytest.mark.parametrize("states", ["all", "blocks"])
def test_chosen_states_are_another_fit(states: str, tmp_path: Path) -> None:
    recipe, journal = sp.Matching(structure="feedforward"), tmp_path / "journal"
    LAYERS.fit(replace(recipe, states=states), journal=journal)
    with pytest.raises(sp.InputError, match="journal"):
        LAYERS.fit(replace(recipe, states="blocks" if states == "all" else "all"), journal=journal)


def test_every_option_the_inputs_and_the_weights_make_another_fit(tmp_path: Path) -> None:
    first, journal = sp.Sparse(60), tmp_path / "journal"
    done = LAYERS.fit(first, journal=journal)
    others = [sp.Sparse(61), sp.Sparse(60, ridge=0.1), sp.Sparse(60, anchor=0.1), sp.Sparse(60, "feedforward")]
    for other in [*others, sp.Sparse(60, candidates=sp.L1(1e-4)), sp.Robust(sparsity=60), sp.Matching(sparsity=60)]:
        with pytest.raises(sp.InputError, match="journal"):
            LAYERS.fit(other, journal=journal)
    with pytest.raises(sp.InputError, match="journal"):
        LAYERS.fit(first, LAYERS.inputs + 1, journal=journal)
    with pytest.raises(sp.InputError, match="journal"):
        LAYERS.fit(first, journal=journal, tol=1e-7)
    with pytest.raises(sp.InputError, match="journal"):
        Subject(mlp(6, 5, 3, seed=1), LAYERS.inputs).fit(first, journal=journal)
    again = LAYERS.fit(first, journal=journal)
    for key, value in again.network().state_dict().items():
        torch.testing.assert_close(value, done.network().state_dict()[key], rtol=0, atol=0)


def test_a_whole_number_is_the_same_option(tmp_path: Path) -> None:
    first, again = (LAYERS.fit(sp.Sparse(sparsity), journal=tmp_path / "journal") for sparsity in (60, 60.0))
    assert np.array_equal(first.rows.objective, again.rows.objective)


def test_lists_become_tuples() -> None:
    assert sp.Matching(structure="dense", states=["relu", "tanh"]).states == ("relu", "tanh")  # type: ignore[arg-type]
    assert sp.Robust(hidden_strength=[1, 3]).hidden_strength == (1, 3)  # type: ignore[arg-type]
