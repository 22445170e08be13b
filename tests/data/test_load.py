"""Names of data sets: one that is registered at run time is found by Python and by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import Run
from simplicit.data import DATASETS, Dataset, load_dataset
from simplicit.errors import InputError


def two_corners(data_dir: Path | None) -> Dataset:
    """Points near two corners of the unit square."""
    labels = np.arange(60) % 2
    inputs = (0.8 * labels[:, None] + 0.2 * np.random.default_rng(0).random((60, 2))).astype(np.float32)
    source = f"made in the test, looked for in {data_dir}"
    return Dataset("some name", inputs, labels, inputs[:20], labels[:20], input_shape=(2,), classes=2, source=source)


def test_a_data_set_that_is_registered_at_run_time(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "corners", two_corners)
    data = load_dataset("corners", tmp_path)
    assert (data.name, data.source) == ("corners", f"made in the test, looked for in {tmp_path}")
    code, _, error = run("baseline", "--data", "corners", "--arch", "4", "--epochs", "2", "--output", "net")
    assert code == 0, error
    code, _, error = run("fit", "net", "--samples", "40", "--output", "sparse")
    assert code == 0, error
    assert json.loads((tmp_path / "sparse" / "run.json").read_text())["inputs"]["data"]["name"] == "corners"
    code, _, error = run("eval", "sparse", "--data", "corners")
    assert code == 0, error


def test_an_unknown_name_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "corners", two_corners)
    with pytest.raises(InputError, match=r"'mnist': neither a known .*\(cifar-10, cifar-100, corners, digits, "):
        load_dataset("mnist")
