"""``simplicit export`` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import simplicit as sp
from command_line import Run, files, one_line
from simplicit.data import load_dataset
from simplicit.training import RECIPES


def digits() -> np.ndarray:
    return load_dataset("digits").test_inputs


@pytest.mark.parametrize("dtype", [None, "float64"])
def test_onnx(run: Run, fitted: Any, dtype: str | None) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = () if dtype is None else ("--dtype", dtype)
    code, out, err = run("export", fitted("matching"), "--output", "m.onnx", *options)
    assert (code, err) == (0, "")
    assert "checked by onnxruntime" in out
    session = onnxruntime.InferenceSession(Path("m.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    taken = dtype or "float32"  # that of the network, whose model is in float64
    assert taken in out
    found, tolerance = session.run(None, {"inputs": digits().astype(taken)})[0], 1e-10 if dtype else 1e-5
    assert found.dtype == taken
    np.testing.assert_allclose(found, sp.load(fitted("matching")).predict(digits()), rtol=tolerance, atol=tolerance)
    assert files() == ["m.onnx"]


def test_weights_have_a_dtype_of_their_own(run: Run, fitted: Any) -> None:
    told = "--dtype float32: is for .onnx files"
    one_line(run("export", fitted("matching"), "--output", "w.safetensors", "--dtype", "float32"), told)
    assert run("export", fitted("matching"), "--dtype", "float16")[0] == 2


def test_what_is_not_read_is_left_out(run: Run, fitted: Any) -> None:
    pytest.importorskip("onnxruntime")
    code, out, err = run("export", fitted("matching"), "--output", "small.onnx", "--compact")
    assert (code, err) == (0, "")
    assert "states left" in out
    told = "compact: is for .onnx files"
    one_line(run("export", fitted("matching"), "--output", "w.safetensors", "--compact"), told)


def test_the_model_card(run: Run, fitted: Any) -> None:
    for name in ("sparse", "matching"):
        fit, code = fitted(name), run("export", fitted(name), "--output", f"{name}.md")[0]
        assert code == 0
        card, results = (
            Path(f"{name}.md").read_text(encoding="utf-8"),
            json.loads((fit / "run.json").read_text())["results"],
        )
        assert f"{results['non_zeros']:,} of {results['baseline_weights']:,} are left" in card
        assert f"| accuracy | {100 * results['baseline_accuracy']:.2f} % | {100 * results['accuracy']:.2f} % |" in card
        assert "Measured on the 360 test samples of digits." in card
        assert f"- {results['recipe']}" in card
        assert "sp.load_weights(net" in card
    assert "exists already" in run("export", fitted("sparse"), "--output", "sparse.md")[2]
    shutil.copytree(fitted("sparse"), "old")
    manifest = json.loads(Path("old/run.json").read_text())
    del manifest["results"]["recipe"]
    Path("old/run.json").write_text(json.dumps(manifest))
    one_line(
        run("export", "old", "--output", "old.md"),
        "its results have no 'recipe', of which a card is made; fit it again",
    )


def check_weights(run: Run, base: Path, fit: Path, net: nn.Module) -> None:
    """What is exported is the state_dict of the network, and makes it the fitted model."""
    code, out, _ = run("export", fit, "--output", "deep/w.safetensors", "--json")
    assert code == 0
    model = sp.load(fit)
    assert json.loads(out)["non_zeros"] == model.nnz
    state = load_file("deep/w.safetensors")
    assert state.keys() == load_file(base / "weights.safetensors").keys()
    net.load_state_dict(state)
    np.testing.assert_allclose(net(torch.from_numpy(digits())).detach(), model.predict(digits()), atol=1e-4)


def test_weights_of_the_network(run: Run, base: Path, fitted: Any) -> None:
    layers = [nn.Linear(64, 12, bias=False), nn.ReLU(), nn.Linear(12, 8, bias=False), nn.ReLU()]
    check_weights(run, base, fitted("sparse"), nn.Sequential(*layers, nn.Linear(8, 10, bias=False)))


def test_a_folder_of_sparse_weights(run: Run, fitted: Any) -> None:
    code, out, _ = run("export", fitted("sparse"), "--output", "weights")
    assert code == 0
    assert "dense; these zipped take" in out
    layers = [nn.Linear(64, 12, bias=False), nn.ReLU(), nn.Linear(12, 8, bias=False), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(8, 10, bias=False))
    sp.load_weights(net, "weights")
    expected = load_file(fitted("sparse") / "weights.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    one_line(run("export", fitted("sparse"), "--output", "weights"), "exists already; choose another --output")
    code, out, _ = run(
        "export", fitted("sparse"), "--output", "weights", "--overwrite", "--values", "float16", "--json"
    )
    facts = json.loads(out)
    assert max(facts["bytes"], facts["zipped_bytes"]) < facts["dense_bytes"]
    assert 0 < facts["change"] < 1e-2
    one_line(run("export", fitted("sparse"), "--output", "m.onnx", "--values", "float16"), "is for a folder")
    manifest = json.loads((fitted("sparse") / "run.json").read_text())
    assert manifest["results"]["bytes"].keys() == {"dense", "zipped", "sparse"}


def test_weights_of_a_robust_network(run: Run) -> None:
    assert run("baseline", "--arch", "6", "--epochs", "1", "--output", "base")[0] == 0
    assert run("fit", "base", "--samples", "50", "--recipe", "robust", "--attacks", "0", "--output", "fit")[0] == 0
    check_weights(run, Path("base"), Path("fit"), nn.Sequential(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10)))


@pytest.mark.parametrize(
    ("folder", "output", "told"),
    [
        ("matching", "m.txt", "output m.txt: name a file that ends in .onnx"),
        ("matching", "there.onnx", "exists already; choose another --output"),
        ("nowhere", "m.onnx", "no such folder"),
        ("base", "m.onnx", "expected one of `simplicit fit`"),
        ("paper", "w.safetensors", "weights of another structure than baseline"),
        ("robust", "w.safetensors", "constants in a layer without biases"),
        ("paper", "m.onnx", "A has cycles"),
    ],
)
def test_mistakes(run: Run, base: Path, fitted: Any, folder: str, output: str, told: str) -> None:
    Path("there.onnx").write_text("precious")
    place = fitted(folder) if folder in RECIPES else base.with_name(folder)
    one_line(run("export", place, "--output", output), told)
    assert files() == ["there.onnx"]
    assert Path("there.onnx").read_text() == "precious"


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors"])
def test_files_of_a_run_are_not_replaced(run: Run, fitted: Any, name: str) -> None:
    shutil.copytree(fitted("sparse"), "f")
    before = Path("f", name).read_bytes()
    one_line(run("export", "f", "--output", f"f/{name}", "--overwrite"), f"--output f/{name}: belongs to the run in f")
    assert Path("f", name).read_bytes() == before
