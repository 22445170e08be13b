"""``export_onnx`` for models with blocks: every operation that has an entry, and networks of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from runtime.operations import CASES
from runtime.programs import Case, case
from simplicit.errors import InputError
from simplicit.implicit import Block, CsrMap, GatherMap, ImplicitModel, StateGroup
from simplicit.implicit.groups import program
from simplicit.implicit.groups.program import Kind, Value
from simplicit.runtime.onnx.operations import OPERATIONS, WITHOUT_FORM
from simplicit.runtime.onnx.repeats import repeats

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
reference = pytest.importorskip("onnx.reference")

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11}
#: Operators for which onnxruntime has no kernel in float64; ONNX's reference has Erf in float32 only.
ONLY_FLOAT32 = {"Erf", "Atan", "Asin", "Acos", "Conv", "ConvTranspose", "AveragePool"}


def model_of(case: Case, dtype: type) -> ImplicitModel:
    """A model of one block: its operands are the input, its states are the output."""
    a = sum(math.prod(shape) for shape in case.shapes)
    z = torch.zeros(2, a, dtype=torch.float64)
    size = Block(case.shapes, case.steps, 1, case.constants).result(z).numel() // 2
    group = StateGroup("block", size, Block(case.shapes, case.steps, size, case.constants))
    blocks = {("block", "input"): GatherMap(np.arange(a), a), ("output", "block"): GatherMap(np.arange(size), size)}
    return ImplicitModel([group], blocks, n_inputs=a, n_outputs=size).astype(dtype)


def session_of(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_operation(case: Case, tmp_path: Path) -> None:
    for dtype, tolerance in TOLERANCE.items():
        model, path = model_of(case, dtype), tmp_path / f"{np.dtype(dtype)}.onnx"
        sp.export_onnx(model, path, check=False)
        if dtype == np.float64 and {node.op_type for node in onnx.load(path).graph.node} & ONLY_FLOAT32:
            with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
                session_of(path)
            session, tolerance = reference.ReferenceEvaluator(str(path)), 2e-6
        else:
            session = session_of(path)
        for m in (1, 2, 7):
            U = np.random.default_rng(m).uniform(*case.span, (m, model.n_inputs)).astype(dtype)
            found = session.run(None, {"inputs": U})[0]
            assert found.dtype == dtype
            np.testing.assert_allclose(found, model.predict(U), rtol=tolerance, atol=tolerance)


def test_every_operation_has_a_case_or_a_reason() -> None:
    tried = {step.packet for case in CASES for step in case.steps}
    assert tried >= set(OPERATIONS)
    assert not set(WITHOUT_FORM) & tried
    assert program.OPERATIONS - tried == set(WITHOUT_FORM)


class Gated(nn.Module):
    """A multilayer perceptron with a gate, normalised by the root of mean squares."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.gate, self.down, self.norm = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 6), nn.RMSNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.silu(self.gate(self.norm(x))) * self.up(self.norm(x)))


class Squeezed(nn.Module):
    """Channels of a convolution, each with a factor that its mean decides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        factors = torch.sigmoid(self.last(torch.relu(self.first(y.mean((2, 3))))))
        return y * factors[:, :, None, None]


class Causal(nn.Module):
    """Attention by its formula, in which no token sees a later one."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        m, tokens, width = x.shape
        q, k, v = (part.reshape(m, tokens, 2, 4).transpose(1, 2) for part in self.qkv(x).split(width, dim=-1))
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        scores = (q @ k.transpose(-1, -2) / 2.0).masked_fill(~seen, -math.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(m, tokens, width))


