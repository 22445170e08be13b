"""``simplicit export``: ONNX and weights from a run folder, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import simplicit as sp
from command_line import Run
from simplicit.cli import main
from simplicit.data import load_dataset

SOURCE = """
import torch
from torch import nn
class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(36, 10)
    def forward(self, x):
        return self.last(torch.relu(self.norm(self.conv(x))).flatten(1))
def make():
    torch.manual_seed(0)
    return Small()
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline on digits, a fit of it, and one of another structure."""
    folder = tmp_path_factory.mktemp("runs")
    base = str(folder / "base")
    assert main(["baseline", "--arch", "16-12", "--epochs", "8", "--output", base]) == 0
    structures = {"fit": "baseline", "robust": "baseline", "wide": "feedforward", "full": "dense"}
    presets = {"full": ["--preset", "paper"], "robust": ["--preset", "robust", "--attacks", "0"]}
    for name, structure in structures.items():
        words = ["fit", base, "--samples", "100", "--structure", structure, "--output", str(folder / name)]
        assert main([*words, *presets.get(name, [])]) == 0
    return folder


def digits() -> np.ndarray:
    return load_dataset("digits").test_inputs


def test_onnx(run: Run, runs: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    code, out, err = run("export", runs / "fit", "--output", "m.onnx")
    assert (code, err) == (0, "")
    assert "checked by onnxruntime" in out
    session = onnxruntime.InferenceSession((tmp_path / "m.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    model = sp.load(runs / "fit")
    found = session.run(None, {"inputs": digits().astype(model.dtype)})[0]
    np.testing.assert_allclose(found, model.predict(digits()), rtol=1e-10, atol=1e-10)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("fit", ["fit", "robust"])
def test_weights_of_the_network(run: Run, runs: Path, tmp_path: Path, fit: str) -> None:
    code, out, _ = run("export", runs / fit, "--output", "deep/w.safetensors", "--json")
    assert code == 0
    model = sp.load(runs / fit)
    assert json.loads(out)["non_zeros"] == model.nnz
    state = load_file(tmp_path / "deep" / "w.safetensors")
    assert state.keys() == load_file(runs / "base" / "weights.safetensors").keys()
    net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10))
    net.load_state_dict(state)
    np.testing.assert_allclose(net(torch.from_numpy(digits())).detach(), model.predict(digits()), atol=1e-4)


def test_weights_of_a_network_with_convolutions(run: Run, tmp_path: Path) -> None:
    name = f"own_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    words = ("--model", f"{name}:make", "--data", "digits", "--input-shape", "1x8x8", "--samples", "60")
    code, _, err = run("fit", *words, "--output", "f")
    assert code == 0, err
    manifest = json.loads((tmp_path / "f" / "run.json").read_text())
    assert manifest["settings"]["kappa"] is None
    code, out, _ = run("export", "f", "--output", "w.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["non_zeros"] == manifest["results"]["non_zeros"]
    assert load_file("w.safetensors").keys() >= {"conv.weight", "norm.running_var", "last.bias"}
    code, out, _ = run("eval", "f", "--eps", "0.01", "--pgd-steps", "2", "--attack-samples", "20", "--json")
    assert code == 0
    figures = json.loads(out)["evaluation"]
    assert figures["sparsity"] == pytest.approx(manifest["results"]["sparsity"])
    assert figures["storage_bits"] is None
    assert run("eval", "f", "--attack-samples", "20", "--eps", "0.01", "--pgd-steps", "2")[0] == 0
    # The preset has numbers of its own for tied rows.
    assert run("fit", *words, "--preset", "sparse", "--sparsity", "60", "--output", "g")[0] == 0
    manifest = json.loads((tmp_path / "g" / "run.json").read_text())
    assert (manifest["settings"]["ridge"], manifest["settings"]["anchor"]) == (None, None)
    assert (manifest["results"]["ridge"], manifest["results"]["anchor"]) == (0.01, 1.0)


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("fit", ("--output", "m.txt"), "output m.txt: name a file that ends in .onnx"),
        ("fit", ("--output", "there.onnx"), "exists already; choose another --output"),
        ("none", ("--output", "m.onnx"), "no such folder"),
        ("base", ("--output", "m.onnx"), "expected one of `simplicit fit`"),
        ("wide", ("--output", "w.safetensors"), "fitted with structure 'feedforward'"),
        ("full", ("--output", "m.onnx"), "A has cycles"),
    ],
)
def test_mistakes(run: Run, runs: Path, tmp_path: Path, name: str, words: tuple[str, ...], told: str) -> None:
    Path("there.onnx").write_text("precious")
    code, out, err = run("export", runs / name, *words)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
    assert Path("there.onnx").read_text() == "precious"


def test_help(run: Run) -> None:
    code, out, _ = run("export", "--help")
    assert code == 0
    assert "Example: simplicit export runs/fit --output model.onnx" in out
