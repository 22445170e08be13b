"""Training repeats exactly, learns, and says what it cannot do."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from simplicit.data import Dataset, load_dataset
from simplicit.errors import InputError
from simplicit.progress import Progress
from simplicit.runs.mlp import ACTIVATIONS, MlpSettings, build_mlp, parse_arch, train_mlp

SETTINGS = MlpSettings(arch=(12, 6), bias=False, epochs=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_training_repeats_and_leaves_the_global_state_alone(digits: Dataset) -> None:
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first, again, other = (train_mlp(digits, dataclasses.replace(SETTINGS, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    pairs = list(zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(again[0].weight, other[0].weight)
    assert not again.training


def test_digits_are_learned(digits: Dataset) -> None:
    states: list[Progress] = []
    net = train_mlp(digits, MlpSettings(epochs=25, batch_size=64), progress=states.append)
    with torch.no_grad():
        hits = net(torch.from_numpy(digits.test_inputs)).argmax(dim=1).numpy() == digits.test_labels
    assert np.mean(hits) > 0.93
    assert [state.done for state in states] == list(range(26))
    assert states[-1].stage.startswith("training, loss 0.")


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_every_activation_is_built(activation: str) -> None:
    net = build_mlp(4, 3, MlpSettings(arch=(5,), activation=activation))
    assert [type(layer).__name__ for layer in net] == ["Linear", type(ACTIVATIONS[activation]()).__name__, "Linear"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"activation": "cosine"}, "activation: 'cosine' is unknown"),
        ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
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
