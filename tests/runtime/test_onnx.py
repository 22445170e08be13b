"""``export_onnx``: what onnxruntime computes from the file is what the model computes; one file, whole or not there."""

from __future__ import annotations

import builtins
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from mixed import IDS, captured, mixed, samples
from simplicit.errors import DataError, InputError, MissingExtraError
from simplicit.implicit import Activation, CsrMap, ImplicitModel, StateGroup
from simplicit.runtime.onnx import activations, check_onnx, linear

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ACTIVATIONS = [
    Activation("relu"),
    Activation.of("leaky_relu", negative_slope=0.2),
    Activation("abs"),
    Activation("identity"),
    Activation("tanh"),
    Activation("sigmoid"),
    Activation.of("hardtanh", min_val=-0.5, max_val=2.0),
    Activation.of("softplus", beta=2.0, threshold=10.0),
    Activation.of("elu", alpha=0.7),
    Activation("gelu"),
    Activation("gelu_tanh"),
    Activation("silu"),
]
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}


def in_layers(activation: Activation, dtype: type, seed: int = 0) -> ImplicitModel:
    """Two groups, a skip of the input to all; the first one has no bias."""
    rng = np.random.default_rng(seed)
    blocks = {
        ("output", "last"): rng.normal(size=(2, 3)),
        ("output", "first"): rng.normal(size=(2, 5)),
        ("last", "first"): rng.normal(size=(3, 5)),
        ("last", "input"): rng.normal(size=(3, 6)),
        ("first", "input"): 3 * rng.normal(size=(5, 6)),
        ("output", "input"): rng.normal(size=(2, 6)),
    }
    return ImplicitModel(
        [StateGroup("last", 3, activation), StateGroup("first", 5, activation)],
        {key: CsrMap(block.astype(dtype)) for key, block in blocks.items()},
        n_inputs=6,
        n_outputs=2,
        state_bias=np.concatenate([rng.normal(size=3), np.zeros(5)]),
        output_bias=rng.normal(size=2),
        input_shape=(2, 3),
        output_shape=(2, 1),
    )


def in_disorder(dtype: type) -> ImplicitModel:
    """Groups that depend on each other both ways, single states that do not."""
    rng = np.random.default_rng(3)
    n = 12
    order = rng.permutation(n)
    A = np.triu(rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.4), 1)[order][:, order]
    groups = [StateGroup("one", 5, Activation("tanh")), StateGroup("two", n - 5, Activation("relu"))]
    matrices = (A, rng.normal(size=(n, 4)), rng.normal(size=(2, n)), np.zeros((2, 4)))
    return ImplicitModel.from_matrices(*matrices, activation=groups, state_bias=rng.normal(size=n)).astype(dtype)


def session_of(path: Path) -> Any:
    return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def run(path: Path, U: np.ndarray) -> np.ndarray:
    return np.asarray(session_of(path).run(None, {"inputs": U})[0])


def compare(model: ImplicitModel, path: Path, tolerance: float) -> None:
    for m in (0, 1, 2, 7):
        U = np.random.default_rng(m).normal(size=(m, *model.input_shape)).astype(model.dtype)
        found = run(path, U)
        assert found.dtype == model.dtype
        assert found.shape == (m, *model.output_shape)
        if m:
            np.testing.assert_allclose(found.reshape(m, -1), model.predict(U), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.name)
