"""``simplicit fit`` with presets and stages: what is recorded, what is repeated, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import simplicit as sp
from command_line import Run
from simplicit.cli import main

PRESETS = ("sparse", "robust", "certified", "paper")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small baseline on digits."""
    folder = tmp_path_factory.mktemp("runs") / "base"
    words = ["baseline", "--arch", "12-8", "--no-bias", "--epochs", "10", "--batch-size", "64"]
    assert main([*words, "--output", str(folder)]) == 0
    return folder


def settings(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "run.json").read_text())["settings"]
    return found


def test_a_preset_is_recorded_as_what_it_stands_for_and_repeated(run: Run, base: Path) -> None:
    code, out, _ = run("fit", base, "--samples", 80, "--preset", "sparse", "--sparsity", 70, "--output", "f")
    assert code == 0
    assert "preset     sparse" in out
    assert "one price for a weight" in out
    recorded = settings("f")
    assert (recorded["preset"], recorded["penalty"], recorded["kappa"]) == ("sparse", "none", None)
    # What depends on the network is not a setting; what it came to is a figure.
    assert (recorded["ridge"], recorded["anchor"]) == (None, None)
    results = json.loads(Path("f", "run.json").read_text())["results"]
    assert (results["ridge"], results["anchor"]) == (pytest.approx(0.01 / 0.3**0.5), 0.7)
    assert (recorded["propagate"], recorded["refine"], recorded["refit"]) == (True, True, True)
    total = 64 * 12 + 12 * 8 + 8 * 10
    assert sp.load("f").nnz == int(total * 0.3 + 1e-9)
    assert run("fit", "--config", "f", "--output", "g")[0] == 0
    assert Path("g", "model.safetensors").read_bytes() == Path("f", "model.safetensors").read_bytes()


def test_options_beside_a_preset_win(run: Run, base: Path) -> None:
    words = ("--preset", "sparse", "--anchor", 0.1, "--kappa", 0.9, "--no-propagate", "--ridge", 0.2)
    assert run("fit", base, "--samples", 50, *words, "--output", "f")[0] == 0
    recorded = settings("f")
    assert (recorded["anchor"], recorded["kappa"], recorded["propagate"], recorded["ridge"]) == (0.1, 0.9, False, 0.2)
    assert recorded["refine"]


def test_a_preset_replaces_what_it_stands_for_in_a_config(run: Run, base: Path) -> None:
    assert run("fit", base, "--samples", 50, "--beta", 0.5, "--lambda1", 0.3, "--output", "f")[0] == 0
    assert run("fit", "--config", "f", "--preset", "sparse", "--output", "g")[0] == 0
    recorded = settings("g")
    assert (recorded["penalty"], recorded["beta"], recorded["lambda1"], recorded["refine"]) == ("none", None, 0.3, True)


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The settings of every preset without a config."""
    folder = tmp_path_factory.mktemp("alone")
    for preset in PRESETS:
        words = ["fit", str(base), "--samples", "50", "--preset", preset, "--output", str(folder / preset)]
        assert main(words) == 0
    return {preset: settings(str(folder / preset)) for preset in PRESETS}


@pytest.mark.parametrize("first", PRESETS)
def test_a_preset_replaces_another_one_in_a_config_as_a_whole(
    run: Run, base: Path, alone: dict[str, dict[str, Any]], first: str
) -> None:
    options = ("--samples", 50, "--attacks", 0) if first in ("robust", "certified") else ("--samples", 50)
    assert run("fit", base, *options, "--preset", first, "--output", "f")[0] == 0
    for second in PRESETS:
        assert run("fit", "--config", "f", "--preset", second, "--output", "g", "--overwrite")[0] == 0
        assert settings("g") == alone[second], second


def test_another_penalty_beside_a_preset_names_the_candidates(run: Run, base: Path) -> None:
    words = ("--preset", "sparse", "--penalty", "l1", "--beta", 0.01, "--sparsity", 90)
    code, out, _ = run("fit", base, "--samples", 50, *words, "--output", "f")
    assert code == 0
    assert "L1(beta=0.01), for the candidates" in out


def test_no_ball_for_triangular_structures(run: Run, base: Path) -> None:
    assert run("fit", base, "--samples", 50, "--kappa", "none", "--output", "f")[0] == 0
    assert settings("f")["kappa"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--preset", "fast"), "--preset: 'fast' is unknown; choose one of 'sparse'"),
        (("--kappa", "much"), "--kappa: expected a number or none, got 'much'"),
        (("--kappa", "none", "--structure", "dense"), "structure 'dense' needs 0 < kappa < 1"),
        (("--kappa", "nan"), "kappa"),
        (("--propagate", "--structure", "no-self"), "--propagate: structure 'no-self' has no order of layers"),
        (("--refine", "--penalty", "none"), "--refine: NoPenalty() gives no zeros"),
        (("--refit", "--penalty", "basis-pursuit"), "--refit: BasisPursuit matches exactly"),
        (("--ridge", -1), "ridge"),
        (("--anchor", 2), "anchor must lie between 0 and 1"),
        (("--refine", "--beta", 50, "--sparsity", 5), "--sparsity: 5 % cannot be reached"),
    ],
)
def test_what_does_not_go_together(run: Run, base: Path, words: tuple[object, ...], told: str) -> None:
    code, out, err = run("fit", base, "--samples", 50, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert told in err
    assert list(Path.cwd().iterdir()) == []
