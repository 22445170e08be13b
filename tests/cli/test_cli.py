"""The command line as a user meets it: help, the main road, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simplicit as sp
from command_line import Run
from simplicit.cli import main

COMMANDS = ("demo", "baseline", "fit", "eval")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small baseline on digits and a fit of it."""
    folder = tmp_path_factory.mktemp("runs")
    base, fit = str(folder / "base"), str(folder / "fit")
    assert (
        main(["baseline", "--arch", "24-12", "--no-bias", "--epochs", "15", "--batch-size", "64", "--output", base])
        == 0
    )
    assert main(["fit", base, "--samples", "200", "--sparsity", "50", "--output", fit]) == 0
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_gives_an_example(run: Run, command: str) -> None:
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert f"Example: simplicit {command}" in out
    assert "Usage: simplicit" in out
    assert "--json" in out
    assert "Output" in out


def test_bare_command_shows_the_commands(run: Run) -> None:
    for words in ((), ("--help",), ("-h",)):
        code, out, _ = run(*words)
        assert code == 0
        assert all(command in out for command in COMMANDS)


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"simplicit {sp.__version__}\n", "")


def test_the_module_is_the_command() -> None:
    for words, code in ((["--version"], 0), (["fit", "nowhere"], 2)):
        done = subprocess.run([sys.executable, "-m", "simplicit", *words], capture_output=True, text=True, check=False)
        assert done.returncode == code
    assert done.stderr.count("\n") == 1


def test_baseline_folder_and_json(run: Run, tmp_path: Path) -> None:
    code, out, err = run("baseline", "--arch", "8", "--epochs", "2", "--output", "b", "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert (figures["folder"], figures["widths"], figures["bias"]) == ("b", [64, 8, 10], True)
    assert files(tmp_path) == ["b", "b/config.json", "b/run.json", "b/weights.safetensors"]
    manifest = json.loads((tmp_path / "b" / "run.json").read_text())
    assert manifest["command"] == ["simplicit", "baseline", "--arch", "8", "--epochs", "2", "--output", "b", "--json"]
    assert manifest["results"]["test_accuracy"] == figures["test_accuracy"]


def test_fit_writes_a_model_with_its_certificates(runs: Path) -> None:
    assert files(runs / "fit") == ["config.json", "model.safetensors", "rows.json", "run.json"]
    model = sp.load(runs / "fit")
    manifest = json.loads((runs / "fit" / "run.json").read_text())
    results = manifest["results"]
    assert abs(results["sparsity"] - 50) <= 0.5
    assert results["rows_certified"] == results["rows"] == 46
    assert results["non_zeros"] == model.nnz
    rows = json.loads((runs / "fit" / "rows.json").read_text())
    assert rows["status"] == ["converged"] * 46
    assert sum(rows["nnz"]) == model.nnz
    assert max(rows["relative_gap"]) <= 1e-6
    assert manifest["settings"]["baseline"] == "../base"
    assert set(manifest["inputs"]["network"]) == {"config.json", "weights.safetensors", "state_dict"}


def test_fit_prints_its_summary(run: Run, runs: Path) -> None:
    code, out, err = run("fit", runs / "base", "--samples", "100", "--output", "f")
    assert (code, err) == (0, "")
    assert "46 of 46 certified" in out
    assert "accuracy" in out
    assert "simplicit eval f" in out


def test_a_run_repeats_bit_for_bit(run: Run, runs: Path, tmp_path: Path) -> None:
    code, out, _ = run("fit", "--config", runs / "fit" / "run.json", "--output", "again", "--json")
    assert code == 0
    assert json.loads(out)["sparsity"] == pytest.approx(50, abs=0.5)
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (runs / "fit" / weights).read_bytes()


def test_options_win_over_the_config(run: Run, runs: Path) -> None:
    code, out, _ = run("fit", "--config", runs / "fit", "--sparsity", "30", "--output", "again", "--json")
    assert code == 0
    assert json.loads(out)["sparsity"] == pytest.approx(30, abs=0.5)
    assert json.loads(out)["samples"] == 200


def test_a_run_on_changed_inputs_is_not_repeated(run: Run, runs: Path, tmp_path: Path) -> None:
    run("baseline", "--arch", "8", "--epochs", "1", "--output", "b")
    run("fit", "b", "--samples", "50", "--output", "f")
    run("baseline", "--arch", "8", "--epochs", "2", "--output", "b", "--overwrite")
    code, _, err = run("fit", "--config", "f", "--output", "g")
    assert code == 2
    assert "changed since that run" in err
    assert run("fit", "b", "--config", "f", "--output", "g")[0] == 0


def test_eval_json_is_complete(run: Run, runs: Path) -> None:
    code, out, err = run("eval", runs / "fit", "--eps", "8/255", "--eps", "0.1", "--pgd-steps", "5", "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)["evaluation"]
    assert [attack["eps"] for attack in figures["attacks"]] == ["8/255", "0.1"]
    assert figures["samples"] == figures["attacked_samples"] == 360
    assert figures["sparsity_of_size"] > figures["sparsity"]
    assert figures["perron_frobenius"] == {"value": 0.0, "lower": 0.0, "upper": 0.0}
    assert 0 < figures["norm_inf"] <= 0.99
    assert figures["equilibrium_method"] == "substitution"
    assert figures["accuracy"] > 0.7
    for attack in figures["attacks"]:
        assert attack["pgd"] <= figures["accuracy"]
        assert attack["baseline_pgd"] <= figures["baseline_accuracy"]


def test_eval_prints_and_writes(run: Run, runs: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "eval", runs / "fit", "--eps", "0.1", "--pgd-steps", "2", "--attack-samples", "50", "--output", "e"
    )
    assert code == 0
    for words in ("PGD-2, ε = 0.1", "agreement", "λ_pf", "storage", "substitution", "first 50 test samples"):
        assert words in out
    assert files(tmp_path) == ["e", "e/evaluation.json", "e/run.json"]
    assert set(json.loads((tmp_path / "e" / "run.json").read_text())["inputs"]) == {"network", "data", "model"}


def test_demo_tells_the_whole_story(run: Run, tmp_path: Path) -> None:
    code, out, err = run("demo", "--sparsity", "60", "--samples", "150", "--pgd-steps", "3", "--output", "d", "--json")
    assert (code, err) == (0, "")
    frontier = json.loads(out)
    (point,) = frontier["points"]
    assert abs(point["sparsity"] - 60) <= 0.5
    assert point["rows"] == point["rows_certified"] == 394
    assert frontier["baseline"]["accuracy"] > 0.94
    assert {path.name for path in (tmp_path / "d").iterdir()} == {
        "baseline",
        "frontier.json",
        "picture.png",
        "run.json",
        "sparsity-60",
    }
    assert run("eval", "d/sparsity-60", "--eps", "0.1", "--pgd-steps", "2", "--attack-samples", "20")[0] == 0


OWN = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 10))
def three_classes():
    return nn.Linear(64, 3)
