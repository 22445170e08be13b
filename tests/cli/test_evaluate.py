"""``simplicit eval`` as a user meets it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from command_line import Run, files, manifest, one_line
from simplicit.files import file_hash


@pytest.fixture(scope="module")
def fit(fitted: Any) -> Path:
    found: Path = fitted("matching")
    return found


def test_json_is_complete(run: Run, fit: Path) -> None:
    words = ("--eps", "8/255", "--eps", "0.1", "--pgd-steps", "5", "--attack-samples", "30", "--json")
    code, out, err = run("eval", fit, *words)
    assert (code, err) == (0, "")
    figures = json.loads(out)["evaluation"]
    assert [attack["eps"] for attack in figures["attacks"]] == ["8/255", "0.1"]
    assert (figures["samples"], figures["attacked_samples"]) == (360, 30)
    assert figures["sparsity_of_size"] > figures["sparsity"]
    assert figures["perron_frobenius"] == {"value": 0.0, "lower": 0.0, "upper": 0.0}
    assert 0 < figures["norm_inf"] <= 0.99
    assert figures["equilibrium_method"] == "substitution"
    assert figures["accuracy"] > 0.7
    for attack in figures["attacks"]:
        assert attack["pgd"] <= figures["clean_accuracy_of_attacked"]
        assert attack["baseline_pgd"] <= figures["baseline_clean_accuracy_of_attacked"]
    assert figures["baseline_dense_weight_bits"] == (64 * 12 + 12 * 8 + 8 * 10) * 32
    assert figures["storage_ratio"] == figures["baseline_dense_weight_bits"] / figures["storage_bits"]


def test_tables_and_the_folder(run: Run, fit: Path) -> None:
    words = ("--eps", "0.1", "--pgd-steps", "2", "--attack-samples", "50", "--against-size", "--output", "e")
    code, out, _ = run("eval", fit, *words)
    assert code == 0
    told = (
        "PGD-2, ε = 0.1",
        "agreement",
        "λ_pf",
        "storage",
        "substitution",
        "first 50 test samples",
        "against size(M)",
    )
    assert [words for words in told if words not in out] == []
    assert "accuracy on the attacked samples" in out
    assert "0, no state depends on itself" in out
    assert "at most" in next(line for line in out.splitlines() if "rounding in the states" in line)
    bits = (64 * 12 + 12 * 8 + 8 * 10) * 32
    assert f"{bits / 8192:.1f}" in next(line for line in out.splitlines() if "storage, KiB" in line)
    assert files() == ["e", "e/evaluation.json", "e/run.json"]
    assert set(manifest("e")["inputs"]) == {"network", "data", "model"}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "run.json"])
def test_a_damaged_run(run: Run, fit: Path, base: Path, name: str) -> None:
    shutil.copytree(fit, "fit")
    content = Path("fit", name).read_bytes()
    Path("fit", name).write_bytes(content[: len(content) // 2])
    one_line(run("eval", "fit", "--baseline", base), name)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--eps", "wide"), "--eps 'wide': expected a radius"),
        (("--eps", "-0.1"), "--eps '-0.1'"),
        (("--eps", "3"), "wider than the range"),
        (("--pgd-steps", "0"), "--pgd-steps must be"),
        (("--attack-samples", "0"), "--attack-samples must be"),
        (("--seed", "-3"), "--seed must be"),
        (("--baseline", "nowhere"), "no such folder"),
        (("--data", "mnist"), "'mnist'"),
    ],
)
def test_bad_options(run: Run, fit: Path, options: tuple[str, ...], told: str) -> None:
    one_line(run("eval", fit, *options, "--output", "e"), told)
    assert files() == []


def test_something_else_than_a_fit(run: Run, base: Path) -> None:
    one_line(run("eval", base), "written by `simplicit baseline`")
    one_line(run("eval", "nowhere"), "no such folder")


QUICK = ("--eps", "0.1", "--pgd-steps", "1", "--attack-samples", "20")


def test_another_baseline_than_that_of_the_fit(run: Run, fit: Path, base: Path) -> None:
    shutil.copytree(fit, "fit")
    one_line(run("eval", "fit", *QUICK), "no such folder", "--baseline")  # for its own is beside the first one
    shutil.copytree(base, "base")
    changed = manifest("fit")
    changed["inputs"]["network"]["weights.safetensors"] = file_hash(Path("fit/run.json"))
    Path("fit/run.json").write_text(json.dumps(changed))
    one_line(run("eval", "fit", *QUICK), "weights.safetensors changed since that run")
    assert run("eval", "fit", *QUICK, "--baseline", "base")[0] == 0


def test_a_run_is_not_replaced_by_what_is_made_of_it(run: Run, fit: Path) -> None:
    before = {path: path.read_bytes() for path in fit.iterdir()}
    one_line(run("eval", fit, *QUICK, "--output", fit, "--overwrite"), f"is or holds {fit}, which this run")
    assert {path: path.read_bytes() for path in fit.iterdir()} == before


def test_what_says_nothing_is_put_in_words(run: Run, fit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simplicit.cli import evaluate
    from simplicit.runs.evaluate import run_evaluation

    def with_blocks(*arguments: Any, **options: Any) -> Any:
        found = run_evaluation(*arguments, **options)
        changed = {"equilibrium_error_bound": 268.3, "unbounded": ("layer_norm", "mul"), "storage_bits": None}
        return dataclasses.replace(found, figures=dataclasses.replace(found.figures, **changed))

    monkeypatch.setattr(evaluate, "run_evaluation", with_blocks)
    code, out, _ = run("eval", fit, "--eps", "0.1", "--pgd-steps", "1", "--attack-samples", "5")
    assert code == 0
    assert "no useful bound, through layer_norm and mul" in " ".join(out.split())
    assert not any(words in out for words in ("268", "2.7e", "A‖∞", "size(M)"))
