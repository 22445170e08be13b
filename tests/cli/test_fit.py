"""``simplicit fit`` as a user meets it: what is written, how it is repeated, and one line for every mistake."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import simplicit as sp
from command_line import Run, files, manifest, one_line, settings
from simplicit.cli.commands import COMMANDS
from simplicit.cli.fit import fit
from simplicit.runs.settings import FitSettings

WEIGHTS = "model.safetensors"
#: Non-zero weights that the baseline has.
TOTAL = 64 * 12 + 12 * 8 + 8 * 10


@pytest.fixture
def settings_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FitSettings]:
    """The settings that ``simplicit fit`` makes of words, without a fit."""
    found: list[FitSettings] = []
    monkeypatch.setitem(COMMANDS, "fit", functools.wraps(fit)(lambda settings, *_, **__: found.append(settings)))

    def made(*words: object) -> FitSettings:
        assert run("fit", *words) == (0, "", "")
        return found.pop()

    return made


def rows(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "rows.json").read_text())
    return found


def same(folder: str | Path, other: str | Path) -> bool:
    """Whether two models are equal to the bit."""
    return Path(folder, WEIGHTS).read_bytes() == Path(other, WEIGHTS).read_bytes()


# --- what is written, and how it is repeated --------------------------------------------------------------------------


def test_states_in_a_folder_change_nothing(run: Run, base: Path, fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplicit.training.channels.store.BUDGET", 0)
    words = ("--samples", 100, "--sparsity", 50, "--cache", "c", "--output", "f")
    code, out, err = run("fit", base, *words)
    assert code == 0
    assert err.startswith("The fit takes up to ")
    assert "states     up to " in out
    assert same("f", fitted("sparse"))
    assert not Path("c").exists()
    assert "cache" not in settings("f")
    Path("c").touch()
    one_line(run("fit", base, *words[:-1], "g"), "--cache c: is no folder; name one")


def test_a_model_with_its_certificates(fitted: Any) -> None:
    folder = fitted("sparse")
    assert files(folder) == ["config.json", WEIGHTS, "rows.json", "run.json", "weights.safetensors"]
    model, results = sp.load(folder), manifest(folder)["results"]
    assert abs(results["sparsity"] - 50) <= 0.5
    assert results["rows_certified"] == results["rows"] == 30
    assert results["non_zeros"] == model.nnz == TOTAL // 2
    found = rows(folder)
    assert found["status"] == ["converged"] * 30
    assert sum(found["nnz"]) == model.nnz
    assert max(found["relative_gap"]) <= 1e-6
    assert settings(folder)["baseline"] == "../base"
    assert set(manifest(folder)["inputs"]["network"]) == {"config.json", "weights.safetensors", "state_dict", "tensors"}


def test_a_run_repeats_bit_for_bit_and_prints_its_summary(run: Run, fitted: Any) -> None:
    code, out, err = run("fit", "--config", fitted("sparse") / "run.json", "--output", "again")
    assert (code, err) == (0, "")
    assert same("again", fitted("sparse"))
    for told in ("30 of 30 certified", "one price for a weight", "accuracy", "simplicit eval again"):
        assert told in out


def test_options_win_over_the_config(run: Run, fitted: Any) -> None:
    code, out, _ = run("fit", "--config", fitted("sparse"), "--sparsity", "30", "--output", "again", "--json")
    assert code == 0
    assert json.loads(out)["sparsity"] == pytest.approx(30, abs=0.5)
    assert json.loads(out)["samples"] == 100


def test_a_recipe_is_recorded_as_what_it_stands_for(fitted: Any) -> None:
    recorded = settings(fitted("sparse"))
    assert (recorded["recipe"], recorded["sparsity"], recorded["candidates"]) == ("sparse", 50.0, "none")
    # What depends on the network is not a setting; what it came to is a figure.
    assert (recorded["ridge"], recorded["anchor"]) == (None, None)
    results = manifest(fitted("sparse"))["results"]
    assert (results["ridge"], results["anchor"]) == (pytest.approx(0.01 / 0.5**0.5), 0.6)
    assert (settings(fitted("paper"))["recipe"], settings(fitted("paper"))["kappa"]) == ("paper", 0.99)


@pytest.mark.slow
def test_a_robust_fit_repeats_and_another_recipe_replaces_it(run: Run, fitted: Any) -> None:
    recorded = settings(fitted("robust"))
    names = ("recipe", "hidden_strength", "attacks", "beta", "clip")
    assert tuple(recorded[name] for name in names) == ("robust", 0.3, 1, 1.3e-3, None)
    code, out, _ = run("fit", "--config", fitted("robust"), "--output", "b")
    assert code == 0
    assert "hidden_strength 0.3, attacks 1" in " ".join(out.split())
    assert same("b", fitted("robust"))
    words = ("--recipe", "certified", "--attacks", 0)
    assert run("fit", "--config", fitted("robust"), *words, "--output", "c")[0] == 0
    recorded = settings("c")
    assert tuple(recorded[name] for name in names) == ("certified", 3.0, 0, 1.5e-3, None)


def test_a_run_on_changed_inputs_is_not_repeated(run: Run, base: Path, fitted: Any) -> None:
    shutil.copytree(base, "base")
    shutil.copytree(fitted("matching"), "fit")
    words = ("fit", "--config", "fit", "--output", "g")
    Path("base", "config.json").write_text(Path("base", "config.json").read_text() + " ")
    one_line(run(*words), "config.json changed since that run")
    assert run(*words, "base")[0] == 0


# --- settings, without a fit ------------------------------------------------------------------------------------------


def test_options_beside_a_recipe_win(settings_of: Callable[..., FitSettings]) -> None:
    found = settings_of("b", "--anchor", 0.1, "--ridge", 0.2, "--structure", "dense", "--sparsity", 95)
    assert found.recipe == sp.Sparse(95, "dense", 0.2, 0.1)
    words = ("--kappa", "none", "--structure", "feedforward", "--regenerate")
    recipe = settings_of("b", "--recipe", "paper", *words).recipe
    assert (recipe.kappa, recipe.structure, recipe.regenerate, recipe.normalize) == (None, "feedforward", True, "none")
    recipe = settings_of("b", "--recipe", "robust", "--hidden-strength", "1,3", "--clip", -1, 1).recipe
    assert recipe == sp.Robust(hidden_strength=(1.0, 3.0), clip=(-1.0, 1.0))


def test_settings_of_all_kinds(settings_of: Callable[..., FitSettings]) -> None:
    words = ("--recipe=matching", "--penalty", "perspective", "--gamma", 3, "--refit", "--anchor", 0.5, "--states=a,b")
    running = ("--executor", "processes", "--workers", 2, "--block-timeout", 9, "--block-rows", 7, "--no-throw")
    found = settings_of("b", *words, "--structure", "dense", *running, "--samples", "none", "--input-shape", "1x8x8")
    recipe, executor = found.recipe, found.running.executor
    assert isinstance(recipe, sp.Matching)
    assert isinstance(recipe.penalty, sp.Perspective)
    assert (recipe.penalty.gamma, recipe.refit, recipe.states) == (3.0, sp.Ridge(1e-3, 0.5), ("a", "b"))
    assert isinstance(executor, sp.Processes)
    assert (executor.workers, executor.block_timeout, found.running.block_rows) == (2, 9.0, 7)
    assert (found.running.throw, found.samples, found.source.input_shape) == (False, None, (1, 8, 8))
    assert settings_of("b").recipe == sp.Sparse()


def test_a_network_of_ones_own_gives_way_to_another(settings_of: Callable[..., FitSettings]) -> None:
    Path("own.toml").write_text('model = "a:b"\nweights = "w.pt"\ninput_shape = "1x8x8"\ndata = "digits"\n')
    source = settings_of("--config", "own.toml").source
    assert (source.model, source.weights, source.input_shape) == ("a:b", Path("w.pt"), (1, 8, 8))
    source = settings_of("b", "--config", "own.toml").source
    assert (source.baseline, source.model, source.weights, source.input_shape) == (Path("b"), None, None, None)
    assert source.data == "digits"


def test_what_is_chosen_replaces_what_was_recorded(settings_of: Callable[..., FitSettings]) -> None:
    text = 'baseline = "b"\nsamples = 50\nrecipe = "matching"\npenalty = "perspective"\ngamma = 7\nrounds = 2\n'
    Path("a.toml").write_text(text)
    recipe = settings_of("--config", "a.toml", "--penalty", "l1").recipe
    assert (repr(recipe.penalty), recipe.rounds) == ("L1(beta=0.001)", 2)
    recipe = settings_of("--config", "a.toml", "--penalty", "perspective", "--alpha", 5).recipe
    assert repr(recipe.penalty) == "Perspective(alpha=5.0, gamma=7.0)"
    assert settings_of("--config", "a.toml", "--ridge", 0.5).recipe.refit == sp.Ridge(0.5)
    found = settings_of("--config", "a.toml", "--recipe", "sparse", "--sparsity", 90)
    assert (found.recipe, found.samples) == (sp.Sparse(90), 50)


def test_a_number_of_another_penalty_than_the_recorded_one_is_refused(run: Run) -> None:
    Path("a.toml").write_text('baseline = "b"\nrecipe = "matching"\npenalty = "perspective"\n')
    words = ("fit", "--config", "a.toml", "--beta", 1)
    one_line(run(*words), "--beta is an option of", "of the penalty l1 or elastic-net")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('penalty = "lasso"', "fit.toml: penalty: 'lasso' is unknown; choose one of 'l1', 'elastic-net'"),
        ("depth = 3", "fit.toml: unknown setting 'depth'"),
        ('samples = "many"', "fit.toml: samples must be an integer or null, got 'many'"),
        ("alpha = 3", "fit.toml: unknown setting 'alpha'"),
        ("samples = 0", "--samples must be an integer of at least 1, got 0"),
    ],
)
def test_nonsense_in_a_config(run: Run, base: Path, text: str, told: str) -> None:
    Path("fit.toml").write_text(f'baseline = "{base.as_posix()}"\nrecipe = "matching"\n{text}\n')
    one_line(run("fit", "--config", "fit.toml"), told)


# --- penalties --------------------------------------------------------------------------------------------------------

MATCHING = ("--recipe", "matching", "--samples", 60)


@pytest.mark.parametrize(
    ("words", "numbers", "shown"),
    [
        (("l1",), {"beta": 1e-3}, "L1(beta=0.001)"),
        (("basis-pursuit",), {}, "BasisPursuit()"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (("elastic-net", "--alpha", 0.5), {"beta": 1e-3, "alpha": 0.5}, "ElasticNet(beta=0.001, alpha=0.5)"),
                (("perspective", "--gamma", 0.2), {"alpha": 1e-3, "gamma": 0.2}, "Perspective(alpha=0.001, gamma=0.2)"),
                (("none",), {}, "NoPenalty()"),
            )
        ),
    ],
)
def test_every_penalty_is_certified_and_recorded(
    run: Run, base: Path, words: tuple[object, ...], numbers: dict[str, float], shown: str
) -> None:
    code, out, err = run("fit", base, *MATCHING, "--penalty", *words, "--output", "f")
    assert (code, err) == (0, "")
    assert shown in " ".join(out.split())
    assert rows("f")["status"] == ["converged"] * 30
    recorded = settings("f")
    assert {name: recorded[name] for name in ("beta", "alpha", "gamma") if name in recorded} == numbers
    assert recorded["penalty"] == words[0]
    priced = words[0] == "perspective"
    assert [gap is not None for gap in rows("f")["cardinality_gap"]] == [priced] * 30
    if words[0] in ("l1", "basis-pursuit"):
        assert run("fit", "--config", "f", "--output", "g")[0] == 0
        assert same("f", "g")


def test_exact_matching_reproduces_the_baseline_on_its_samples(run: Run, base: Path) -> None:
    words = ("--recipe", "matching", "--samples", 40, "--penalty", "basis-pursuit", "--normalize", "none")
    code, out, _ = run("fit", base, *words, "--kappa", 0.99, "--output", "f", "--json")
    assert code == 0
    figures = json.loads(out)
    assert max(layer["error"] for layer in figures["layers"]) <= 1e-6
    assert figures["row_norm"] <= 0.99
    assert figures["non_zeros"] < figures["baseline_weights"]


def test_rows_that_no_model_matches_are_told(run: Run, base: Path) -> None:
    words = ("fit", base, "--recipe", "matching", "--samples", 200, "--penalty", "basis-pursuit", "--kappa", 0.05)
    one_line(run(*words), "rows did not reach", "no coefficients match", "--no-throw")
    assert files() == []
    assert run(*words, "--no-throw", "--output", "f")[0] == 0
    assert "infeasible" in rows("f")["status"]
    assert settings("f")["throw"] is False
    assert abs(sp.load("f").A).sum(axis=1).max() <= 0.05


def test_a_sparsity_is_found_by_the_strength_of_a_penalty(run: Run, base: Path) -> None:
    words = ("--penalty", "perspective", "--sparsity", 60)
    code, out, _ = run("fit", base, *MATCHING, *words, "--output", "f", "--json")
    assert code == 0
    figures = json.loads(out)
    assert abs(figures["sparsity"] - 60) <= 0.5
    assert figures["rows_certified"] == figures["rows"]
    assert figures["trials"] > 1


def test_candidates_of_the_recipe_sparse(run: Run, base: Path) -> None:
    words = ("--candidates", "l1", "--beta", 0.01, "--sparsity", 90, "--samples", 50)
    code, out, _ = run("fit", base, *words, "--output", "f")
    assert code == 0
    assert "candidates L1(beta=0.01)" in " ".join(out.split())
    assert sp.load("f").nnz == int(TOTAL * 0.1 + 1e-9)


# --- networks and data of one's own -----------------------------------------------------------------------------------

OWN = """
import torch
from torch import nn
print("loud import")
def make():
    print("loud call")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 10))