class Tokens(nn.Module):
    """A layer norm over each token, and a head on the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.log_softmax(self.head(self.norm(x)[:, -1]), dim=-1)


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][:, -1]


NETWORKS = {
    "gated": (Gated, (6,)),
    "squeezed": (Squeezed, (3, 5, 5)),
    "causal": (Causal, (5, 8)),
    "tokens": (Tokens, (5, 8)),
    "post-norm": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
    "pre-norm": (lambda: nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True), (5, 8)),
    "recurrent": (Last, (4, 4)),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Mish()), (3, 5, 5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, dtype: type, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    net = make().to(torch.float32 if dtype == np.float32 else torch.float64).eval()
    model = sp.from_torch(net, torch.rand(3, *shape, dtype=next(net.parameters()).dtype))
    assert model.dtype == dtype
    path = tmp_path / "m.onnx"
    written = sp.export_onnx(model, path)
    if dtype == np.float64 and name in ("squeezed", "group norm"):  # which onnxruntime has no convolutions for
        assert written.checked_by == "onnx.reference"
        return
    assert written.checked_by == "onnxruntime"
    session = session_of(path)
    assert {end.type for end in (*session.get_inputs(), *session.get_outputs())} == {
        "tensor(float)" if dtype == np.float32 else "tensor(double)"
    }
    assert session.run(None, {"inputs": np.zeros((0, *shape), dtype=dtype)})[0].shape == (0, *model.output_shape)
    for m in (1, 2, 7):
        U = np.random.default_rng(m).normal(size=(m, *shape)).astype(dtype)
        found = session.run(None, {"inputs": U})[0]
        np.testing.assert_allclose(found.reshape(m, -1), model.predict(U), rtol=2e-5, atol=1e-5)
        with torch.no_grad():
            np.testing.assert_allclose(found, net(torch.from_numpy(U)).numpy(), rtol=1e-4, atol=1e-5)


def test_what_has_no_form_is_refused_by_its_name(tmp_path: Path) -> None:
    whole = ("to.dtype", Value(0), Kind("int64"))
    for steps, said in (
        (case("lgamma.default", Value(0)), r"its operation 'lgamma' is a function that ONNX has no operator for"),
        (case(whole, ("bitwise_not.default", Value(1))), r"its operation 'bitwise_not' acts on the bits of integers"),
    ):
        model = model_of(steps, np.float32)
        with pytest.raises(InputError, match=rf"model: group 'block' .* {said}\. Leave .* simplicit.to_torch"):
            sp.export_onnx(model, tmp_path / "m.onnx")
    assert not any(tmp_path.iterdir())


def test_what_nothing_needs_is_left_out(tmp_path: Path) -> None:
    model = model_of(case(("max.dim", Value(0), 2), ("getitem", Value(1), 0)), np.float32)
    sp.export_onnx(model, tmp_path / "m.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert "ReduceMax" in operators
    assert "ArgMax" not in operators


@pytest.mark.parametrize("seed", range(3))
def test_matrices_that_repeat_smaller_ones(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    cores = [rng.normal(size=(6, 4)) * (rng.random((6, 4)) < 0.9), rng.normal(size=(3, 5))]
    matrix = scipy.sparse.block_diag([cores[0]] * 5 + [cores[1]] * 4 + [np.zeros((2, 3))]).toarray()
    matrix = matrix[rng.permutation(len(matrix))] if seed else matrix  # rows of a part may be in another order
    if seed == 1:
        matrix = matrix[:, rng.permutation(matrix.shape[1])]
    rows, columns = matrix.shape
    model = ImplicitModel([], {("output", "input"): CsrMap(matrix)}, n_inputs=columns, n_outputs=rows)
    written = sp.export_onnx(model, tmp_path / "m.onnx")
    assert written.difference < 1e-14
    tokens = scipy.sparse.block_diag([cores[0]] * 9).toarray().reshape(9, 6, 36).transpose(1, 0, 2).reshape(54, 36)
    (part,) = repeats(CsrMap(tokens).to_csr()) or ()
    np.testing.assert_array_equal(part.core, cores[0])
    np.testing.assert_array_equal(part.rows, np.arange(54).reshape(6, 9).T)
    assert repeats(CsrMap(rng.normal(size=(40, 40))).to_csr()) is None
    assert repeats(CsrMap(np.diag(rng.normal(size=40))).to_csr()) is None
