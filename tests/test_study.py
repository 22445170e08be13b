"""A part of the study of random row problems, which ``benchmarks/study.py`` makes as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[1] / "benchmarks" / "study.py"


def run(output: Path, *options: str) -> dict[str, object]:
    """The report of a small study; a broken certificate makes the command fail, and is shown."""
    command = [sys.executable, str(STUDY), "--output", str(output), *options]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (output / "study.json").exists(), finished.stderr
    report: dict[str, object] = json.loads((output / "study.json").read_text())
    assert report["broken"] == []
    assert finished.returncode == 0, finished.stderr
    return report


@pytest.mark.slow
def test_no_problem_breaks_its_certificate(tmp_path: Path) -> None:
    report = run(tmp_path, "--rows", "4000", "--reference", "100", "--seed", "1")
    assert report["rows"] == 4000
    counts = report["counts"]
    assert isinstance(counts, dict)
    assert counts["converged"] + counts["infeasible"] >= 0.98 * 4000
    reference = report["reference"]
    assert isinstance(reference, dict)
    assert reference["rows"] >= 50
    assert reference["worse_than_reference"] == 0


@pytest.mark.slow
def test_the_study_is_repeatable(tmp_path: Path) -> None:
    first, second = (
        run(tmp_path / processes, "--rows", "500", "--reference", "20", "--processes", processes)
        for processes in ("1", "2")
    )
    for name in ("rows", "counts", "groups", "reference"):
        assert first[name] == second[name]