def test_every_activation(activation: Activation, dtype: type, tmp_path: Path) -> None:
    model, path = in_layers(activation, dtype), tmp_path / "m.onnx"
    written = sp.export_onnx(model, path)
    assert (written.path, written.size) == (path, path.stat().st_size)
    assert list(tmp_path.iterdir()) == [path]  # one file, nothing beside it
    if dtype == np.float64 and activation.name == "gelu":
        assert written.checked_by == "onnx.reference"
        assert written.difference <= 1e-6
        return
    assert written.checked_by == "onnxruntime"
    assert written.difference <= TOLERANCE[dtype]
    compare(model, path, 10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_states_in_disorder(dtype: type, tmp_path: Path) -> None:
    model = in_disorder(dtype)
    assert model.state_equation.plan.order is not None
    sp.export_onnx(model, tmp_path / "m.onnx")
    compare(model, tmp_path / "m.onnx", 10 * TOLERANCE[dtype])


def test_models_without_states_inputs_or_anything(tmp_path: Path) -> None:
    eye = np.eye(3)
    nothing = np.zeros((3, 3))
    some = {"state_bias": [1.0, -2.0, 3.0], "output_bias": [0.5, 0.0, 0.0]}
    for number, model in enumerate(
        (
            ImplicitModel.from_matrices(np.zeros((0, 0)), np.zeros((0, 3)), np.zeros((3, 0)), eye),
            ImplicitModel.from_matrices(nothing, nothing, eye, nothing, **some),
            ImplicitModel.from_matrices(nothing, nothing, nothing, nothing),
        )
    ):
        path = tmp_path / f"{number}.onnx"
        sp.export_onnx(model, path)
        compare(model, path, 1e-12)


def test_a_network_and_its_fit(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    U = torch.rand(40, 3, 4)
    exact = sp.from_torch(net, U)
    sp.export_onnx(exact, tmp_path / "exact.onnx")
    np.testing.assert_allclose(run(tmp_path / "exact.onnx", U.numpy()), net(U).detach(), rtol=1e-5, atol=1e-5)
    fitted = sp.fit(net, U, sp.Matching(sparsity=40)).model
    sp.export_onnx(fitted, tmp_path / "fitted.onnx")
    compare(fitted, tmp_path / "fitted.onnx", 1e-12)
    sparse = sp.fit(net, U, sp.Sparse(40)).model
    sp.export_onnx(sparse, tmp_path / "sparse.onnx")
    compare(sparse, tmp_path / "sparse.onnx", 1e-5)


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    sp.export_onnx(in_layers(ACTIVATIONS[0], np.float32), tmp_path / "deep" / "m.onnx")
    document = onnx.load(tmp_path / "deep" / "m.onnx")
    assert document.producer_name == "simplicit"
    (first,), (last,) = document.graph.input, document.graph.output
    dims = [[d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim] for end in (first, last)]
    assert (first.name, last.name, dims) == ("inputs", "outputs", [["batch", 2, 3], ["batch", 2, 1]])


def test_cycles_are_refused(tmp_path: Path) -> None:
    A = 0.4 * np.array([[0.0, 1.0], [1.0, 0.0]])
    model = ImplicitModel.from_matrices(A, np.eye(2), np.eye(2), np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"A has cycles.*not written to ONNX; use .*structure 'baseline'"):
        sp.export_onnx(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="model must be an ImplicitModel"):
        sp.export_onnx(nn.Linear(2, 2), tmp_path / "m.onnx")  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_what_is_there_stays(tmp_path: Path) -> None:
    model, path = in_layers(ACTIVATIONS[0], np.float32), tmp_path / "m.onnx"
    path.write_text("precious")
    with pytest.raises(DataError, match="exists already; choose another name or pass overwrite=True"):
        sp.export_onnx(model, path)
    assert path.read_text() == "precious"
    sp.export_onnx(model, path, overwrite=True)
    compare(model, path, 1e-5)
    with pytest.raises(DataError, match="is a folder"):
        sp.export_onnx(model, tmp_path)
    with pytest.raises(DataError, match="cannot be written"):
        sp.export_onnx(model, path / "m.onnx")
    with pytest.raises(InputError, match="path must be a path"):
        sp.export_onnx(model, 3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_graph_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(activations.ACTIVATIONS, "relu", lambda graph, z: graph.node("Abs", z))
    model = in_layers(Activation("relu"), np.float32)
    with pytest.raises(DataError, match=r"not written, outputs of onnxruntime differ by .*1.0e-05 is allowed"):
        sp.export_onnx(model, tmp_path / "m.onnx")
    assert not any(tmp_path.iterdir())
    written = sp.export_onnx(model, tmp_path / "m.onnx", check=False)
    assert written.checked_by is None
    assert np.isnan(written.difference)


def test_kinds_of_maps_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Reversal(CsrMap):
        """Written as a gather, where there is an entry; as a matrix where there is none."""

    def gathered(graph: Any, block: Any, x: str) -> str:
        places = np.arange(block.shape[1])[::-1].copy()
        return str(graph.node("Gather", x, places, axis=1))

    blocks = {("output", "input"): Reversal(np.eye(4)[::-1])}
    model = ImplicitModel([], blocks, n_inputs=4, n_outputs=4)
    dense = sp.export_onnx(model, tmp_path / "dense.onnx")
    monkeypatch.setitem(linear.LINEAR, Reversal, gathered)
    sp.export_onnx(model, tmp_path / "gathered.onnx")
    compare(model, tmp_path / "gathered.onnx", 1e-12)
    assert dense.difference == 0
    operators = [
        [node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node] for name in ("dense", "gathered")
    ]
    assert operators == [["MatMul", "Identity"], ["Gather", "Identity"]]


def test_what_no_file_holds_is_refused_before_it_is_made(tmp_path: Path) -> None:
    n = 40_000
    wide = CsrMap(np.ones((1, n), dtype=np.float32))
    tall = CsrMap(sparse_diagonal(n))
    groups = [StateGroup("s", n, Activation("relu"))]
    model = ImplicitModel(groups, {("s", "input"): tall, ("output", "s"): wide}, n_inputs=n, n_outputs=1)
    with pytest.raises(
        InputError, match=r"blocks up to one of shape \(40000, 40000\) come to 6.0 GiB as dense matrices"
    ):
        sp.export_onnx(model, tmp_path / "m.onnx")


def sparse_diagonal(n: int) -> Any:
    import scipy.sparse

    return scipy.sparse.eye_array(n, dtype=np.float32, format="csr")


@pytest.mark.parametrize(("missing", "check"), [("onnx", False), ("onnxruntime", True)])
def test_extras_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, check: bool) -> None:
    real = builtins.__import__

    def importing(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(MissingExtraError, match=r"pip install 'simplicit\[onnx\]'"):
        sp.export_onnx(in_disorder(np.float32), tmp_path / "m.onnx", check=check)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sp.export_onnx(in_layers(ACTIVATIONS[9], np.float64), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")
    assert check_onnx() is onnx


def test_convolutions_are_written_as_such(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, groups=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    model = sp.from_torch(net, torch.rand(2, 3, 8, 8))
    written = sp.export_onnx(model, tmp_path / "model.onnx")
    assert written.checked_by == "onnxruntime"
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert {"Conv", "Gather"} <= kinds
    assert sp.export_onnx(sp.rescale(model), tmp_path / "rescaled.onnx").difference < 1e-5


def given(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() for name, value in inputs.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_are_those_of_the_network(dtype: str, tmp_path: Path) -> None:
    own = getattr(torch, dtype)
    net, u = mixed(own), samples(7, own)
    path = tmp_path / "m.onnx"
    written = sp.export_onnx(captured(own), path)
    assert written.checked_by == "onnxruntime"
    session = session_of(path)
    kinds = [(one.name, one.type, one.shape) for one in session.get_inputs()]
    floats = f"tensor({'float' if dtype == 'float32' else 'double'})"
    assert kinds == [
        ("ids", "tensor(int64)", ["batch", 5]),
        ("mask", "tensor(bool)", ["batch", 5]),
        ("image", floats, ["batch", 2, 3]),
        ("kinds", "tensor(int64)", ["batch", 5]),
    ]
    with torch.no_grad():
        expected = net(**u)["logits"].numpy()
    found = session.run(None, given(u))[0]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, atol=2e-6 if dtype == "float32" else 1e-12)


def test_a_file_has_the_dtype_of_the_network_or_the_one_asked_for(tmp_path: Path) -> None:
    u, wide = samples(7), captured().astype(np.float64)
    sp.export_onnx(wide, tmp_path / "own.onnx")
    assert session_of(tmp_path / "own.onnx").run(None, given(u))[0].dtype == np.float32
    sp.export_onnx(wide, tmp_path / "wide.onnx", dtype="float64")
    image = {"image": u["image"].double().numpy()}
    assert session_of(tmp_path / "wide.onnx").run(None, given(u) | image)[0].dtype == np.float64
    plain = in_layers(ACTIVATIONS[0], np.float64)
    assert sp.export_onnx(plain, tmp_path / "plain.onnx", dtype="float32").difference < 1e-5
    with pytest.raises(InputError, match="dtype must be float32 or float64, got float16"):
        sp.export_onnx(plain, tmp_path / "half.onnx", dtype="float16")


def test_integers_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(IDS, 4), nn.Flatten(), nn.Linear(12, 3)).eval()
    ids = torch.randint(IDS, (5, 3))
    sp.export_onnx(sp.from_torch(net, ids), tmp_path / "m.onnx")
    with torch.no_grad():
        found = session_of(tmp_path / "m.onnx").run(None, {"input": ids.numpy()})[0]
        np.testing.assert_allclose(found, net(ids), atol=1e-6)
