"""Gathers, convolutions and what is made of them, against the matrices that they stand for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from simplicit import collatz_wielandt, perron_frobenius
from simplicit.errors import DataError, InputError
from simplicit.implicit import (
    Activation,
    ConvMap,
    CsrMap,
    GatheredMap,
    GatherMap,
    ImplicitModel,
    LinearMap,
    RepeatedMap,
    StateGroup,
    SumMap,
    TransposedMap,
    added,
    composed,
    equilibrium,
    load,
    rescale,
    save,
)
from simplicit.implicit.maps.base import restored
from simplicit.implicit.maps.files import Stored

SHAPE = (4, 5, 6)
SIZE = 120


def convolution(seed: int = 0, **changes: Any) -> ConvMap:
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"kernel": (3, 3), "outputs": 4, "groups": 1, "padding": (1, 1)} | changes
    kernel, outputs = options.pop("kernel"), options.pop("outputs")
    weight = rng.normal(size=(outputs, SHAPE[0] // options["groups"], *kernel))
    weight[rng.random(weight.shape) < 0.3] = 0.0
    return ConvMap(weight, SHAPE, **options)


def gather(seed: int = 0, injective: bool = True, factors: bool = True) -> GatherMap:
    rng = np.random.default_rng(seed)
    columns = rng.permutation(SIZE) if injective else rng.integers(0, SIZE, SIZE)
    columns[rng.random(SIZE) < 0.2] = -1
    return GatherMap(columns, SIZE, rng.normal(size=SIZE) if factors else None)


def repeated(seed: int, repeats: int, inner: int) -> RepeatedMap:
    size = SIZE // (repeats * inner)
    weight = np.random.default_rng(seed).normal(size=(size, size))
    weight[np.random.default_rng(seed + 1).random(weight.shape) < 0.3] = 0.0
    return RepeatedMap(weight, repeats, inner)


def of_channels(*source: int) -> GatherMap:
    """Channels moved whole; -1 for one of zeros."""
    places = np.arange(30)
    return GatherMap(np.concatenate([np.where(c < 0, -1, 30 * c + places) for c in source]), SIZE)


MAPS: dict[str, Callable[[], LinearMap]] = {
    "identity": lambda: GatherMap.identity(SIZE),
    "gather": gather,
    "gather that repeats": lambda: gather(1, injective=False),
    "channels": lambda: of_channels(2, -1, 0, 0),
    "3 x 3": convolution,
    "1 x 1": lambda: convolution(1, kernel=(1, 1), padding=(0, 0)),
    "in groups": lambda: convolution(2, groups=2),
    "by channel": lambda: convolution(3, groups=4),
    "dilated": lambda: convolution(4, dilation=(1, 2), padding=(1, 2)),
    "with factors": lambda: convolution(5).scaled(*np.random.default_rng(5).normal(size=(2, SIZE))),
    "gathered": lambda: composed(gather(6), composed(convolution(6), gather(7))),
    "gathered twice": lambda: composed(convolution(8), gather(8, injective=False)),
    "repeated": lambda: repeated(11, 6, 1),
    "repeated twice": lambda: repeated(12, 2, 3),
    "inside": lambda: repeated(13, 1, 5),
    "repeated with factors": lambda: repeated(14, 3, 2).scaled(*np.random.default_rng(14).normal(size=(2, SIZE))),
    "transposed": lambda: TransposedMap(convolution(17, groups=2)),
    "transposed with factors": lambda: TransposedMap(convolution(18)).scaled(
        *np.random.default_rng(18).normal(size=(2, SIZE))
    ),
    "transposed and gathered": lambda: composed(gather(19), composed(TransposedMap(convolution(19)), gather(20))),
    "repeated and gathered": lambda: composed(gather(15), composed(repeated(15, 4, 1), gather(16))),
    "sum": lambda: added(convolution(9, groups=2), gather(9)),
    "written": lambda: CsrMap(np.random.default_rng(10).normal(size=(SIZE, SIZE)) * (np.arange(SIZE) % 3 == 0)),
}


def test_kinds() -> None:
    assert isinstance(MAPS["gathered"](), GatheredMap)
    assert isinstance(MAPS["sum"](), SumMap)
    assert all(isinstance(make(), LinearMap) for make in MAPS.values())


def test_whether_a_gathered_map_is_zero_is_seen_without_writing_it_down(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = GatherMap(np.array([0, 0]), 1)  # two inputs of the weight are one element, so that entries add up
    after = GatherMap(np.arange(1), 1)
    assert GatheredMap(after, RepeatedMap(np.array([[1.0, -1.0]])), twice).is_zero
    assert GatheredMap(after, RepeatedMap(np.zeros((1, 2))), twice).is_zero
    some = GatheredMap(after, RepeatedMap(np.array([[1.0, 2.0]])), twice)
    monkeypatch.delattr(GatheredMap, "to_csr")
    assert not some.is_zero


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MAPS)
def test_products(name: str, dtype: type) -> None:
    linear = MAPS[name]().astype(dtype)
    matrix = linear.to_csr().toarray().astype(np.float64)
    assert linear.dtype == linear.to_csr().dtype == dtype
    assert linear.shape == matrix.shape
    x, y = np.random.default_rng(1).normal(size=(2, 3, SIZE)).astype(dtype)
    tolerance = 1e-4 if dtype is np.float32 else 1e-11
    assert_allclose(linear.apply(torch.from_numpy(x)).numpy(), x @ matrix.T, atol=tolerance)
    assert_allclose(linear.apply_transpose(torch.from_numpy(y)).numpy(), y @ matrix, atol=tolerance)
    assert_allclose(linear.absolute().to_csr().toarray(), abs(matrix), atol=tolerance)
    assert_array_equal(linear.row_counts(), (matrix != 0).sum(axis=1))
    assert linear.nnz == np.count_nonzero(matrix)


@pytest.mark.parametrize("name", MAPS)
def test_products_leave_their_operands_alone(name: str) -> None:
    linear, x = MAPS[name](), torch.ones(2, SIZE, dtype=torch.float64)
    for product in (linear.apply(x), linear.apply_transpose(x)):
        product += 1.0
    assert bool((x == 1).all())


@pytest.mark.parametrize("name", MAPS)
def test_scaled(name: str) -> None:
    linear, (left, right) = MAPS[name](), np.random.default_rng(2).normal(size=(2, SIZE))
    matrix = linear.to_csr().toarray()
    assert_allclose(linear.scaled(left, right).to_csr().toarray(), left[:, None] * matrix * right, atol=1e-11)
    assert_allclose(linear.scaled(left).to_csr().toarray(), left[:, None] * matrix, atol=1e-11)
    assert_allclose(linear.scaled(right=right).to_csr().toarray(), matrix * right, atol=1e-11)
    assert_allclose(linear.to_csr().toarray(), matrix, atol=0)


@pytest.mark.parametrize("name", MAPS)
def test_values_are_its_own_numbers(name: str) -> None:
    linear, rng = MAPS[name](), np.random.default_rng(3)
    X, Y_bar = (torch.from_numpy(rng.normal(size=(3, SIZE))) for _ in range(2))
    values = linear.values
    assert values is not None
    assert_array_equal(linear.with_values(values).to_csr().toarray(), linear.to_csr().toarray())
    assert_allclose(linear.product()(X), linear.apply(X), atol=1e-11)
    doubled = linear.with_values(2 * values)
    assert_allclose(linear.product(2 * values)(X), doubled.apply(X), atol=1e-11)
    assert linear.gradient(Y_bar, X).shape == values.shape
    if len(values):
        values.requires_grad_()
        (expected,) = torch.autograd.grad((linear.product(values)(X) * Y_bar).sum(), values)
        assert_allclose(linear.gradient(Y_bar, X), expected, atol=1e-10)
    X.requires_grad_()
    (back,) = torch.autograd.grad(linear.product()(X), X, Y_bar)
    assert_allclose(back, linear.apply_transpose(Y_bar), atol=1e-11)


@pytest.mark.parametrize("name", MAPS)
def test_values_of_a_cast_module(name: str) -> None:
    """Blocks keep the dtype that they came in, products and gradients take that of the samples."""
    linear, rng = MAPS[name](), np.random.default_rng(4)
    X, Y_bar = (torch.from_numpy(rng.normal(size=(3, SIZE))) for _ in range(2))
    found = linear.gradient(Y_bar.float(), X.float())
    assert_allclose(found.double(), linear.gradient(Y_bar, X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("first", "second"), [*itertools.product(MAPS, MAPS)])
def test_algebra(first: str, second: str) -> None:
    a, b = MAPS[first](), MAPS[second]()
    A, B = a.to_csr().toarray(), b.to_csr().toarray()
    assert_allclose(composed(a, b).to_csr().toarray(), A @ B, atol=1e-10)
    assert_allclose(added(a, b).to_csr().toarray(), A + B, atol=1e-10)
    x = torch.randn(2, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert_allclose(composed(a, b).apply(x), x.numpy() @ (A @ B).T, atol=1e-9)
    assert_allclose(composed(a, b).absolute().apply(x), x.numpy() @ abs(A @ B).T, atol=1e-9)
    assert_allclose(added(a, b).absolute().apply(x), x.numpy() @ abs(A + B).T, atol=1e-9)


@pytest.mark.parametrize(
    "made",
    [
        lambda: composed(of_channels(3, -1, 0, 0), convolution()),
        lambda: composed(convolution(), of_channels(3, -1, 0, 0)),
        lambda: composed(convolution(), convolution(1, kernel=(1, 1), padding=(0, 0))),
        lambda: composed(convolution(1, kernel=(1, 1), padding=(0, 0), groups=4), convolution(2, groups=4)),
        lambda: added(convolution(), GatherMap.identity(SIZE)),
        lambda: added(convolution(), of_channels(1, 0, -1, 3)),
        lambda: added(convolution(), convolution(1, kernel=(1, 1), padding=(0, 0))),
        lambda: added(convolution(groups=2), convolution(1)),
        lambda: convolution().scaled(left=np.repeat(np.arange(4.0), 30), right=np.repeat(np.arange(1.0, 5.0), 30)),
    ],
)
def test_stays_a_convolution(made: Callable[[], LinearMap]) -> None:
    found = made()
    assert isinstance(found, ConvMap)
    assert found.plain


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(*(st.integers(1, 7),) * 2),
    kernel=st.tuples(*(st.integers(1, 4),) * 2),
    stride=st.tuples(*(st.integers(1, 3),) * 2),
    padding=st.tuples(*(st.integers(0, 3),) * 2),
    dilation=st.tuples(*(st.integers(1, 3),) * 2),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_every_geometry(
    sizes: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, seed: int
) -> None:
    weight = np.random.default_rng(seed).normal(size=(4, 4 // groups, *kernel))
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if any(d * (k - 1) + 1 > n + 2 * p for n, k, p, d in zip(sizes, kernel, padding, dilation, strict=True)):
        with pytest.raises(InputError, match="larger than the padded input"):
            ConvMap(weight, (4, *sizes), **geometry)
        return
    linear = ConvMap(weight, (4, *sizes), **geometry)
    matrix = linear.to_csr()
    eye = torch.eye(linear.shape[1], dtype=torch.float64)
    expected = torch.nn.functional.conv2d(
        eye.reshape(-1, 4, *sizes), torch.from_numpy(weight), None, stride, padding, dilation, groups
    )
    assert_array_equal(expected.shape[1:], linear.output_shape)
    assert_allclose(matrix.toarray().T, expected.flatten(1), atol=1e-12)
    assert matrix.has_canonical_format
    back = linear.apply_transpose(torch.eye(linear.shape[0], dtype=torch.float64))
    assert_allclose(back, matrix.toarray(), atol=1e-12)


def layered() -> ImplicitModel:
    """Two layers of convolutions with a shortcut, and a group that depends on itself."""
    relu = Activation("relu")
    groups = [StateGroup("last", SIZE, relu), StateGroup("first", SIZE, relu)]
    blocks = {
        ("last", "first"): convolution(1),
        ("last", "last"): convolution(2, groups=2).scaled(np.full(SIZE, 0.02)),
        ("last", "input"): GatherMap.identity(SIZE),
        ("first", "input"): convolution(3),
        ("output", "last"): MAPS["gathered"](),
        ("output", "first"): MAPS["sum"](),
    }
    return ImplicitModel(groups, blocks, n_inputs=SIZE, n_outputs=SIZE, input_shape=SHAPE)


def written(model: ImplicitModel) -> ImplicitModel:
    return ImplicitModel.from_matrices(model.A, model.B, model.C, model.D, activation=model.groups)


def test_a_model_of_maps_is_that_of_their_matrices(tmp_path: Path) -> None:
    model = layered()
    plain, u = written(model), np.random.default_rng(0).normal(size=(3, SIZE))
    assert_allclose(model.predict(u), plain.predict(u), atol=1e-8)
    found, expected = equilibrium(model, u), equilibrium(plain, u)
    assert_allclose(found.states, expected.states, atol=1e-8)
    assert_allclose(found.error_bound, expected.error_bound, rtol=0.2)
    assert float(perron_frobenius(model)) == pytest.approx(float(perron_frobenius(plain)), rel=1e-9)
    v = np.random.default_rng(1).random(SIZE * 2) + 0.5
    assert collatz_wielandt(model, v) == pytest.approx(collatz_wielandt(plain, v))
    assert model.storage_bits() == plain.storage_bits()
    assert_allclose(rescale(model).A.toarray(), rescale(plain).A.toarray(), atol=1e-12)
    assert model.csr_bytes == sum(
        part.data.nbytes + part.indices.nbytes + part.indptr.nbytes for part in (model.A, model.B, model.C, model.D)
    )
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert [type(block) for block in loaded.blocks.values()] == [type(block) for block in model.blocks.values()]
    assert_array_equal(loaded.predict(u), model.predict(u))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GatherMap([0, 3], 3), "each from -1 to 2"),
        (lambda: GatherMap([0, 1], 3, np.ones(3)), r"factors must have shape \(2,\)"),
        (lambda: GatherMap([0, 1], 3, np.array([1.0, np.inf])), "factors must be finite"),
        (lambda: ConvMap(np.ones((2, 3, 3, 3)), (4, 5, 5)), "in 1 groups takes 3 channels"),
        (lambda: ConvMap(np.ones((2, 4, 3)), (4, 5, 5)), "does not fit inputs of shape"),
        (lambda: ConvMap(np.ones((2, 4, 7, 3)), (4, 5, 5)), "larger than the padded input"),
        (lambda: ConvMap(np.full((2, 4, 3, 3), np.nan), (4, 5, 5)), "must be finite"),
        (lambda: ConvMap(np.ones((2, 4, 3, 3)), (4, 5, 5), stride=(0, 1)), "must be at least 1"),
        (lambda: convolution().scaled(left=np.ones(3)), r"must have shape \(120,\)"),
        (lambda: ConvMap(np.full((2, 4, 3, 3), 1e200), (4, 5, 5)).astype(np.float32), "finite in float32"),
    ],
)
def test_bad_input(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "dense"}, "the kind 'dense' is not one of"),
        ({"weight_shape": [10**6, 10**6, 3]}, "do not fit"),
        ({"weight_shape": [4, 4, 3, "3"]}, "weight_shape must be a list of integers"),
        ({"stride": [0, 1]}, "must be at least 1"),
        ({"groups": 3}, "takes 12 channels"),
        ({"factors": ["left"]}, "lacks the array"),
    ],
)
def test_damaged_convolution(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    entry, arrays = convolution().to_stored()
    file = tmp_path / "model.safetensors"
    stored = Stored(entry | change, (SIZE, SIZE), np.dtype(np.float64), arrays, file, "config.json")
    with pytest.raises((InputError, DataError), match=message):
        restored(stored)


def test_convolutions_of_other_output_shapes_are_not_merged() -> None:
    """Their flat sizes agree, (2, 4, 6) and (2, 6, 4), and the taps of one are among those of the other."""
    wide = ConvMap(np.random.default_rng(0).normal(size=(2, 1, 3, 3)), (1, 4, 4), padding=(1, 2))
    high = ConvMap(np.random.default_rng(1).normal(size=(2, 1, 1, 1)), (1, 4, 4), padding=(1, 0))
    assert wide.shape == high.shape
    expected = (wide.to_csr() + high.to_csr()).toarray()
    for first, second in ((wide, high), (high, wide)):
        assert_allclose(added(first, second).to_csr().toarray(), expected, atol=1e-14)


def test_a_product_is_bounded_by_its_own_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    tall, flat = CsrMap(np.ones((100, 1))), CsrMap(np.ones((1, 100)))
    monkeypatch.setattr("simplicit.implicit.maps.algebra.LARGEST_NNZ", 5_000)
    with pytest.raises(InputError, match="no short form"):
        composed(tall, flat)
    assert composed(flat, tall).nnz == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvMap(np.ones((1, 1, 3)), (1, 8), stride=(1, 1)), "stride must have 1 numbers"),
        (lambda: ConvMap(np.ones((1, 1, 3, 3)), (1, 8, 8), padding=(1,)), "padding must have 2 numbers"),
        (lambda: ConvMap(np.ones((1, 1, 1), np.float32), (1, 2), left=np.array([1e40, 1e39])), "finite in float32"),
        (lambda: GatherMap([0.0, 1.5], 2), "columns must be integers"),
    ],
)
def test_maps_that_are_none(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_other_numbers_become_floats() -> None:
    assert ConvMap(np.ones((1, 1, 3), int), (1, 8)).dtype == np.float64
    assert ConvMap(np.ones((1, 1, 3), np.float16), (1, 8)).dtype == np.float32
    assert GatherMap([0, 1], 2, np.array([2, 3])).dtype == np.float64
