"""``reproduce frontier``, on small data of its form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplicit as sp
from command_line import Run, one_line
from simplicit.data import load_dataset
from simplicit.studies.frontier import FrontierSettings, Method, methods_of, run_frontier
from simplicit.studies.peers import PEERS, Layer, Peer

SMALL: dict[str, Any] = {"samples": 100, "pgd_steps": 2, "attack_samples": 30, "epochs": 2}
QUICK = ("--data", "digits", "--pgd-steps", 2, "--attack-samples", 30, "--epochs", 2)


@pytest.mark.slow
def test_every_method_is_measured_at_every_sparsity_and_seed() -> None:
    settings = FrontierSettings(arch=(8, 6), sparsity=(50.0, 90.0), seeds=2, workers=1, **SMALL)
    states: list[sp.progress.Progress] = []
    found = run_frontier(load_dataset("digits"), settings, progress=states.append)
    seeds = [(state.stage, state.done, state.total) for state in states if state.of is None]
    assert seeds == [("seeds", 0, 2), ("seeds", 1, 2), ("seeds", 2, 2)]
    assert {state.stage for state in states if state.of is not None and state.of.of is None} >= {"training", "capture"}
    assert settings.peer == tuple(PEERS)
    methods = methods_of(PEERS)
    assert len(methods) == 1 + 3 + 2 + 2 + 4 + 4
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


def test_a_peer_that_is_registered_is_part_of_the_study(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "toy", Peer("Toy", most_last, fits=False, source="this test"))
    assert FrontierSettings().peer[-1] == "toy"
    words = ("--samples", 100, "--arch", "6", "--seeds", 1, "--sparsity", 80, "--peer", "toy")
    code, out, err = run("reproduce", "frontier", *QUICK, *words, "--output", "f")
    assert (code, err) == (0, "")
    assert "Toy, uniform allocation" in out
    assert "Toy, our allocation" in Path("f", "frontier.md").read_text(encoding="utf-8")


def test_names_of_methods() -> None:
    assert str(Method("simplicit")) == "simplicit"
    assert str(Method("alps", "ours", "states")) == "ALPS, our allocation, our targets"


def test_the_command_writes_tables_and_a_picture(run: Run) -> None:
    folder = Path("frontier")
    words = ("--samples", 100, "--arch", "6", "--seeds", 1, "--workers", 1, "--sparsity", 80, "--peer", "alps")
    code, out, err = run("reproduce", "frontier", *QUICK, *words, "--output", folder)
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
        (("--recipe", "fast"), "--recipe: 'fast' is unknown; choose one of 'sparse'"),
        (("--seeds", 0), "--seeds must be"),
        (("--first-seed", -1), "--first-seed must be"),
        (("--samples", 10**6), "--samples: digits has"),
        (("--attack-samples", 10**6), "digits has"),
        (("--eps", 2), "wider than the range"),
        (("--arch", "a"), "arch"),
        (("--workers", 0), "--workers must be"),
    ],
)
def test_bad_input(run: Run, words: tuple[object, ...], told: str) -> None:
    one_line(run("reproduce", "frontier", "--data", "digits", *words), told)
    assert not Path("runs").exists()
