"""A kind of map of one's own: registered by its class, stored, loaded, multiplied, trained, composed and exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

import simplicit as sp
from simplicit.errors import DataError, InputError
from simplicit.implicit import CsrMap, ImplicitModel, LinearMap, added, composed, to_torch
from simplicit.implicit.maps import KINDS, Csr, algebra, canonical_csr
from simplicit.implicit.maps.base import Product
from simplicit.implicit.maps.files import Arrays, Entry, Stored
from simplicit.runtime.onnx import linear

N = 6


class Circulant(LinearMap, kind="circulant"):
    """Mᵢⱼ = c[(i - j) mod n]: n numbers, each n times, never written down in a file."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers
        self.shape, self.dtype = (len(numbers), len(numbers)), numbers.dtype

    def _matrix(self, values: Tensor) -> Tensor:
        n = len(values)
        return values[(torch.arange(n)[:, None] - torch.arange(n)) % n]

    def apply(self, x: Tensor) -> Tensor:
        return self.product()(x)

    def apply_transpose(self, y: Tensor) -> Tensor:
        return y @ self._matrix(self.values)

    def absolute(self) -> Circulant:
        return Circulant(abs(self.numbers))

    def scaled(self, left: Any = None, right: Any = None) -> LinearMap:
        return CsrMap(self.to_csr()).scaled(left, right)

    def astype(self, dtype: Any) -> Circulant:
        return Circulant(self.numbers.astype(dtype))

    def to_csr(self) -> Csr:
        return canonical_csr(self._matrix(self.values))

    @property
    def values(self) -> Tensor:
        return torch.from_numpy(self.numbers.copy())

    def with_values(self, values: Tensor) -> Circulant:
        return Circulant(values.detach().numpy())

    def product(self, values: Tensor | None = None) -> Product:
        matrix = self._matrix(self.values if values is None else values)
        return lambda x: x @ matrix.T

    def to_stored(self) -> tuple[Entry, Arrays]:
        return {"kind": "circulant"}, {"numbers": self.numbers}

    @classmethod
    def from_stored(cls, stored: Stored) -> Circulant:
        return cls(stored.floats("numbers", stored.shape[0]))


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    """The kind is known to files during these tests only."""
    yield
    del KINDS["circulant"]


def circulant(seed: int = 0) -> Circulant:
    return Circulant(np.random.default_rng(seed).normal(size=N))


def model() -> ImplicitModel:
    groups = [
        sp.implicit.StateGroup("last", N, sp.implicit.Activation("relu")),
        sp.implicit.StateGroup("first", N, sp.implicit.Activation("tanh")),
    ]
    blocks = {
        ("first", "input"): circulant(0),
        ("last", "first"): added(circulant(1), CsrMap(np.eye(N))),
        ("output", "last"): circulant(2),
    }
    return ImplicitModel(groups, blocks, n_inputs=N, n_outputs=N, output_bias=np.ones(N))


def written(one: ImplicitModel) -> ImplicitModel:
    return one.with_matrix(one.matrix)


U = np.random.default_rng(9).normal(size=(5, N))


def test_products_and_counts() -> None:
    one = circulant()
    matrix = one.to_csr().toarray()
    assert_allclose(one.apply(torch.from_numpy(U)), U @ matrix.T)
    assert_allclose(one.apply_transpose(torch.from_numpy(U)), U @ matrix)
    assert_array_equal(one.row_counts(), [N] * N)
    assert_allclose(one.row_sums(), np.abs(matrix).sum(axis=1))
    assert one.nnz == N * N
    assert repr(one) == "Circulant(shape=(6, 6), nnz=36, dtype=float64)"


def test_a_model_of_it_is_that_of_its_matrices() -> None:
    assert_allclose(model().predict(U), written(model()).predict(U), atol=1e-12)
    assert_allclose(sp.equilibrium(model(), U).states, sp.equilibrium(written(model()), U).states, atol=1e-12)
    own, plain = (
        sp.certify(one, U[:3], eps=0.01, labels=np.zeros(3, int), clip=None).margins
        for one in (model(), written(model()))
    )
    for method, margins in own.items():
        assert_allclose(margins, plain[method], atol=1e-9)


def test_is_stored_and_loaded_in_its_own_form(tmp_path: Path) -> None:
    sp.save(model(), tmp_path / "model")
    loaded = sp.load(tmp_path / "model")
    assert isinstance(loaded.blocks["first", "input"], Circulant)
    assert [type(part).__name__ for part in loaded.blocks["last", "first"].parts] == ["Circulant", "CsrMap"]
    assert_array_equal(loaded.predict(U), model().predict(U))


def test_a_file_of_a_kind_that_is_not_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sp.save(model(), tmp_path / "model")
    monkeypatch.delitem(KINDS, "circulant")
    with pytest.raises(DataError, match=r"block\.\d.*: the kind 'circulant' is not one of convolution, csr, gather"):
        sp.load(tmp_path / "model")


def test_is_trained_in_its_own_numbers() -> None:
    module = to_torch(model(), trainable=True)
    assert [len(values) for values in module.values] == [N + N, N, N]
    names, parameters = zip(*module.named_parameters(), strict=True)

    def outputs(*values: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), (torch.from_numpy(U),)
        )
        return result

    assert torch.autograd.gradcheck(outputs, parameters, atol=1e-5, rtol=1e-5)
    loss = module(torch.from_numpy(U)).square().sum()
    loss.backward()
    with torch.no_grad():
        for values in module.values:
            values -= 1e-5 * values.grad
    assert module(torch.from_numpy(U)).square().sum() < loss
    assert isinstance(module.model.blocks["output", "last"], Circulant)
    other = {("output", "input"): circulant()}
    with pytest.raises(InputError, match="state_dict is of another implicit model"):
        module.load_state_dict(to_torch(ImplicitModel([], other, n_inputs=N, n_outputs=N)).state_dict())


def test_composes_entry_by_entry_until_there_is_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = circulant(0), circulant(1)
    product = first.to_csr() @ second.to_csr()
    assert isinstance(composed(first, second), CsrMap)
    assert_allclose(composed(first, second).to_csr().toarray(), product.toarray())

    def convolved(outer: Circulant, inner: Circulant) -> Circulant:
        return Circulant(outer.to_csr() @ inner.numbers)

    monkeypatch.setattr(algebra, "COMPOSITIONS", [*algebra.COMPOSITIONS, (Circulant, Circulant, convolved)])
    assert isinstance(composed(first, second), Circulant)
    assert_allclose(composed(first, second).to_csr().toarray(), product.toarray())


def test_is_exported_as_a_matrix_until_there_is_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    one = ImplicitModel([], {("output", "input"): circulant()}, n_inputs=N, n_outputs=N)
    sp.export_onnx(one, tmp_path / "dense.onnx")

    def gathered(graph: Any, block: Circulant, x: str) -> str:
        places = (np.arange(N)[:, None] - np.arange(N)) % N
        matrix = graph.node("Gather", block.numbers, places.T)
        return str(graph.node("MatMul", x, matrix))

    monkeypatch.setitem(linear.LINEAR, Circulant, gathered)
    assert sp.export_onnx(one, tmp_path / "own.onnx").difference < 1e-12
    kinds = [[node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node] for name in ("dense", "own")]
    assert kinds == [["MatMul", "Identity"], ["Gather", "MatMul", "Identity"]]
