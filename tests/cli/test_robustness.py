"""``simplicit attack`` and ``simplicit certify`` as a user meets them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import simplicit as sp
from command_line import Run
from simplicit.cli import console, main
from simplicit.robustness import ATTACKS, METHODS, Attack
from simplicit.robustness.certificates.methods import Method

COMMANDS = ("attack", "certify")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline on digits with two fits, and another baseline with a fit."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["--arch", "16-8", "--no-bias", "--batch-size", "64"]
    for name, epochs in (("base", "15"), ("other", "2")):
        assert main(["baseline", *words, "--epochs", epochs, "--output", str(folder / name)]) == 0
    for name, base, sparsity in (("one", "base", "30"), ("two", "base", "60"), ("far", "other", "30")):
        words = ["fit", str(folder / base), "--samples", "150", "--sparsity", sparsity, "--output", str(folder / name)]
        assert main(words) == 0
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def one_line(result: tuple[int, str, str], *told: str) -> None:
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for words in told:
        assert words in err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_gives_an_example(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"Example: simplicit {command}" in out
    for option in ("--eps", "--samples", "--seed", "--baseline", "--output", "--json", "--steps"):
        assert option in out
    assert command in run("--help")[1]


def test_attack_of_two_runs_beside_the_baseline(run: Run, runs: Path, tmp_path: Path) -> None:
    words = ("--eps", "0.1", "--eps", "0.02", "--steps", "10", "--restarts", "2", "--queries", "40", "--samples", "60")
    code, out, err = run("attack", runs / "one", runs / "two", *words, "--output", "a")
    assert (code, err) == (0, "")
    for told in ("baseline", "FGSM", "PGD-10x2", "Square-40", "transfer", "worst", "60 test samples", "Saved in a"):
        assert told in out
    assert files(tmp_path) == ["a", "a/attack.json", "a/examples.npz", "a/outcomes.npz", "a/picture.png", "a/run.json"]
    document = json.loads((tmp_path / "a" / "attack.json").read_text())
    assert document["eps"] == ["0.02", "0.1"]
    baseline, one, two = document["models"]
    assert [model["name"] for model in document["models"]] == ["baseline", str(runs / "one"), str(runs / "two")]
    assert set(one["attacks"]) == {"fgsm", "pgd", "square", "transfer from baseline"}
    assert set(baseline["attacks"]) == {"fgsm", "pgd", "square"}
    assert abs(two["sparsity"] - 60) < 1
    for model in document["models"]:
        assert model["worst"][1] <= model["worst"][0] <= model["clean"]
        assert model["worst"][0] <= min(shares[0] for shares in model["attacks"].values())
        assert model["worst"][1] < model["clean"]
        assert model["checks"]["gradients"]["largest_difference"] < 1e-6
    with np.load(tmp_path / "a" / "outcomes.npz", allow_pickle=False) as outcomes:
        assert outcomes["places"].shape == (60,)
        assert outcomes["1/pgd"].shape == (2, 60)
        assert outcomes["1/pgd"].mean(axis=1).tolist() == pytest.approx(one["attacks"]["pgd"])
    assert f"{100 * one['attacks']['pgd'][0]:.2f}" in out
    manifest = json.loads((tmp_path / "a" / "run.json").read_text())
    assert manifest["kind"] == "attack"
    assert manifest["settings"]["steps"] == 10
    assert set(manifest["inputs"]["models"]) == {str(runs / "one"), str(runs / "two")}
    again = run("attack", runs / "one", runs / "two", *words, "--output", "a", "--overwrite", "--json")
    assert json.loads(again[1])["models"][1]["attacks"] == one["attacks"]


def test_certify_stays_below_the_attack(run: Run, runs: Path, tmp_path: Path) -> None:
    words = ("--eps", "0.01", "--eps", "0.03", "--samples", "80")
    code, out, err = run("certify", runs / "one", runs / "two", *words, "--attack", "--output", "c")
    assert (code, err) == (0, "")
    for told in ("global", "interval", "linear", "PGD-50x5", "clean", "80 test samples", "Saved in c"):
        assert told in out
    assert files(tmp_path) == ["c", "c/certificates.json", "c/outcomes.npz", "c/picture.png", "c/run.json"]
    document = json.loads((tmp_path / "c" / "certificates.json").read_text())
    for model in document["models"]:
        for place in range(2):
            ladder = [model["certified"][name][place] for name in ("global", "interval", "linear")]
            assert ladder == sorted(ladder)
            assert ladder[-1] <= model["attacked"][place] <= model["clean"]
        assert model["certified"]["linear"][0] > 0.3
        assert model["dtype"] == "float64"
    with np.load(tmp_path / "c" / "outcomes.npz", allow_pickle=False) as outcomes:
        certified = (outcomes["2/linear"] > 0).mean(axis=1)
        assert certified.tolist() == pytest.approx(document["models"][2]["certified"]["linear"])
    assert json.loads((tmp_path / "c" / "run.json").read_text())["kind"] == "certify"


def test_fewer_bounds_and_more_steps(run: Run, runs: Path) -> None:
    words = ("certify", runs / "one", "--eps", "0.02", "--samples", "40", "--json")
    plain, climbed = (json.loads(run(*words, "--steps", steps)[1])["models"][1]["certified"] for steps in (0, 5))
    assert climbed["linear"][0] >= plain["linear"][0]
    interval = json.loads(run(*words, "--method", "interval")[1])["models"][1]["certified"]
    assert list(interval) == ["global", "interval"]
    assert interval["interval"] == plain["interval"]


def test_a_baseline_alone(run: Run, runs: Path) -> None:
    code, out, _ = run("certify", runs / "base", "--eps", "0.01", "--samples", "30", "--json")
    assert code == 0
    assert [model["name"] for model in json.loads(out)["models"]] == ["baseline"]
    code, out, _ = run("attack", runs / "base", "--eps", "0.05", "--samples", "30", "--steps", "3", "--json")
    assert code == 0
    assert set(json.loads(out)["models"][0]["attacks"]) == {"fgsm", "pgd", "square"}


def test_autoattack_from_the_command_line(run: Run, runs: Path, tmp_path: Path) -> None:
    # In a box in which no sample holds: AutoAttack's Square puts all its queries to those that do.
    words = ("attack", runs / "one", "--eps", "0.5", "--samples", "10", "--steps", "3", "--queries", "5")
    code, out, err = run(*words, "--attacks", "autoattack", "--no-transfer", "--output", "a")
    assert (code, err) == (0, "")
    assert "AutoAttack" in out
    assert "transfer" not in out
    assert "PGD" not in out
    assert "pyautoattack" in json.loads((tmp_path / "a" / "run.json").read_text())["versions"]


def test_an_attack_that_is_registered_runs_from_the_command_line(
    run: Run, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def toy(model: object, U: np.ndarray, labels: object, eps: float, *, restarts: int) -> np.ndarray:
        assert restarts == 3
        return 1.0 - U

    monkeypatch.setitem(ATTACKS, "toy", Attack(toy, "Toy x{restarts}"))
    words = ("attack", runs / "one", "--eps", "0.1", "--samples", "20", "--attacks", "toy", "--restarts", "3")
    code, out, err = run(*words, "--no-transfer", "--output", "a")
    assert (code, err) == (0, "")
    assert "Toy x3" in out
    document = json.loads((tmp_path / "a" / "attack.json").read_text())
    assert [list(model["attacks"]) for model in document["models"]] == [["toy"], ["toy"]]
    one_line(
        run("attack", runs / "one", "--attacks", "luck"), "--attacks: 'luck' is unknown; choose one of 'fgsm'", "'toy'"
    )


def test_a_bound_that_is_registered_runs_from_the_command_line(
    run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "toy", Method(lambda evidence: evidence.take(evidence.margins + 1.0)))
    code, out, _ = run("certify", runs / "one", "--eps", "0.02", "--samples", "20", "--method", "toy", "--json")
    assert code == 0
    certified = json.loads(out)["models"][1]["certified"]
    assert list(certified) == ["global", "interval", "linear", "toy"]
    assert certified["toy"][0] > certified["linear"][0]
    one_line(run("certify", runs / "one", "--method", "luck"), "--method: 'luck' is unknown; choose one of 'global'")


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


def test_checks_that_fail_are_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "saturated.py").write_text(SATURATED)  # tanh' is 0 for most samples
    assert run("fit", "--model", "saturated:make", "--data", "digits", "--samples", "60", "--output", "f")[0] == 0
    code, out, _ = run("attack", "f", "--eps", "0.3", "--steps", "3", "--restarts", "1", "--queries", "100")
    assert code == 0
    assert re.search(r"Check: f: \d+\.\d+ % of the samples have no gradient at all\.", out)
    assert "Check: f: square is stronger than the white-box PGD, by " in out
    assert "All checks passed" not in out


def test_progress_off_a_terminal(run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LOG_SECONDS", 0.0)
    code, out, err = run("attack", runs / "one", "--eps", "0.1", "--samples", "10", "--steps", "2", "--json")
    assert code == 0
    json.loads(out)
    assert re.search(r"^baseline: pgd, ε = 0.1: 1 of 7, .* left$", err, re.MULTILINE)
    assert err.rstrip().splitlines()[-1] == f"{runs / 'one'}: checks: 7 of 7"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--eps", "wide"), "eps 'wide'"),
        (("--eps", "-0.1"), "eps '-0.1'"),
        (("--eps", "3"), "wider than the range"),
        (("--eps", "0.1", "--eps", "1/10"), "--eps: 0.1, 1/10 names a radius twice"),
        (("--samples", "0"), "--samples must be between 1 and the 360"),
        (("--samples", "361"), "--samples must be between 1 and the 360"),
        (("--seed", "-1"), "--seed must be"),
        (("--steps", "-1"), "--steps must be at least"),
        (("--baseline", "nowhere"), "no such folder"),
        (("--data", "mnist"), "'mnist'"),
    ],
)
def test_bad_options(run: Run, runs: Path, tmp_path: Path, command: str, options: tuple[str, ...], told: str) -> None:
    one_line(run(command, runs / "one", *options, "--output", "x"), told)
    assert files(tmp_path) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_runs_that_are_none_or_do_not_belong_together(run: Run, runs: Path, tmp_path: Path, command: str) -> None:
    one_line(run(command), "RUN")
    one_line(run(command, "nowhere"), "no such folder")
    one_line(run(command, runs / "one", runs / "one"), "named twice")
    one_line(run(command, runs / "one", runs / "far"), "of another baseline than", "--baseline")
    np.savez("two.npz", inputs=np.random.default_rng(0).random((40, 5)).astype(np.float32), labels=np.arange(40) % 2)
    assert run("baseline", "--data", "two.npz", "--arch", "3", "--epochs", "1", "--output", "small")[0] == 0
    one_line(run(command, runs / "one", "--baseline", "small"), "has 64 inputs and 10 outputs, a sample of")
    (tmp_path / "broken").mkdir()
    for path in (runs / "one").iterdir():
        (tmp_path / "broken" / path.name).write_bytes(
            path.read_bytes()[: 200 if path.suffix == ".safetensors" else None]
        )
    one_line(run(command, "broken", "--baseline", runs / "base"), "model.safetensors")


def test_own_arrays_in_their_own_range(run: Run) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    inputs = (10.0 * rng.normal(size=(200, 6)) + 60.0 * labels[:, None]).astype(np.float32)
    np.savez("mine.npz", inputs=inputs, labels=labels)
    assert run("baseline", "--data", "mine.npz", "--arch", "6", "--epochs", "20", "--output", "base")[0] == 0
    assert run("fit", "base", "--samples", "80", "--output", "f")[0] == 0
    words = ("f", "--eps", "1", "--eps", "30", "--json")
    attacked = json.loads(run("attack", *words, "--steps", "5")[1])["models"][1]
    certified = json.loads(run("certify", *words)[1])["models"][1]["certified"]["linear"]
    assert certified[0] > 0.5
    assert certified[0] <= attacked["worst"][0]
    assert certified[1] <= attacked["worst"][1] < attacked["clean"]


def test_bad_counts_of_attack(run: Run, runs: Path) -> None:
    one_line(run("attack", runs / "one", "--restarts", "0"), "--restarts must be at least 1")
    one_line(run("attack", runs / "one", "--queries", "0"), "--queries must be at least 1")


def test_a_model_that_is_not_well_posed_is_refused(run: Run, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "ill").mkdir()
    for path in (runs / "one").iterdir():
        (tmp_path / "ill" / path.name).write_bytes(path.read_bytes())
    model = sp.load(runs / "one")
    n = model.n_states
    ill = sp.ImplicitModel.from_matrices(2.0 * np.eye(n), model.B, model.C, model.D, activation=model.groups)
    sp.save(ill, tmp_path / "model")
    for path in (tmp_path / "model").iterdir():
        path.replace(tmp_path / "ill" / path.name)
    for command in COMMANDS:
        one_line(run(command, "ill", "--baseline", runs / "base", "--samples", "5", "--output", "x"), "λ_pf")
    assert not (tmp_path / "x").exists()


def test_outputs_are_not_overwritten(run: Run, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("")
    for command in COMMANDS:
        one_line(run(command, runs / "one", "--output", "taken"), "exists already")
        one_line(run(command, runs / "one", "--output", runs / "one", "--overwrite"), "is or holds")
    assert files(tmp_path) == ["taken", "taken/precious"]


def test_a_missing_extra_is_told(run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise sp.MissingExtraError("AutoAttack needs pyautoattack: pip install 'simplicit[attacks]'")

    monkeypatch.setitem(ATTACKS, "autoattack", dataclasses.replace(ATTACKS["autoattack"], check=missing))
    one_line(run("attack", runs / "one", "--attacks", "autoattack"), "pip install 'simplicit[attacks]'")
