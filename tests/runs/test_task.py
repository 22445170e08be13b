"""Inputs that changed are told by what changed; samples that do not fit are told in the words of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from simplicit.data import load_dataset
from simplicit.errors import DataError, InputError
from simplicit.runs.fitting import capture_task
from simplicit.runs.settings import Source
from simplicit.runs.task import Task, check_range, check_unchanged, open_task

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
    return open_task(Source(model=f"{name}:make", own_weights=True, data="digits"))


def test_a_factory_with_other_weights_or_code_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(tmp_path, monkeypatch, "task_first")
    check_unchanged(first.provenance, opened(tmp_path, monkeypatch, "task_second").provenance, CONFIG)
    edited = opened(tmp_path, monkeypatch, "task_third", "Tanh")
    with pytest.raises(DataError, match=r"run\.json: structure changed since that run"):
        check_unchanged(first.provenance, edited.provenance, CONFIG)
    other = open_task(Source(model="task_first:make", own_weights=True, data="digits"))
    with pytest.raises(DataError, match=r"run\.json: state_dict changed since that run"):
        check_unchanged(first.provenance, other.provenance, CONFIG)


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


CONVOLUTION = """
import torch
from torch import nn
def {}():
    return nn.Sequential(nn.Conv2d({}, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).to(torch.{})
def built(net, shape):
    net(torch.zeros(2, *shape, dtype=next(net.parameters()).dtype))
    return net
def make():
    return built({}(), {})
"""


def images(path: Path, *shape: int, dtype: str = "float32") -> str:
    rng = np.random.default_rng(0)
    inputs = (rng.random((40, *shape)) * (1 if dtype.startswith("float") else 256)).astype(dtype)
    np.savez(path, inputs=inputs, labels=np.arange(40) % 3)
    return str(path)


def convolution(folder: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: str = "float32") -> str:
    monkeypatch.chdir(folder)
    name = f"task_{abs(hash((str(folder), shape, dtype)))}"
    (folder / f"{name}.py").write_text(CONVOLUTION.format("raw", shape[0], dtype, "raw", shape))
    return f"{name}:make"


@pytest.mark.parametrize(("own", "taken"), [((3, 6, 6), (3, 6, 6)), ((6, 6), (1, 6, 6))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_shape_that_the_network_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: tuple[int, ...], taken: tuple[int, ...], dtype: str
) -> None:
    model = convolution(tmp_path, monkeypatch, taken, dtype)
    assert open_task(Source(model=model, own_weights=True, data=images(tmp_path / "d.npz", *own))).input_shape == taken


@pytest.mark.parametrize("shape", [None, (3, 6, 6)])
def test_images_with_channels_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...] | None
) -> None:
    model = convolution(tmp_path, monkeypatch, (3, 6, 6))
    settings = Source(model=model, own_weights=True, data=images(tmp_path / "d.npz", 6, 6, 3), input_shape=shape)
    with pytest.raises(InputError, match=r"samples have shape \(m, 6, 6, 3\), channels last.*np.moveaxis"):
        open_task(settings)


def test_data_of_another_range(tmp_path: Path) -> None:
    data = load_dataset(images(tmp_path / "d.npz", 7, dtype="int64"))
    made = {"data": {"input_range": [0.0, 1.0]}}
    with pytest.raises(InputError, match=r"values from 0 to 255, runs/fit was made on values from 0 to 1; bring them"):
        check_range(made, data, Path("runs/fit"))
    check_range({"data": {"input_range": [0.0, 255.0]}}, data, Path("runs/fit"))
    check_range({}, data, Path("runs/fit"))
