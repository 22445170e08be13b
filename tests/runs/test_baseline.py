"""Training repeats exactly, and a baseline's folder reads back or says what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simplicit.data import Dataset, load_dataset
from simplicit.errors import DataError, InputError
from simplicit.progress import Progress
from simplicit.runs.baseline import Baseline, load_baseline, make_baseline, save_baseline
from simplicit.runs.mlp import ACTIVATIONS, MlpSettings, build_mlp, parse_arch, train_mlp

SETTINGS = MlpSettings(arch=(12, 6), bias=False, epochs=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> Baseline:
    return make_baseline(digits, SETTINGS)


def test_training_repeats_and_leaves_the_global_state_alone(digits: Dataset, trained: Baseline) -> None:
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    again, other = train_mlp(digits, SETTINGS), train_mlp(digits, SETTINGS.with_seed(1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    pairs = list(zip(trained.net.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(again[0].weight, other[0].weight)
    assert not again.training


def test_digits_are_learned(digits: Dataset) -> None:
    states: list[Progress] = []
    net = train_mlp(digits, MlpSettings(epochs=25, batch_size=64), progress=states.append)
    with torch.no_grad():
        hits = net(torch.from_numpy(digits.test_inputs)).argmax(dim=1).numpy() == digits.test_labels
    assert np.mean(hits) > 0.93
    assert [state.done for state in states] == list(range(1, 26))
    assert states[-1].stage.startswith("training, loss 0.")


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_activation_is_built(activation: str) -> None:
    net = build_mlp(4, 3, MlpSettings(arch=(5,), activation=activation))
    assert [type(layer).__name__ for layer in net] == ["Linear", type(ACTIVATIONS[activation]()).__name__, "Linear"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"activation": "cosine"}, "activation 'cosine': unknown"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"arch": (0,)}, "arch"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        dataclasses.replace(SETTINGS, **change)


def test_arch() -> None:
    assert parse_arch("64-32-16") == (64, 32, 16)
    for text in ("", "64-", "64x32", "0-3", "-1"):
        with pytest.raises(InputError, match="expected the widths"):
            parse_arch(text)


def test_divergence_is_told(digits: Dataset) -> None:
    broken = dataclasses.replace(digits, train_inputs=digits.train_inputs * np.float32(3e38))
    with pytest.raises(InputError, match="diverged in epoch 1; lower learning_rate"):
        train_mlp(broken, SETTINGS)


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
