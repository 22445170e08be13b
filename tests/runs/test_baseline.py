"""A baseline's folder reads back, or says what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simplicit.data import Dataset, load_dataset
from simplicit.errors import DataError
from simplicit.runs.baseline import Baseline, load_baseline, make_baseline, save_baseline
from simplicit.runs.mlp import MlpSettings

SETTINGS = MlpSettings(arch=(12, 6), bias=False, epochs=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> Baseline:
    return make_baseline(digits, SETTINGS)


def test_folder_reads_back(trained: Baseline, tmp_path: Path) -> None:
    save_baseline(dataclasses.replace(trained, data_dir=tmp_path / "data"), tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "config.json",
        "run.json",
        "weights.safetensors",
    ]
    loaded = load_baseline(tmp_path / "b")
    assert loaded.settings == trained.settings
    assert (loaded.data, loaded.data_dir) == ("digits", tmp_path / "data")
    assert loaded.test_accuracy == trained.test_accuracy
    inputs = torch.rand(3, 64)
    assert torch.equal(loaded.net(inputs), trained.net(inputs))
    assert trained.describe() == "64-12-6-10 relu, no bias"


def edit(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "cnn"}, "kind 'cnn'"),
        ({"format": 1}, "format 1, this version reads 2"),
        ({"widths": []}, r"config\.json: damaged"),
        ({"settings": {"arch": [12, 6], "depth": 3}}, r"config\.json: damaged.*depth"),
        ({"settings": None}, r"config\.json: damaged"),
        ({"widths": [64, 12, -6, 10]}, r"config\.json: damaged.*positive"),
        ({"widths": [64, 12, 7, 10]}, r"config\.json: damaged.*contradict arch"),
        ({"widths": [10**15, 12, 6, 10]}, r"weights\.safetensors: does not fit config\.json"),
        ({"widths": [65, 12, 6, 10]}, r"weights\.safetensors: does not fit config\.json"),
    ],
)
def test_damaged_config(trained: Baseline, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    save_baseline(trained, tmp_path / "b")
    edit(tmp_path / "b" / "config.json", change)
    with pytest.raises(DataError, match=told):
        load_baseline(tmp_path / "b")


def test_damaged_weights(trained: Baseline, tmp_path: Path) -> None:
    save_baseline(trained, tmp_path / "b")
    path = tmp_path / "b" / "weights.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", whole[:20], whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"weights\.safetensors: damaged or truncated"):
            load_baseline(tmp_path / "b")
    path.write_bytes(whole[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(DataError, match="NaN or infinite"):
        load_baseline(tmp_path / "b")
    path.unlink()
    with pytest.raises(DataError, match="missing; train the baseline again"):
        load_baseline(tmp_path / "b")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder; `simplicit baseline"):
        load_baseline(tmp_path / "none")
