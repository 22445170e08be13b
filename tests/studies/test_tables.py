"""``reproduce table2`` and ``table3``, on small data of their form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import simplicit as sp
from command_line import Run, one_line
from simplicit.data import load_dataset
from simplicit.studies import tables
from simplicit.studies.tables import TABLES, PaperRow, TableSettings, pruned_by_size, run_table


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, 2, (PaperRow(60, 77, 0.1, 0.01, (0.572, 0.495)),))
    monkeypatch.setitem(TABLES, 3, (PaperRow(50, 30, 0.01, 0.001, (0.749, 0.699)),))


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(
    ("number", "recipe"),
    [(2, "sparse"), *(pytest.param(3, name, marks=pytest.mark.slow) for name in ("sparse", "robust"))],
)
def test_a_table_has_the_paper_the_letter_and_ours(number: int, recipe: str) -> None:
    settings = TableSettings(recipe, pgd_steps=2, attack_samples=30, epochs=2)
    found = run_table(load_dataset("digits"), number, settings)
    for row in found.rows:
        assert row.ours.sparsity >= row.paper.sparsity
        assert row.ours.certified == 1.0
        assert row.gain[0] == pytest.approx(row.ours.fgsm[0] - row.paper.accuracy[0])
        if number == 2:  # pruned by size, exactly as sparse as stated
            assert row.paper.sparsity <= row.letter.sparsity < row.paper.sparsity + 0.1
    assert json.loads(json.dumps(found.figures()))["rows"][0]["paper"]["samples"] == found.rows[0].paper.samples


def test_each_table_has_a_recipe_of_its_own() -> None:
    assert TableSettings().ours(2, 50) == sp.Sparse(50, anchor=0.2)
    assert TableSettings().ours(3, 50) == sp.Robust(sparsity=50)
    assert TableSettings(anchor=0.1).ours(2, 50) == sp.Sparse(50, anchor=0.1)
    assert TableSettings("sparse").ours(3, 50) == sp.Sparse(50, anchor=0.2)


def test_an_anchor_that_the_recipe_has_not_is_refused() -> None:
    told = "anchor: the recipe sparse has one, 'robust' has not"
    with pytest.raises(sp.InputError, match=told):
        TableSettings("robust", anchor=0.1)
    with pytest.raises(sp.InputError, match=told):
        run_table(load_dataset("digits"), 3, TableSettings(anchor=0.1))


def test_the_rows_are_the_papers() -> None:
    assert [(row.samples, row.sparsity) for row in TABLES[2]] == [
        (700, 15), (500, 23), (400, 28), (300, 36), (200, 54), (100, 77)
    ]  # fmt: skip
    assert {row.price for row in TABLES[2]} == {0.01}
    assert [(row.samples, row.weight, row.price) for row in TABLES[3]] == [
        (600, 0.1, 0.001), (1000, 0.01, 0.001), (500, 0.01, 0.01), (2000, 0.01, 0.01), (900, 0.01, 0.001),
        (400, 0.01, 0.001),
    ]  # fmt: skip


def test_pruning_by_size_keeps_the_largest_of_all_four_matrices() -> None:
    rng = np.random.default_rng(0)
    shapes = {"A": (3, 3), "B": (3, 4), "C": (2, 3), "D": (2, 4)}
    parts = {name: 0.3 * rng.normal(size=shape) for name, shape in shapes.items()}
    model = pruned_by_size(sp.ImplicitModel.from_matrices(**parts), 10)
    assert model.nnz == 10
    sizes = np.sort(np.concatenate([np.abs(part).ravel() for part in parts.values()]))
    kept = np.concatenate([np.abs(getattr(model, name).toarray()).ravel() for name in "ABCD"])
    np.testing.assert_array_equal(np.sort(kept)[-10:], sizes[-10:])


@pytest.mark.slow
@pytest.mark.usefixtures("few_rows")
def test_the_command_writes_the_table(run: Run) -> None:
    quick = ("--data", "digits", "--pgd-steps", 2, "--attack-samples", 30, "--epochs", 2)
    code, out, err = run("reproduce", "table2", *quick, "--output", "t", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["table"] == 2
    assert {path.name for path in Path("t").iterdir()} == {"table2.json", "table2.md", "run.json"}
    text = Path("t", "table2.md").read_text(encoding="utf-8")
    assert "57.2 / 49.5" in text
    assert "pruned by size" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--recipe", "fast"), "--recipe: 'fast' is unknown; choose one of 'sparse'"),
        (("--anchor", 0.1), "--anchor: the recipe sparse has one, 'robust' has not"),
        (("--seeds", 0), "--seeds must be"),
        ((), "samples: digits has 1437, 2000 are wanted"),
        (("--attack-samples", 0), "--attack-samples must be"),
    ],
)
def test_bad_input(run: Run, words: tuple[object, ...], told: str) -> None:
    one_line(run("reproduce", "table3", "--data", "digits", *words), told)
    assert not Path("runs").exists()


def test_radii_are_the_papers() -> None:
    assert tables.RADII == (0.004, 0.008)