def unsupported():
    return nn.Sequential(nn.Linear(64, 12), nn.LayerNorm(12), nn.Linear(12, 10))
"""


def own_network(folder: Path) -> str:
    name = f"own_{abs(hash(folder))}"
    (folder / f"{name}.py").write_text(OWN)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(12, 10)
    )
    torch.save({"state_dict": net.state_dict()}, folder / "w.pt")
    return name


def test_own_network_from_checkpoint_to_eval(run: Run, tmp_path: Path) -> None:
    name = own_network(tmp_path)
    words = ("--model", f"{name}:make", "--weights", "w.pt", "--data", "digits", "--input-shape", "1x8x8")
    assert run("fit", *words, "--samples", "100", "--output", "f")[0] == 0
    code, out, _ = run("eval", "f", "--eps", "0.1", "--pgd-steps", "2", "--json")
    assert code == 0
    assert json.loads(out)["evaluation"]["agreement"] > 0.5


def one_line(result: tuple[int, str, str], *told: str) -> None:
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for words in told:
        assert words in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--samples", "0"), "samples must be at least 1"),
        (("--samples", "5000"), "between 1 and the 1437"),
        (("--kappa", "0"), "kappa"),
        (("--kappa", "1", "--structure", "dense"), "kappa"),
        (("--kappa", "nan"), "kappa"),
        (("--sparsity", "100"), "sparsity"),
        (("--sparsity", "-1"), "sparsity"),
        (("--lambda1", "0"), "lambda1"),
        (("--tol", "0"), "tol"),
        (("--beta", "-1"), "Error: --beta must be finite and >= 0, got -1"),
        (("--workers", "0"), "workers"),
        (("--structure", "round"), "--structure"),
        (("--samples", "many"), "--samples"),
        (("--no-such-option",), "--no-such-option"),
        (("--data", "mnist"), "'mnist': neither a known data set"),
        (("--data", "fashion-mnist", "--data-dir", "."), "no Fashion-MNIST here"),
        (("--input-shape", "3x3"), "input shape 3x3 has 9 values"),
        (("--input-shape", "8,8"), "expected positive sizes"),
        (("--model", "a:b"), "name one network"),
        (("--config", "none.json"), "none.json: cannot be read"),
    ],
)
def test_bad_options_of_fit(run: Run, runs: Path, tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    one_line(run("fit", runs / "base", *options), told)
    assert files(tmp_path) == []


def test_bad_networks(run: Run, tmp_path: Path) -> None:
    name = own_network(tmp_path)
    before = files(tmp_path)
    digits = ("--data", "digits", "--output", "out")
    one_line(run("fit"), "name one network")
    one_line(run("fit", "nowhere"), "no such folder")
    one_line(run("fit", "--model", f"{name}:make"), "needs --data")
    one_line(run("fit", "--model", f"{name}:absent", *digits), "has no 'absent'")
    one_line(run("fit", "--model", f"{name}:three_classes", *digits), "labels of digits do not fit")
    one_line(run("fit", "--model", f"{name}:unsupported", *digits), "layer_norm")
    one_line(run("fit", "--model", f"{name}:unsupported", "--weights", "w.pt", *digits), "not the weights")
    one_line(run("fit", "--weights", "w.pt", *digits), "name the network")
    one_line(run("fit", "--weights", "p.pt2", *digits), "--trust-pt2")
    assert [path for path in files(tmp_path) if "__pycache__" not in path] == before


def test_bad_data(run: Run, runs: Path, tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).random((50, 64)).astype(np.float32)
    labels = np.arange(50) % 10
    inputs[3, 4] = np.nan
    np.savez("nan.npz", inputs=inputs, labels=labels)
    one_line(run("fit", runs / "base", "--data", "nan.npz"), "sample 3 has the value nan at place 4")
    Path("cut.npz").write_bytes(Path("nan.npz").read_bytes()[:500])
    one_line(run("fit", runs / "base", "--data", "cut.npz"), "cut.npz: damaged or truncated")
    np.savez("narrow.npz", inputs=inputs[5:, :60], labels=labels[5:])
    one_line(run("fit", runs / "base", "--data", "narrow.npz"), "(m, 60)")
    np.savez("classes.npz", inputs=inputs[5:], labels=labels[5:] + 5)
    one_line(run("fit", runs / "base", "--data", "classes.npz"), "labels of classes.npz do not fit")
    assert files(tmp_path) == ["classes.npz", "cut.npz", "nan.npz", "narrow.npz"]


def test_all_samples_are_taken_if_there_are_few_and_no_number_is_asked_for(run: Run, runs: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez("few.npz", inputs=rng.random((50, 64)).astype(np.float32), labels=np.arange(50) % 10)
    assert run("fit", runs / "base", "--data", "few.npz", "--output", "f")[0] == 0
    assert 1 <= json.loads(Path("f/run.json").read_text())["settings"]["samples"] <= 50
    one_line(run("fit", runs / "base", "--data", "few.npz", "--samples", 51), "samples must be between 1 and the")


def test_own_arrays_from_baseline_to_eval(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    inputs = (rng.normal(size=(200, 6)) + 4 * labels[:, None]).astype(np.float32)
    np.savez("mine.npz", inputs=inputs, labels=labels)
    assert run("baseline", "--data", "mine.npz", "--arch", "6", "--epochs", "20", "--output", "deep/base")[0] == 0
    assert run("fit", "deep/base", "--samples", "80", "--output", "f")[0] == 0
    code, out, _ = run("eval", "f", "--eps", "0.1", "--json")
    assert code == 0
    assert json.loads(out)["evaluation"]["accuracy"] > 0.9


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "run.json"])
def test_eval_of_a_damaged_run(run: Run, runs: Path, tmp_path: Path, name: str) -> None:
    Path("fit").mkdir()
    for path in (runs / "fit").iterdir():
        content = path.read_bytes()
        (tmp_path / "fit" / path.name).write_bytes(content[: len(content) // 2] if path.name == name else content)
    one_line(run("eval", "fit", "--baseline", runs / "base"), name)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--eps", "wide"), "eps 'wide'"),
        (("--eps", "-0.1"), "eps '-0.1'"),
        (("--eps", "3"), "wider than the range"),
        (("--pgd-steps", "0"), "--pgd-steps"),
        (("--attack-samples", "0"), "--attack-samples"),
        (("--baseline", "nowhere"), "no such folder"),
        (("--data", "mnist"), "'mnist'"),
    ],
)
def test_bad_options_of_eval(run: Run, runs: Path, tmp_path: Path, options: tuple[str, ...], told: str) -> None:
    one_line(run("eval", runs / "fit", *options, "--output", "e"), told)
    assert files(tmp_path) == []


def test_eval_of_something_else(run: Run, runs: Path) -> None:
    one_line(run("eval", runs / "base"), "written by `simplicit baseline`")
    one_line(run("eval", "nowhere"), "no such folder")
    one_line(run("eval"), "RUN")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("baseline", "--arch", "64x32"), "arch '64x32'"),
        (("baseline", "--activation", "cosine"), "activation 'cosine'"),
        (("baseline", "--epochs", "0"), "epochs"),
        (("baseline", "--data", "mnist"), "'mnist'"),
        (("demo", "--sparsity", "100"), "sparsity"),
        (("demo", "--eps", "x"), "eps 'x'"),
        (("demo", "--samples", "0"), "samples"),
        (("demmo",), "demmo"),
    ],
)
def test_bad_options_of_the_others(run: Run, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    one_line(run(*words), told)
    assert files(tmp_path) == []


def test_existing_output_is_kept(run: Run, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("")
    for words in (("baseline",), ("fit", runs / "base"), ("eval", runs / "fit"), ("demo",)):
        one_line(run(*words, "--output", "taken"), "exists already", "--overwrite")
        one_line(run(*words, "--output", "taken", "--overwrite"), "not the folder of an earlier run")
    assert files(tmp_path) == ["taken", "taken/precious"]


def test_interrupt_leaves_nothing(run: Run, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simplicit.runs.demo.run_fit", interrupted)
    monkeypatch.setattr("simplicit.cli.fit.run_fit", interrupted)
    for words in (("fit", runs / "base"), ("demo",)):
        code, out, err = run(*words, "--output", "deep/out")
        assert (code, out) == (130, "")
        assert err.strip() == "Error: interrupted"
    assert files(tmp_path) == []


def test_the_installed_command_exits_with_the_code(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from simplicit.cli import main; sys.exit(main())", "fit", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: baseline nowhere")


def test_a_run_never_destroys_its_inputs(run: Run, tmp_path: Path) -> None:
    assert run("baseline", "--arch", "8", "--epochs", "1", "--output", "b")[0] == 0
    assert run("fit", "b", "--samples", "50", "--output", "f")[0] == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    one_line(run("fit", "b", "--samples", "50", "--output", "b", "--overwrite"), "is or holds b, which this run")
    one_line(
        run("eval", "f", "--eps", "0.1", "--pgd-steps", "1", "--output", "f", "--overwrite"),
        "is or holds f, which this run",
    )
    one_line(run("fit", "f", "--output", "g"), "written by `simplicit fit`", "`simplicit baseline` is needed")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_eval_refuses_another_baseline_than_that_of_the_fit(run: Run, tmp_path: Path) -> None:
    assert run("baseline", "--arch", "8", "--epochs", "1", "--output", "b")[0] == 0
    assert run("fit", "b", "--samples", "50", "--output", "f")[0] == 0
    assert run("baseline", "--arch", "8", "--epochs", "2", "--output", "b", "--overwrite")[0] == 0
    words = ("eval", "f", "--eps", "0.1", "--pgd-steps", "1")
    one_line(run(*words), "weights.safetensors", "changed since that run")
    assert run(*words, "--baseline", "b")[0] == 0
    (tmp_path / "b").rename(tmp_path / "elsewhere")
    one_line(run(*words), "no such folder", "--baseline")


def test_a_network_without_weights_is_told(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = own_network(tmp_path)
    words = ("--model", f"{name}:make", "--data", "digits", "--samples", "50")
    assert run("fit", *words, "--output", "f")[0] == 0
    assert "no --weights" in caplog.text
    one_line(run("fit", "--config", "f", "--output", "g"), "state_dict changed since that run")
