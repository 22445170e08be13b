"""``simplicit attack`` as a user meets it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplicit as sp
from command_line import Run, files, manifest, one_line
from simplicit.robustness import ATTACKS, Attack


@pytest.fixture(scope="module")
def one(fitted: Any) -> Path:
    found: Path = fitted("sparse")
    return found


@pytest.mark.slow
def test_two_runs_beside_the_baseline(run: Run, one: Path, fitted: Any) -> None:
    two = fitted("matching")
    words = ("--eps", "0.1", "--eps", "0.02", "--steps", "10", "--restarts", "2", "--queries", "40", "--samples", "60")
    code, out, err = run("attack", one, two, *words, "--output", "a")
    assert (code, err) == (0, "")
    for told in ("baseline", "FGSM", "PGD-10x2", "Square-40", "transfer", "worst", "60 test samples", "Saved in a"):
        assert told in out
    assert files() == ["a", "a/attack.json", "a/examples.npz", "a/outcomes.npz", "a/picture.png", "a/run.json"]
    document = json.loads(Path("a/attack.json").read_text())
    assert document["eps"] == ["0.02", "0.1"]
    baseline, first, _ = document["models"]
    assert [model["name"] for model in document["models"]] == ["baseline", str(one), str(two)]
    assert set(first["attacks"]) == {"fgsm", "pgd", "square", "transfer from baseline"}
    assert set(baseline["attacks"]) == {"fgsm", "pgd", "square"}
    assert abs(first["sparsity"] - 50) < 1
    for model in document["models"]:
        assert model["worst"][1] <= model["worst"][0] <= model["clean"]
        assert model["worst"][0] <= min(shares[0] for shares in model["attacks"].values())
        assert model["worst"][1] < model["clean"]
        assert model["checks"]["gradients"]["largest_difference"] < 1e-6
    with np.load("a/outcomes.npz", allow_pickle=False) as outcomes:
        assert outcomes["places"].shape == (60,)
        assert outcomes["1/pgd"].shape == (2, 60)
        assert outcomes["1/pgd"].mean(axis=1).tolist() == pytest.approx(first["attacks"]["pgd"])
    assert f"{100 * first['attacks']['pgd'][0]:.2f}" in out
    assert manifest("a")["kind"] == "attack"
    assert manifest("a")["settings"]["steps"] == 10
    assert set(manifest("a")["inputs"]["models"]) == {str(one), str(two)}
    again = run("attack", one, two, *words, "--output", "a", "--overwrite", "--json")
    assert json.loads(again[1])["models"][1]["attacks"] == first["attacks"]


def test_a_baseline_alone(run: Run, base: Path) -> None:
    code, out, _ = run("attack", base, "--eps", "0.05", "--samples", "30", "--steps", "3", "--json")
    assert code == 0
    assert set(json.loads(out)["models"][0]["attacks"]) == {"fgsm", "pgd", "square"}


def test_autoattack(run: Run, one: Path) -> None:
    # In a box in which no sample holds: AutoAttack's Square puts all its queries to those that do.
    words = ("attack", one, "--eps", "0.5", "--samples", "10", "--steps", "3", "--queries", "5")
    code, out, err = run(*words, "--attacks", "autoattack", "--no-transfer", "--output", "a")
    assert (code, err) == (0, "")
    assert "AutoAttack" in out
    assert "transfer" not in out
    assert "PGD" not in out
    assert "pyautoattack" in manifest("a")["versions"]


def test_an_attack_that_is_registered(run: Run, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def toy(model: object, U: np.ndarray, labels: object, eps: float, *, restarts: int) -> np.ndarray:
        assert restarts == 3
        return 1.0 - U

    monkeypatch.setitem(ATTACKS, "toy", Attack(toy, "Toy x{restarts}"))
    words = ("attack", one, "--eps", "0.1", "--samples", "20", "--attacks", "toy", "--restarts", "3")
    code, out, err = run(*words, "--no-transfer", "--output", "a")
    assert (code, err) == (0, "")
    assert "Toy x3" in out
    document = json.loads(Path("a/attack.json").read_text())
    assert [list(model["attacks"]) for model in document["models"]] == [["toy"], ["toy"]]
    assert "Known: fgsm, pgd, square, autoattack, toy." in " ".join(run("attack", "--help")[1].replace("│", "").split())
    one_line(run("attack", one, "--attacks", "luck"), "--attacks: 'luck' is unknown; choose one of 'fgsm'", "'toy'")


SATURATED = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
    with torch.no_grad():
        net[0].weight *= 1e4
    return net
"""


def test_checks_that_fail_are_told(run: Run) -> None:
    Path("saturated.py").write_text(SATURATED)  # tanh' is 0 for most samples
    words = (
        "--model",
        "saturated:make",
        "--own-weights",
        "--data",
        "digits",
        "--samples",
        "60",
        "--recipe",
        "matching",
    )
    assert run("fit", *words, "--output", "f")[0] == 0
    code, out, _ = run("attack", "f", "--eps", "0.3", "--steps", "3", "--restarts", "1", "--queries", "100")
    assert code == 0
    assert re.search(r"Check: f: \d+\.\d+ % of the samples have no gradient at all\.", out)
    assert "Check: f: square is stronger than the white-box PGD, by " in out
    assert "All checks passed" not in out


def test_progress_off_a_terminal(run: Run, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplicit.cli.console.FIRST_SECONDS", 0.0)
    code, out, err = run("attack", one, "--eps", "0.1", "--samples", "10", "--steps", "2", "--json")
    assert code == 0
    json.loads(out)
    assert re.search(r"^reading the networks; reading digits$", err, re.MULTILINE)
    assert re.search(r"^attacking baseline: 1 of 7, .* left; pgd, ε = 0.1: 1 of 3, .* left$", err, re.MULTILINE)
    assert f"attacking {one}: 7 of 7; checks: 4 of 4" in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--eps", "wide"), "--eps 'wide'"),
        (("--eps", "3"), "wider than the range"),
        (("--eps", "0.1", "--eps", "1/10"), "--eps: 0.1, 1/10 names a radius twice"),
        (("--samples", "361"), "--samples must be between 1 and the 360"),
        (("--seed", "-1"), "--seed must be"),
        (("--restarts", "0"), "--restarts must be an integer of at least 1"),
        (("--baseline", "nowhere"), "no such folder"),
        (("--data", "mnist"), "'mnist'"),
    ],
)
def test_bad_options(run: Run, one: Path, options: tuple[str, ...], told: str) -> None:
    one_line(run("attack", one, *options, "--output", "x"), told)
    assert files() == []


def test_runs_that_are_none(run: Run, one: Path) -> None:
    one_line(run("attack", "nowhere"), "no such folder")
    one_line(run("attack", one, one), "named twice")
    one_line(run("attack", one, "--output", one, "--overwrite"), "is or holds")


def test_a_missing_extra_is_told(run: Run, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise sp.errors.MissingExtraError("AutoAttack needs pyautoattack: pip install 'simplicit[attacks]'")

    monkeypatch.setitem(ATTACKS, "autoattack", dataclasses.replace(ATTACKS["autoattack"], check=missing))
    one_line(run("attack", one, "--attacks", "autoattack"), "pip install 'simplicit[attacks]'")
