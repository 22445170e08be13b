"""Inputs that changed are told by what changed; samples that do not fit are told in the words of the data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from simplicit.data import load_dataset
from simplicit.errors import DataError, InputError
from simplicit.experiments.fitting import capture_task
from simplicit.experiments.settings import FitSettings
from simplicit.experiments.task import Task, check_unchanged, open_task

FACTORY = """
from torch import nn
def make():
    return nn.Sequential(nn.Linear(64, 12), nn.{}(), nn.Linear(12, 10))
"""
CONFIG = Path("run.json")


def opened(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, activation: str = "ReLU") -> Task:
    monkeypatch.chdir(folder)
    (folder / f"{name}.py").write_text(FACTORY.format(activation))
    torch.manual_seed(0)
    return open_task(FitSettings(model=f"{name}:make", data="digits"))


def test_a_factory_with_other_weights_or_code_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(tmp_path, monkeypatch, "task_first")
    check_unchanged(first.inputs, opened(tmp_path, monkeypatch, "task_second").inputs, CONFIG)
    edited = opened(tmp_path, monkeypatch, "task_third", "Tanh")
    with pytest.raises(DataError, match=r"run\.json: structure changed since that run"):
        check_unchanged(first.inputs, edited.inputs, CONFIG)
    other = open_task(FitSettings(model="task_first:make", data="digits"))
    with pytest.raises(DataError, match=r"run\.json: state_dict changed since that run"):
        check_unchanged(first.inputs, other.inputs, CONFIG)


@pytest.mark.parametrize("inputs", [{"network": 5}, {"data": []}, {"data": {"hashes": 3}}])
def test_damaged_inputs(inputs: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"run\.json: damaged"):
        check_unchanged(inputs, {"network": {}, "data": {"hashes": {}}}, CONFIG)


def test_samples_of_another_size_are_told() -> None:
    data = load_dataset("digits")
    net = nn.Sequential(nn.Linear(784, 12), nn.ReLU(), nn.Linear(12, 10)).eval()
    with pytest.raises(InputError, match=r"samples of digits have 64 values.*takes 784: name the right --data or --in"):
        capture_task(Task(net, data, (64,), {}))
    with pytest.raises(InputError, match=r"shape \(m, 8, 8\), the network comes to 8 at a layer that takes 64"):
        capture_task(Task(nn.Linear(64, 10).eval(), data, (8, 8), {}))