def three_classes():
    return nn.Linear(64, 3)
def unsupported():
    return nn.Sequential(nn.Linear(64, 10), nn.Softmax(0))
def leaves():
    raise SystemExit(3)
class Random(nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.rand_like(x))
def random():
    return Random(64, 10)
def empty():
    return nn.Linear(64, 10, device="meta")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder, with weights beside it."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(OWN)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 10))
    torch.save({"state_dict": net.state_dict()}, tmp_path / "w.pt")
    return name


def test_own_network_from_checkpoint_to_eval(run: Run, own: str) -> None:
    words = ("--model", f"{own}:make", "--weights", "w.pt", "--data", "digits", "--input-shape", "1x8x8")
    code, out, err = run("fit", *words, "--samples", "100", "--output", "f", "--json")
    assert (code, json.loads(out)["samples"]) == (0, 100)
    assert err == "loud import\nloud call\n"
    code, out, _ = run("eval", "f", "--eps", "0.1", "--pgd-steps", "2", "--json")
    assert code == 0
    assert json.loads(out)["evaluation"]["agreement"] > 0.5


def test_a_network_without_weights_is_asked_for_them(run: Run, own: str) -> None:
    words = ("--model", f"{own}:make", "--data", "digits", "--samples", "50")
    told = (f"--weights: none are named, so those that {own}:make makes would be used", "say --own-weights")
    one_line(run("fit", *words, "--output", "f"), *told)
    one_line(run("fit", *words, "--weights", "w.pt", "--own-weights"), "--own-weights: goes with --model alone")
    assert not Path("f").exists()
    code, out, _ = run("fit", *words, "--own-weights", "--output", "f")
    assert code == 0
    assert "Note: the network is right on " in out
    assert "no more than always the most frequent class" in out
    code, _, err = run("fit", "--config", "f", "--output", "g")
    assert code == 2
    assert "state_dict changed since that run (of 4 tensors 1.weight, 1.bias, 4.weight and 1 more)" in err


