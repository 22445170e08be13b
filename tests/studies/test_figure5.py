"""``reproduce figure5``, on few rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import simplicit as sp
from command_line import Run, one_line
from simplicit.studies.figure5 import Figure5Settings, StateRows, check_equal

QUICK = ("--data", "digits", "--arch", "6", "--epochs", 1, "--samples", 40, "--repeats", 2, "--workers", 2)


def test_the_command_writes_times_and_a_picture(run: Run) -> None:
    words = ("--executor", "serial", "--executor", "threads", "--output", "f")
    code, out, err = run("reproduce", "figure5", *QUICK, *words)
    assert (code, err) == (0, "")
    assert "6 rows × 70 columns, 40 samples, 6 certified; seconds" in out
    assert {path.name for path in Path("f").iterdir()} == {"figure5.json", "figure5.md", "figure5.png", "run.json"}
    serial, threads = json.loads(Path("f", "figure5.json").read_text())["executors"]
    assert (serial["executor"], serial["workers"], serial["speedup"]) == ("serial", 1, 1.0)
    assert (threads["executor"], threads["workers"], len(threads["warm"])) == ("threads", 2, 2)
    assert threads["speedup"] == serial["seconds"] / threads["seconds"]
    assert "| threads | 2 |" in Path("f", "figure5.md").read_text(encoding="utf-8")


def test_other_coefficients_are_an_error() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(40, 12)), rng.normal(size=(40, 6))
    one, other = (StateRows(features, targets, 6, beta=beta).solve(sp.Serial()) for beta in (1e-3, 1e-1))
    check_equal(one, one)
    with pytest.raises(AssertionError, match="the coefficients of two runs differ"):
        check_equal(one, other)


def test_executors_are_all_that_are_installed() -> None:
    assert {"serial", "threads", "processes"} <= set(Figure5Settings().chosen)
    assert Figure5Settings(executor=("threads",)).chosen == ("threads",)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--executor", "moon"), "--executor: 'moon' is unknown; choose one of 'serial'"),
        (("--samples", 0), "--samples must be an integer of at least 1"),
        (("--samples", 5000), "--samples: digits has 1437, 5000 are wanted"),
        (("--repeats", 0), "--repeats must be an integer of at least 1"),
        (("--arch", "a"), "--arch 'a': expected the widths"),
    ],
)
def test_bad_input(run: Run, words: tuple[object, ...], told: str) -> None:
    one_line(run("reproduce", "figure5", "--data", "digits", *words), told)
    assert not Path("runs").exists()
