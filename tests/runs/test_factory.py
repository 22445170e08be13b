"""The user's own networks: imported, given weights, never trusted with code they did not name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import simplicit as sp
from simplicit.errors import DataError, InputError
from simplicit.runs.factory import load_network, load_program

SOURCE = """
from torch import nn
def make():
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2))
class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
ready = nn.Linear(4, 2)
three = 3
def number():
    return 3
def needs(width):
    return nn.Linear(width, 2)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current directory, under a name of its own so that no test meets another's."""
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return name


def make() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2))


@pytest.mark.parametrize("kind", ["safetensors", "plain", "nested", "folder"])
def test_factory_and_weights(module: str, tmp_path: Path, kind: str) -> None:
    state = make().state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "folder":
        path = tmp_path / "weights"
        sp.save(make(), path)
    elif kind == "safetensors":
        save_file(state, path)
    else:
        nested = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
        torch.save(state if kind == "plain" else nested, path)
    net = load_network(f"{module}:make", path)
    inputs = torch.rand(5, 4)
    assert not net.training
    assert torch.equal(net(inputs), make().eval()(inputs))


@pytest.mark.parametrize("attribute", ["Net", "ready"])
def test_class_and_finished_network(module: str, attribute: str) -> None:
    assert isinstance(load_network(f"{module}:{attribute}"), nn.Linear)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("nothing", "expected package.module:factory"),
        (":make", "expected package.module:factory"),
        ("no_such_module_at_all:make", "no module 'no_such_module_at_all'"),
        ("{}:absent", "has no 'absent'"),
        ("{}:three", "int cannot be called"),
        ("{}:number", "returned int, expected a torch.nn.Module"),
        ("{}:needs", "calling it without arguments failed, TypeError"),
    ],
)
def test_bad_factory(module: str, model: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        load_network(model.format(module))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "told"),
    [("import no_such_module_at_all", "importing it failed, ModuleNotFoundError"), ("1 / 0", "ZeroDivisionError")],
)
def test_module_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, told: str) -> None:
    name = f"broken_{abs(hash((tmp_path, source)))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=told):
        load_network(f"{name}:make")


def test_program_needs_trust(tmp_path: Path) -> None:
    net, path = make().eval(), tmp_path / "p.pt2"
    program = torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("b")},))
    torch.export.save(program, path)
    with pytest.raises(InputError, match=r"can run code that it carries.*--trust-pt2"):
        load_program(path, trust=False)
    inputs = torch.rand(5, 4)
    torch.testing.assert_close(load_program(path, trust=True)(inputs), net(inputs))
    with pytest.raises(DataError, match="no such file"):
        load_program(tmp_path / "none.pt2", trust=True)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"p\.pt2: damaged"):
        load_program(path, trust=True)