def test_bad_networks(run: Run, own: str) -> None:
    before = files()
    digits = ("--data", "digits", "--output", "out")
    one_line(run("fit"), "name one network")
    one_line(run("fit", "nowhere"), "no such folder")
    one_line(run("fit", "--model", f"{own}:make", "--own-weights"), "needs --data")
    one_line(run("fit", "--weights", "w.pt", *digits), "name the network")
    one_line(run("fit", "--weights", "p.pt2", *digits), "--trust-pt2")
    for factory, told in (
        ("absent", "has no 'absent'"),
        ("three_classes", "labels of digits do not fit"),
        ("unsupported", "it mixes the samples of a batch"),
        ("leaves", "SystemExit: 3"),
        ("random", "operation 'rand_like'"),
        ("empty", "parameter 'weight' has no values (device meta)"),
    ):
        code, out, err = run("fit", "--model", f"{own}:{factory}", "--own-weights", *digits)
        assert (code, out, err.count("Error: ")) == (2, "", 1)
        assert told in err.splitlines()[-1]
    one_line(run("fit", "--model", f"{own}:unsupported", "--weights", "w.pt", *digits), "not the weights")
    assert files() == before


def test_bad_data(run: Run, base: Path) -> None:
    inputs = np.random.default_rng(0).random((50, 64)).astype(np.float32)
    labels = np.arange(50) % 10
    inputs[3, 4] = np.nan
    np.savez("nan.npz", inputs=inputs, labels=labels)
    one_line(run("fit", base, "--data", "nan.npz"), "sample 3 has the value nan at place 4")
    Path("cut.npz").write_bytes(Path("nan.npz").read_bytes()[:500])
    one_line(run("fit", base, "--data", "cut.npz"), "cut.npz: damaged or truncated")
    np.savez("narrow.npz", inputs=inputs[5:, :60], labels=labels[5:])
    one_line(run("fit", base, "--data", "narrow.npz"), "(m, 60)")
    np.savez("classes.npz", inputs=inputs[5:], labels=labels[5:] + 5)
    one_line(run("fit", base, "--data", "classes.npz"), "labels of classes.npz do not fit")
    assert files() == ["classes.npz", "cut.npz", "nan.npz", "narrow.npz"]


