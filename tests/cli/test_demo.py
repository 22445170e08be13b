"""``simplicit demo`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from command_line import Run, files, one_line
from simplicit.data import load_dataset
from simplicit.runs.demo import pruned_accuracy


@pytest.mark.slow
def test_the_whole_story(run: Run) -> None:
    code, out, err = run("demo", "--sparsity", "60", "--samples", "150", "--pgd-steps", "3", "--output", "d", "--json")
    assert (code, err) == (0, "")
    frontier = json.loads(out)
    (point,) = frontier["points"]
    assert abs(point["sparsity"] - 60) <= 0.5
    assert point["rows"] == point["rows_certified"] == 394
    assert frontier["baseline"]["accuracy"] > 0.94
    assert 0 < point["magnitude"] < 1
    assert {path.name for path in Path("d").iterdir()} == {
        "baseline",
        "frontier.json",
        "picture.png",
        "run.json",
        "sparsity-60",
    }
    assert run("eval", "d/sparsity-60", "--eps", "0.1", "--pgd-steps", "2", "--attack-samples", "20")[0] == 0


def test_pruning_by_magnitude_keeps_the_largest_weights_of_a_copy() -> None:
    data = load_dataset("digits")
    net = nn.Sequential(nn.Linear(64, 10))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[7, 0], net[0].weight[3, 1] = 2.0, -3.0
        net[0].bias.zero_()
        net[0].bias[5], net[0].bias[7] = 0.5, -0.5
    # The largest weight alone never changes a class, so that the bias decides; with two of them a pixel does.
    data.test_inputs[:, :2] = 1.0, 0.0
    assert pruned_accuracy(net, data, 1) == np.mean(data.test_labels == 5)
    assert pruned_accuracy(net, data, 2) == np.mean(data.test_labels == 7)
    assert net[0].weight.count_nonzero() == 2


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
