"""``reproduce frontier``, ``table2`` and ``table3``, on small data of their form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplicit as sp
from simplicit.cli import main
from simplicit.data import load_dataset
from simplicit.studies import tables
from simplicit.studies.frontier import FrontierSettings, Method, methods_of, run_frontier
from simplicit.studies.peers import PEERS, Layer, Peer
from simplicit.studies.tables import TABLES, PaperRow, TableSettings, pruned_by_size, run_table

SMALL: dict[str, Any] = {"samples": 100, "pgd_steps": 2, "attack_samples": 30, "epochs": 2}
QUICK = ("--data", "digits", "--pgd-steps", 2, "--attack-samples", 30, "--epochs", 2)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, 2, (PaperRow(60, 77, 0.1, 0.01, (0.572, 0.495)),))
    monkeypatch.setitem(TABLES, 3, (PaperRow(50, 30, 0.01, 0.001, (0.749, 0.699)),))


# --- frontier ---------------------------------------------------------------------------------------------------------


def test_every_method_is_measured_at_every_sparsity_and_seed() -> None:
    settings = FrontierSettings(arch=(8, 6), sparsity=(50.0, 90.0), seeds=2, workers=1, **SMALL)
    states: list[sp.progress.Progress] = []
    found = run_frontier(load_dataset("digits"), settings, progress=states.append)
    assert [(state.stage, state.done, state.total) for state in states] == [("seeds", 1, 2), ("seeds", 2, 2)]
    assert settings.peer == tuple(PEERS)
    methods = methods_of(PEERS)
    assert len(methods) == 1 + 3 + 2 + 4 + 4
    assert len(found.measured) == 2 * (1 + 2 * len(methods))
    for method in methods:
        for sparsity in settings.sparsity:
            ones = found.of(method, sparsity)
            assert [one.seed for one in ones] == [0, 1]
            mean, deviation = found.summary(method, sparsity, "clean")
            assert mean == pytest.approx(np.mean([one.clean for one in ones]))
            assert deviation == pytest.approx(np.std([one.clean for one in ones], ddof=1))
            assert all(one.pgd <= one.fgsm + 1 / 30 for one in ones)
            assert all(0 <= one.clean <= 1 for one in ones)
            assert all(sparsity <= one.reached < sparsity + 2 for one in ones)
    assert json.loads(json.dumps(found.figures()))["settings"]["seeds"] == 2


def test_equal_settings_give_equal_figures() -> None:
    settings = FrontierSettings(arch=(6,), sparsity=(80.0,), seeds=1, peer=("wanda",), workers=1, **SMALL)
    runs = [run_frontier(load_dataset("digits"), settings) for _ in range(2)]
    first, second = ([(one.clean, one.fgsm, one.pgd) for one in found.measured] for found in runs)
    assert first == second


def test_the_first_seed_is_the_users_choice() -> None:
    few: dict[str, Any] = {"arch": (6,), "sparsity": (80.0,), "peer": ("wanda",), "workers": 1, **SMALL}
    both = run_frontier(load_dataset("digits"), FrontierSettings(seeds=2, **few))
    second = run_frontier(load_dataset("digits"), FrontierSettings(seeds=1, first_seed=1, **few))
    kept = [(one.method, one.clean, one.pgd) for one in both.measured if one.seed == 1]
    assert [(one.method, one.clean, one.pgd) for one in second.measured] == kept


def most_last(layer: Layer) -> np.ndarray:
    """Keeps the weights in the last places."""
    return layer.weights * (np.arange(layer.weights.size) >= layer.weights.size - layer.count).reshape(
        layer.weights.shape
    )


def test_a_peer_that_is_registered_is_part_of_the_study(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "toy", Peer("Toy", most_last, fits=False, source="this test"))
    assert FrontierSettings().peer[-1] == "toy"
    words = (
        "--samples",
        100,
        "--arch",
        "6",
        "--seeds",
        1,
        "--sparsity",
        80,
        "--peer",
        "toy",
        "--output",
        tmp_path / "f",
    )
    code, out, err = run(capsys, "reproduce", "frontier", *QUICK, *words)
    assert (code, err) == (0, "")
    assert "Toy, uniform allocation" in out
    assert "Toy, our allocation" in (tmp_path / "f" / "frontier.md").read_text(encoding="utf-8")


def test_names_of_methods() -> None:
    assert str(Method("simplicit")) == "simplicit"
    assert str(Method("alps", "ours", "states")) == "ALPS, our allocation, our targets"


def test_the_command_writes_tables_and_a_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "frontier"
    words = ("--samples", 100, "--arch", "6", "--seeds", 1, "--workers", 1, "--sparsity", 80, "--peer", "alps")
    code, out, err = run(capsys, "reproduce", "frontier", *QUICK, *words, "--output", folder)
    assert (code, err) == (0, "")
    assert "ALPS, uniform allocation, own targets" in out
    assert {path.name for path in folder.iterdir()} == {"frontier.json", "frontier.md", "frontier.png", "run.json"}
    assert "**simplicit**" in (folder / "frontier.md").read_text(encoding="utf-8")
    figures = json.loads((folder / "frontier.json").read_text())
    assert {one["solver"] for one in figures["means"]} == {"baseline", "simplicit", "alps"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sparsity", 100), "sparsity is in per cent"),
        (("--sparsity", -1), "sparsity"),
        (("--peer", "luck"), "--peer: 'luck' is unknown; choose one of 'magnitude'"),
        (("--recipe", "fast"), "--recipe: 'fast' is unknown"),
        (("--seeds", 0), "--seeds must be"),
        (("--first-seed", -1), "--first-seed must be"),
        (("--samples", 10**6), "--samples: digits has"),
        (("--attack-samples", 10**6), "digits has"),
        (("--eps", 2), "wider than the range"),
        (("--arch", "a"), "arch"),
        (("--workers", 0), "--workers must be"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: Any, told: str) -> None:
    code, out, err = run(capsys, "reproduce", "frontier", "--data", "digits", *words, "--output", tmp_path / "f")
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "f").exists()


# --- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(("number", "recipe"), [(2, "sparse"), (3, "sparse"), (3, "robust")])
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
    sparse, robust = (TableSettings().ours(number, None) for number in (2, 3))
    assert isinstance(sparse, sp.Sparse)
    assert sparse.anchor == 0.2
    assert isinstance(robust, sp.Robust)
    with pytest.raises(sp.InputError, match="anchor: the recipe sparse has one, 'robust' has not"):
        TableSettings("robust", anchor=0.1)


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


@pytest.mark.usefixtures("few_rows")
def test_the_command_writes_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "table2"
    code, out, err = run(capsys, "reproduce", "table2", *QUICK, "--output", folder, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["table"] == 2
    assert {path.name for path in folder.iterdir()} == {"table2.json", "table2.md", "run.json"}
    text = (folder / "table2.md").read_text(encoding="utf-8")
    assert "57.2 / 49.5" in text
    assert "pruned by size" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--recipe", "fast"), "--recipe: 'fast' is unknown"),
        (("--seeds", 0), "--seeds must be"),
        (("--data", "digits"), "samples: digits has 1437, 2000 are wanted"),
        (("--attack-samples", 0), "--attack-samples must be"),
    ],
)
def test_bad_input_of_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: Any, told: str) -> None:
    code, out, err = run(capsys, "reproduce", "table3", *words, "--output", tmp_path / "t")
    assert (code, out) == (2, "")
    assert told in err
    assert not (tmp_path / "t").exists()


def test_radii_are_the_papers() -> None:
    assert tables.RADII == (0.004, 0.008)


def test_the_library_does_not_import_its_studies() -> None:
    package = Path(sp.__file__).parent
    importing = {
        path.relative_to(package).parts[0]
        for path in package.rglob("*.py")
        if re.search(r"^\s*(from|import) simplicit\.studies", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert importing <= {"studies", "cli"}
