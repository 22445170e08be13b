"""``simplicit certify`` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplicit as sp
from command_line import Run, files, manifest, one_line
from simplicit.robustness import METHODS
from simplicit.robustness.certificates.methods import Method


@pytest.fixture(scope="module")
def one(fitted: Any) -> Path:
    found: Path = fitted("matching")
    return found


@pytest.mark.slow
def test_it_stays_below_the_attack(run: Run, one: Path, fitted: Any) -> None:
    words = ("--eps", "0.01", "--eps", "0.03", "--samples", "80")
    code, out, err = run("certify", one, fitted("robust"), *words, "--attack", "--output", "c")
    assert (code, err) == (0, "")
    for told in ("global", "interval", "linear", "PGD-50x5", "clean", "80 test samples", "Saved in c"):
        assert told in out
    assert files() == ["c", "c/certificates.json", "c/outcomes.npz", "c/picture.png", "c/run.json"]
    document = json.loads(Path("c/certificates.json").read_text())
    for model in document["models"]:
        for place in range(2):
            ladder = [model["certified"][name][place] for name in ("global", "interval", "linear")]
            assert ladder == sorted(ladder)
            assert ladder[-1] <= model["attacked"][place] <= model["clean"]
        assert model["certified"]["linear"][0] > 0.3
        assert model["dtype"] == "float64"
    with np.load("c/outcomes.npz", allow_pickle=False) as outcomes:
        certified = (outcomes["2/linear"] > 0).mean(axis=1)
        assert certified.tolist() == pytest.approx(document["models"][2]["certified"]["linear"])
    assert manifest("c")["kind"] == "certify"


def test_fewer_bounds_and_more_steps(run: Run, one: Path) -> None:
    words = ("certify", one, "--eps", "0.02", "--samples", "40", "--json")
    plain, climbed = (json.loads(run(*words, "--steps", steps)[1])["models"][1]["certified"] for steps in (0, 5))
    assert climbed["linear"][0] >= plain["linear"][0]
    interval = json.loads(run(*words, "--method", "interval")[1])["models"][1]["certified"]
    assert list(interval) == ["global", "interval"]
    assert interval["interval"] == plain["interval"]


def test_a_baseline_alone(run: Run, base: Path) -> None:
    code, out, _ = run("certify", base, "--eps", "0.01", "--samples", "30", "--json")
    assert code == 0
    assert [model["name"] for model in json.loads(out)["models"]] == ["baseline"]


def test_a_bound_that_is_registered(run: Run, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "toy", Method(lambda evidence: evidence.take(evidence.margins + 1.0)))
    code, out, _ = run("certify", one, "--eps", "0.02", "--samples", "20", "--method", "toy", "--json")
    assert code == 0
    certified = json.loads(out)["models"][1]["certified"]
    assert list(certified) == ["global", "interval", "linear", "toy"]
    assert certified["toy"][0] > certified["linear"][0]
    assert "Known: global, interval, linear, toy." in " ".join(run("certify", "--help")[1].replace("│", "").split())
    one_line(run("certify", one, "--method", "luck"), "--method: 'luck' is unknown; choose one of 'global'")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--eps", "wide"), "--eps 'wide'"),
        (("--eps", "3"), "wider than the range"),
        (("--samples", "0"), "--samples must be between 1 and the 360"),
        (("--steps", "-1"), "--steps must be an integer of at least 0"),
        (("--seed", "-1"), "--seed must be"),
        (("--baseline", "nowhere"), "no such folder"),
        (("--data", "mnist"), "'mnist'"),
    ],
)
def test_bad_options(run: Run, one: Path, options: tuple[str, ...], told: str) -> None:
    one_line(run("certify", one, *options, "--output", "x"), told)
    assert files() == []


def test_runs_that_are_none(run: Run, one: Path) -> None:
    one_line(run("certify", "nowhere"), "no such folder")
    one_line(run("certify", one, one), "named twice")
    one_line(run("certify", one, "--output", one, "--overwrite"), "is or holds")


@pytest.mark.parametrize("command", ["attack", "certify"])
def test_a_model_that_is_not_well_posed_is_refused(run: Run, one: Path, base: Path, command: str) -> None:
    shutil.copytree(one, "ill")
    model = sp.load(one)
    n = model.n_states
    ill = sp.ImplicitModel.from_matrices(2.0 * np.eye(n), model.B, model.C, model.D, activation=model.groups)
    sp.save(ill, "model")
    for path in Path("model").iterdir():
        path.replace(Path("ill", path.name))
    one_line(run(command, "ill", "--baseline", base, "--samples", "5", "--output", "x"), "λ_pf")
    assert not Path("x").exists()


def test_own_arrays_in_their_own_range(run: Run) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    inputs = (10.0 * rng.normal(size=(200, 6)) + 60.0 * labels[:, None]).astype(np.float32)
    np.savez("mine.npz", inputs=inputs, labels=labels)
    assert run("baseline", "--data", "mine.npz", "--arch", "6", "--epochs", "20", "--output", "base")[0] == 0
    assert run("fit", "base", "--samples", "80", "--recipe", "matching", "--output", "f")[0] == 0
    words = ("f", "--eps", "1", "--eps", "30", "--json")
    attacked = json.loads(run("attack", *words, "--steps", "5")[1])["models"][1]
    certified = json.loads(run("certify", *words)[1])["models"][1]["certified"]["linear"]
    assert certified[0] > 0.5
    assert certified[0] <= attacked["worst"][0]
    assert certified[1] <= attacked["worst"][1] < attacked["clean"]