def test_all_samples_are_taken_if_there_are_few_and_no_number_is_asked_for(run: Run, base: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez("few.npz", inputs=rng.random((50, 64)).astype(np.float32), labels=np.arange(50) % 10)
    assert run("fit", base, "--data", "few.npz", "--output", "f")[0] == 0
    assert settings("f")["samples"] is None
    assert 1 <= manifest("f")["results"]["samples"] <= 50
    one_line(run("fit", base, "--data", "few.npz", "--samples", 51), "--samples must be between 1 and the")


def test_own_arrays_from_baseline_to_eval(run: Run) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    np.savez("mine.npz", inputs=(rng.normal(size=(200, 6)) + 4 * labels[:, None]).astype(np.float32), labels=labels)
    assert run("baseline", "--data", "mine.npz", "--arch", "6", "--epochs", "20", "--output", "deep/base")[0] == 0
    assert run("fit", "deep/base", "--samples", "80", "--sparsity", "50", "--output", "f")[0] == 0
    code, out, _ = run("eval", "f", "--eps", "0.1", "--json")
    assert code == 0
    assert json.loads(out)["evaluation"]["accuracy"] > 0.9


CONVOLUTIONS = """
import torch
from torch import nn
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.last = nn.Linear(27, 10)
    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(x + self.inner(torch.relu(x)))
        return self.last(x.flatten(1))
def make():
    torch.manual_seed(0)
    return Small()
"""
QUICK = ("--eps", "0.01", "--pgd-steps", "2", "--attack-samples", "20")


@pytest.fixture
def images(tmp_path: Path) -> tuple[str, ...]:
    """Words that name a network with convolutions."""
    name = f"images_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(CONVOLUTIONS)
    return ("--model", f"{name}:make", "--own-weights", "--data", "digits", "--input-shape", "1x8x8")


@pytest.mark.slow
def test_a_network_with_convolutions(run: Run, images: tuple[str, ...]) -> None:
    code, _, err = run("fit", *images, "--samples", "60", "--sparsity", "60", "--output", "f")
    assert code == 0, err
    results = manifest("f")["results"]
    # The recipe has numbers of its own for tied rows.
    assert (settings("f")["ridge"], settings("f")["anchor"]) == (None, None)
    assert (results["ridge"], results["anchor"]) == (0.01, 1.0)
    code, out, _ = run("export", "f", "--output", "w.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["non_zeros"] == results["non_zeros"]
    assert load_file("w.safetensors").keys() >= {"conv.weight", "norm.running_var", "last.bias"}
    code, out, _ = run("eval", "f", *QUICK, "--json")
    assert code == 0
    figures = json.loads(out)["evaluation"]
    assert figures["sparsity"] == pytest.approx(results["sparsity"])
    assert figures["storage_bits"] is None
    assert run("eval", "f", *QUICK)[0] == 0
    one_line(run("fit", *images, "--recipe", "matching", "--kappa", 0.9), "--kappa: got 0.9; a network with tied rows")


@pytest.mark.slow
def test_chosen_states_from_the_command_to_the_measures(run: Run, images: tuple[str, ...]) -> None:
    words = ("--recipe", "matching", "--states", "blocks", "--structure", "feedforward", "--beta", "1e-4")
    code, out, _ = run("fit", *images, "--samples", "150", *words, "--output", "run")
    assert code == 0
    assert "64 of 64 certified" in out
    assert (settings("run")["states"], settings("run")["kappa"]) == ("blocks", None)
    model = sp.load("run")
    assert [group.size for group in model.groups] == [27, 27]
    assert manifest("run")["results"]["agreement"] > 0.8
    assert run("eval", "run", *QUICK)[0] == 0
    assert run("attack", "run", "--samples", "20", "--steps", "5")[0] == 0
    assert run("fit", "--config", "run/run.json", "--output", "again")[0] == 0
    assert same("run", "again")


@pytest.mark.slow
def test_the_default_ball_is_for_structures_with_cycles(run: Run, images: tuple[str, ...]) -> None:
    words = ("--samples", "60", "--recipe", "matching", "--states", "relu_2", "--structure", "dense")
    code, out, _ = run("fit", *images, *words, "--output", "run", "--json")
    assert code == 0
    assert settings("run")["kappa"] is None
    assert 0.9 < json.loads(out)["row_norm"] <= 0.99


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--samples", 0), "--samples must be an integer of at least 1"),
        (("--samples", 5000), "--samples must be between 1 and the 1437"),
        (("--seed", -3), "--seed must be"),
        (("--sparsity", 100), "--sparsity is in per cent, from 0 to below 100, got 100"),
        (("--sparsity", -1), "--sparsity must be"),
        (("--sparsity", 0.8), "--sparsity is in per cent, got 0.8; did you mean 80?"),
        (("--sparsity", 30, "--pattern", "2:4"), "--sparsity: 30 % contradicts the pattern 2:4"),
        (("--pattern", "2:1"), "--pattern: expected N:M with 0 < N < M"),
        (("--layers", "0=2:1"), "--layers: expected for '0' a number of per cent, or N:M"),
        (("--structure", "round"), "--structure: 'round' is unknown"),
        (("--ridge", -1), "--ridge must be"),
        (("--anchor", 2), "--anchor must lie between 0 and 1"),
        (("--candidates", "basis-pursuit"), "--candidates: BasisPursuit matches exactly"),
        (("--tol", 0), "--tol: must lie between 0 and 1"),
        (("--workers", 0), "--workers must be an integer of at least 1"),
        (("--data", "mnist"), "'mnist': neither a known data set"),
        (("--data", "fashion-mnist", "--data-dir", "."), "no fashion-mnist here"),
        (("--input-shape", "3x3"), "--input-shape: 3x3 has 9 values"),
        (("--input-shape", "8,8"), "--input-shape: expected positive sizes"),
        (("--model", "a:b"), "name one network"),
        (("--config", "none.json"), "none.json: cannot be read"),
    ],
)
def test_bad_options(run: Run, base: Path, words: tuple[object, ...], told: str) -> None:
    one_line(run("fit", base, *words), told)
    assert files() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--kappa", 0), "--kappa must be"),
        (("--kappa", "nan"), "--kappa must be"),
        (("--kappa", "much"), 'Invalid value for --kappa: unable to convert "much" into'),
        (("--kappa", 1, "--structure", "dense"), "structure 'dense' needs 0 < kappa < 1"),
        (("--lambda1", 0), "--lambda1 must be"),
        (("--beta", -1), "Error: --beta must be finite and >= 0, got -1"),
        (("--normalize", "all"), "--normalize"),
        (("--rounds", 0), "--rounds must be"),
        (("--alpha", 1), "--alpha is an option of the penalty elastic-net or perspective; add --penalty elastic-net"),
        (
            ("--penalty", "none", "--beta", 1),
            "--beta is an option of the recipe robust, certified or paper and of the penalty l1",
        ),
        (("--penalty", "perspective", "--alpha", 0), "alpha must be finite and > 0"),
        (("--sparsity", 50, "--penalty", "none"), "--sparsity: NoPenalty() gives no zeros"),
        (("--sparsity", 50, "--penalty", "perspective", "--gamma", 0), "gives no zeros"),
        (("--sparsity", 50, "--penalty", "elastic-net", "--beta", 0), "gives no zeros"),
        (("--sparsity", 50, "--beta", 0), "--sparsity: L1(beta=0.0) gives no zeros"),
        (("--sparsity", 50, "--penalty", "basis-pursuit"), "--sparsity: BasisPursuit() matches exactly"),
        (("--refit", "--penalty", "basis-pursuit"), "--refit: BasisPursuit matches exactly"),
        (("--no-refit", "--ridge", 1), "--ridge: is a setting of refit, which is off"),
        (("--propagate", "--structure", "no-self"), "--propagate: the structure 'no-self' has no order of layers"),
        (("--states", "blocks"), "--structure: 'baseline' has no weights between chosen states"),
        (("--states", "1,", "--structure", "feedforward"), "no group of states ''"),
        (("--states", "block", "--structure", "feedforward"), "no group of states 'block'; name some of"),
    ],
)
def test_bad_options_of_matching(run: Run, base: Path, words: tuple[object, ...], told: str) -> None:
    one_line(run("fit", base, "--samples", 50, "--recipe", "matching", *words), told)
    assert files() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--attack-eps", "2"), "--attack-eps must lie between 0 and the width of clip, 1, got 2"),
        (("--attacks", "-1"), "--attacks must be an integer of at least 0"),
        (("--structure", "dense"), "--structure: the structure 'dense' has no order of layers"),
        (("--hidden-strength", "much"), "--hidden-strength: expected a number, or several with commas"),
        (("--hidden-strength", "-1"), "--hidden-strength must be"),
        (("--clip", "1", "0"), "--clip must be (low, high)"),
        (("--penalty", "basis-pursuit"), "--penalty is an option of the recipe matching or paper"),
    ],
)
def test_bad_options_of_robust(run: Run, base: Path, words: tuple[str, ...], told: str) -> None:
    one_line(run("fit", base, "--samples", "60", "--recipe", "robust", *words, "--output", "x"), told)
    assert files() == []


