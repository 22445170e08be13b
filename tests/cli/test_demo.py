"""``simplicit demo`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import Run, files, one_line


@pytest.mark.slow
def test_the_whole_story(run: Run) -> None:
    code, out, err = run("demo", "--sparsity", "60", "--samples", "150", "--pgd-steps", "3", "--output", "d", "--json")
    assert (code, err) == (0, "")
    frontier = json.loads(out)
    (point,) = frontier["points"]
    assert abs(point["sparsity"] - 60) <= 0.5
    assert point["rows"] == point["rows_certified"] == 394
    assert frontier["baseline"]["accuracy"] > 0.94
    assert {path.name for path in Path("d").iterdir()} == {
        "baseline",
        "frontier.json",
        "picture.png",
        "run.json",
        "sparsity-60",
    }
    assert run("eval", "d/sparsity-60", "--eps", "0.1", "--pgd-steps", "2", "--attack-samples", "20")[0] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sparsity", "100"), "--sparsity is in per cent, from 0 to below 100"),
        (("--sparsity", "0.8"), "did you mean 80?"),
        (("--eps", "x"), "--eps 'x'"),
        (("--samples", "0"), "--samples must be an integer of at least 1"),
        (("--seed", "-3"), "--seed must be"),
    ],
)
def test_bad_options(run: Run, words: tuple[str, ...], told: str) -> None:
    one_line(run("demo", *words), told)
    assert files() == []
