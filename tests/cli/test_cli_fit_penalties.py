"""The penalties of ``simplicit fit``: what each writes, what each refuses, and how a run with one is repeated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplicit as sp
from command_line import Run
from simplicit.cli import main


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


def rows(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(folder, "rows.json").read_text())
    return found


def one_line(result: tuple[int, str, str], *told: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    for words in told:
        assert words in err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "numbers", "shown"),
    [
        ((), (1e-3, None, None), "L1(beta=0.001)"),
        (("--penalty", "elastic-net", "--alpha", 0.5), (1e-3, 0.5, None), "ElasticNet(beta=0.001, alpha=0.5)"),
        (("--penalty", "perspective", "--gamma", 0.2), (None, 1e-3, 0.2), "Perspective(alpha=0.001, gamma=0.2)"),
        (("--penalty", "none"), (None, None, None), "NoPenalty()"),
        (("--penalty", "basis-pursuit"), (None, None, None), "BasisPursuit()"),
    ],
)
def test_every_penalty_is_certified_and_recorded(
    run: Run, base: Path, words: tuple[object, ...], numbers: tuple[float | None, ...], shown: str
) -> None:
    code, out, err = run("fit", base, "--samples", 60, *words, "--output", "f")
    assert (code, err) == (0, "")
    assert shown in out
    assert rows("f")["status"] == ["converged"] * 30
    recorded = settings("f")
    assert tuple(recorded[name] for name in ("beta", "alpha", "gamma")) == numbers
    assert recorded["penalty"] == (words[1] if words else "l1")
    priced = shown.startswith("Perspective")
    assert [gap is not None for gap in rows("f")["cardinality_gap"]] == [priced] * 30
    assert run("fit", "--config", "f", "--output", "g")[0] == 0
    weights = "model.safetensors"
    assert Path("g", weights).read_bytes() == Path("f", weights).read_bytes()


def test_exact_matching_reproduces_the_baseline_on_its_samples(run: Run, base: Path) -> None:
    words = ("--samples", 40, "--penalty", "basis-pursuit", "--structure", "baseline", "--normalize", "none")
    code, out, _ = run("fit", base, *words, "--output", "f", "--json")
    assert code == 0
    figures = json.loads(out)
    assert max(figures["errors"].values()) <= 1e-6
    assert figures["row_norm"] <= 0.99
    assert figures["non_zeros"] < figures["baseline_weights"]


def test_rows_that_no_model_matches_are_told(run: Run, base: Path) -> None:
    words = ("fit", base, "--samples", 200, "--penalty", "basis-pursuit", "--kappa", 0.05)
    one_line(run(*words), "rows did not reach", "no coefficients match", "--no-throw")
    assert run(*words, "--no-throw", "--output", "f")[0] == 0
    assert "infeasible" in rows("f")["status"]
    assert settings("f")["throw"] is False
    assert abs(sp.load("f").A).sum(axis=1).max() <= 0.05


@pytest.mark.parametrize("words", [(), ("--penalty", "perspective"), ("--penalty", "elastic-net"), ("--rounds", 2)])
def test_a_sparsity_is_found_with_every_penalty_that_makes_zeros(
    run: Run, base: Path, words: tuple[object, ...]
) -> None:
    code, out, _ = run("fit", base, "--samples", 100, "--sparsity", 60, *words, "--output", "f", "--json")
    assert code == 0
    figures = json.loads(out)
    assert abs(figures["sparsity"] - 60) <= 0.5
    assert figures["rows_certified"] == figures["rows"]


def test_rounds_are_recorded_and_shown(run: Run, base: Path) -> None:
    plain = ("fit", base, "--samples", 100, "--beta", 0.5)
    assert run(*plain, "--output", "one")[0] == 0
    code, out, _ = run(*plain, "--rounds", 3, "--output", "three")
    assert code == 0
    assert "L1(beta=0.5), 3 rounds" in out
    assert (settings("one")["rounds"], settings("three")["rounds"]) == (1, 3)
    assert sp.load("one").nnz != sp.load("three").nnz


def test_another_penalty_than_the_recorded_one_starts_from_its_own_numbers(run: Run, base: Path) -> None:
    assert run("fit", base, "--samples", 50, "--beta", 0.7, "--output", "f")[0] == 0
    assert run("fit", "--config", "f", "--penalty", "perspective", "--output", "g")[0] == 0
    assert (settings("g")["beta"], settings("g")["gamma"], settings("g")["samples"]) == (None, 1e-3, 50)
    assert run("fit", "--config", "f", "--penalty", "l1", "--output", "h")[0] == 0
    assert settings("h")["beta"] == 0.7
    code, _, err = run("fit", "--config", "g", "--beta", 1, "--output", "i")
    assert code == 2
    assert "the penalty 'perspective' takes alpha and gamma" in err


def test_a_run_from_before_there_were_penalties_is_repeated(run: Run, base: Path) -> None:
    assert run("fit", base, "--samples", 50, "--beta", 0.7, "--output", "f")[0] == 0
    manifest = json.loads(Path("f/run.json").read_text())
    for name in ("penalty", "alpha", "gamma", "rounds", "throw"):
        del manifest["settings"][name]
    Path("f/run.json").write_text(json.dumps(manifest))
    assert run("fit", "--config", "f", "--output", "g")[0] == 0
    np.testing.assert_array_equal(sp.load("f").B.toarray(), sp.load("g").B.toarray())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--penalty", "lasso"), "'lasso' is not one of 'l1', 'elastic-net', 'perspective', 'basis-pursuit', 'none'"),
        (("--alpha", 1), "--alpha: the penalty 'l1' takes beta; leave alpha out"),
        (("--gamma", 0), "--gamma: the penalty 'l1' takes beta"),
        (("--penalty", "none", "--beta", 1), "--beta: the penalty 'none' takes no number"),
        (("--penalty", "basis-pursuit", "--alpha", 1), "--alpha: the penalty 'basis-pursuit' takes no number"),
        (("--penalty", "perspective", "--beta", 1), "--beta: the penalty 'perspective' takes alpha and gamma"),
        (("--penalty", "perspective", "--alpha", 0), "alpha must be finite and > 0"),
        (("--rounds", 0), "--rounds must be"),
        (("--sparsity", 50, "--penalty", "none"), "--sparsity: NoPenalty() gives no zeros"),
        (("--sparsity", 50, "--penalty", "perspective", "--gamma", 0), "gives no zeros"),
        (("--sparsity", 50, "--penalty", "elastic-net", "--beta", 0), "gives no zeros"),
        (("--sparsity", 50, "--beta", 0), "--sparsity: L1(beta=0.0) gives no zeros"),
        (("--sparsity", 50, "--penalty", "basis-pursuit"), "--sparsity: BasisPursuit() matches exactly"),
    ],
)
def test_what_does_not_go_together(run: Run, base: Path, words: tuple[object, ...], told: str) -> None:
    one_line(run("fit", base, "--samples", 50, *words), told)


def test_an_unknown_penalty_in_a_config(run: Run, base: Path, tmp_path: Path) -> None:
    Path("fit.toml").write_text(f'baseline = "{base.as_posix()}"\npenalty = "lasso"\n')
    code, _, err = run("fit", "--config", "fit.toml")
    assert code == 2
    assert "penalty: 'lasso' is unknown; choose one of l1, elastic-net" in err