def test_a_run_never_destroys_its_inputs(run: Run, base: Path, fitted: Any) -> None:
    shutil.copytree(base, "b")
    before = {path: path.read_bytes() for path in Path("b").iterdir()}
    one_line(run("fit", "b", "--output", "b", "--overwrite"), "is or holds b, which this run")
    one_line(run("fit", fitted("sparse"), "--output", "g"), "written by `simplicit fit`", "`simplicit baseline` is")
    assert {path: path.read_bytes() for path in Path("b").iterdir()} == before
    assert files() == ["b", *(str(path) for path in sorted(before))]
    for folder in ("g", "g/j"):
        for option in ("--journal", "--cache"):
            one_line(run("fit", "b", "--output", "g", option, folder), f"is or holds {folder}, which this run")
    shutil.copytree(fitted("sparse"), "f")
    words = ("--model", "nowhere:net", "--weights", "f/weights.safetensors", "--data", "digits")
    one_line(run("fit", *words, "--output", "f", "--overwrite"), "is or holds f/weights.safetensors, which this run")


def test_units_are_dropped(run: Run, base: Path) -> None:
    words = ("--recipe", "structured", "--sparsity", 50, "--allocation", "weights", "--samples", 100, "--json")
    code, out, _ = run("fit", base, *words, "--output", "f")
    assert code == 0
    before, after = json.loads(out)["weights"]
    assert before == TOTAL
    assert after <= TOTAL / 2
    assert manifest("f")["results"]["non_zeros"] == after
    one_line(run("fit", base, *words[:2], "--layers", "9=20", "--output", "g"), "'9' is the name of no layer")
