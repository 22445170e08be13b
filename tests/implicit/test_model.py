"""ImplicitModel: assembly from blocks, prediction, counting, and what it refuses."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from simplicit.errors import InputError
from simplicit.implicit import Activation, CsrMap, ImplicitModel, StateGroup

RNG = np.random.default_rng(0)
SIZES = {"last": 3, "first": 5}
MATRICES = {
    ("output", "last"): RNG.normal(size=(2, 3)),
    ("output", "first"): RNG.normal(size=(2, 5)),
    ("last", "first"): RNG.normal(size=(3, 5)),
    ("last", "input"): RNG.normal(size=(3, 6)),
    ("first", "input"): RNG.normal(size=(5, 6)),
    ("output", "input"): RNG.normal(size=(2, 6)),
}
BIAS, OUTPUT_BIAS = RNG.normal(size=8), RNG.normal(size=2)


def layered(dtype: type = np.float64, **changes: object) -> ImplicitModel:
    """Two layers with a skip of the input to all, last layer first."""
    arguments: dict[str, object] = {
        "groups": [StateGroup("last", 3, Activation("tanh")), StateGroup("first", 5, Activation("relu"))],
        "blocks": {key: CsrMap(matrix.astype(dtype)) for key, matrix in MATRICES.items()},
        "n_inputs": 6,
        "n_outputs": 2,
        "state_bias": BIAS,
        "output_bias": OUTPUT_BIAS,
        "input_shape": (2, 3),
    }
    return ImplicitModel(**(arguments | changes))


def by_hand(U: np.ndarray) -> np.ndarray:
    M = MATRICES
    first = np.maximum(U @ M["first", "input"].T + BIAS[3:], 0.0)
    last = np.tanh(U @ M["last", "input"].T + first @ M["last", "first"].T + BIAS[:3])
    skips = first @ M["output", "first"].T + U @ M["output", "input"].T
    return last @ M["output", "last"].T + skips + OUTPUT_BIAS


def test_predicts_what_the_layers_give() -> None:
    U = np.random.default_rng(1).normal(size=(9, 6))
    assert_allclose(layered().predict(U), by_hand(U), atol=1e-13)


def test_predicts_in_the_kind_and_form_given() -> None:
    model, U = layered(np.float32), np.random.default_rng(1).normal(size=(9, 6))
    Y = model.predict(U)
    assert isinstance(Y, np.ndarray)
    assert Y.dtype == np.float32
    assert_allclose(Y, by_hand(U), atol=1e-5)
    assert_array_equal(model.predict(U.reshape(9, 2, 3)), Y)
    tensor = torch.from_numpy(U).requires_grad_()
    assert isinstance(model.predict(tensor), torch.Tensor)
    assert not model.predict(tensor).requires_grad
    assert_array_equal(model.predict(tensor).numpy(), Y)


def test_accepts_strides_byte_orders_integers_and_read_only_arrays() -> None:
    model, U = layered(), np.arange(12.0).reshape(2, 6)
    Y = model.predict(U)
    read_only = U.copy()
    read_only.flags.writeable = False
    for same in (U.astype(np.int16), U.astype(np.uint16), U.astype(">f8"), np.asfortranarray(U), read_only):
        assert_array_equal(model.predict(same), Y)
    assert_array_equal(model.predict(U[::-1]), Y[::-1])


def test_leaves_its_input_alone() -> None:
    U = np.random.default_rng(1).normal(size=(4, 6))
    before = U.copy()
    layered().predict(U)
    assert_array_equal(U, before)


def test_chunks_do_not_show() -> None:
    model, U = layered(), np.random.default_rng(1).normal(size=(200_000, 6))
    assert_allclose(model.predict(U)[[0, 150_000, 199_999]], by_hand(U[[0, 150_000, 199_999]]), atol=1e-13)


def test_whole_matrices_and_back() -> None:
    model, U = layered(), np.random.default_rng(2).normal(size=(5, 6))
    M = MATRICES
    A = np.block([[np.zeros((3, 3)), M["last", "first"]], [np.zeros((5, 8))]])
    assert_array_equal(model.A.toarray(), A)
    assert_array_equal(model.B.toarray(), np.vstack([M["last", "input"], M["first", "input"]]))
    assert_array_equal(model.C.toarray(), np.hstack([M["output", "last"], M["output", "first"]]))
    assert_array_equal(model.D.toarray(), M["output", "input"])
    matrices = (model.A, model.B, model.C, model.D)
    again = ImplicitModel.from_matrices(*matrices, activation=model.groups, state_bias=BIAS, output_bias=OUTPUT_BIAS)
    assert_array_equal(again.predict(U), model.predict(U))
    assert set(again.blocks) == set(model.blocks)
    assert all(matrix.has_canonical_format for matrix in matrices)


def test_the_matrix_of_all_blocks_and_back() -> None:
    model, U = layered(), np.random.default_rng(2).normal(size=(5, 6))
    parts = [[part.toarray() for part in row] for row in ((model.A, model.B), (model.C, model.D))]
    assert_array_equal(model.matrix.toarray(), np.block(parts))
    assert model.matrix.has_canonical_format
    for M in (model.matrix, model.matrix.toarray()):
        again = model.with_matrix(M)
        assert_array_equal(again.predict(U), model.predict(U))
        assert set(again.blocks) == set(model.blocks)
        assert (again.groups, again.input_shape) == (model.groups, model.input_shape)
    moved = model.with_matrix(model.matrix, output_bias=np.zeros(2))
    assert_allclose(moved.predict(U), model.predict(U) - OUTPUT_BIAS, atol=1e-13)
    assert_array_equal(moved.state_bias, model.state_bias)
    assert not model.with_matrix(model.matrix, state_bias=np.zeros(8)).state_bias.any()


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"M must have shape \(10, 14\)"):
        layered().with_matrix(np.zeros((10, 13)))


def test_is_immutable() -> None:
    model = layered()
    for array in (model.A.data, model.D.indices, model.matrix.data, model.state_bias, model.output_bias):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        model.blocks["last", "last"] = CsrMap(np.eye(3))  # type: ignore[index]


def test_copies_and_pickles() -> None:
    model, U = layered(), np.ones((1, 6))
    Y = model.predict(U)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_array_equal(twin.predict(U), Y)


def test_without_states_it_is_affine() -> None:
    model = ImplicitModel([], {("output", "input"): CsrMap(np.eye(3))}, n_inputs=3, n_outputs=3, output_bias=[1, 2, 3])
    assert_array_equal(model.predict(np.zeros((2, 3))), [[1, 2, 3]] * 2)
    assert model.A.shape == (0, 0)
    assert model.storage_bits().values == 3 * 64


def test_zero_blocks_are_dropped_and_a_model_of_zeros_gives_its_bias() -> None:
    groups = [StateGroup("state", 2, Activation("relu"))]
    blocks = {("state", "state"): CsrMap(np.zeros((2, 2), np.float32))}
    model = ImplicitModel(groups, blocks, n_inputs=1, n_outputs=1, output_bias=[0.5])
    assert not model.blocks
    assert model.dtype == np.float32
    assert_array_equal(model.predict(np.ones((2, 1))), [[0.5], [0.5]])


def test_dtype_is_the_widest_of_the_blocks() -> None:
    assert layered(np.float32).dtype == np.float32
    assert layered(np.float32).state_bias.dtype == np.float32
    mixed = {key: CsrMap(matrix) for key, matrix in MATRICES.items()}
    mixed["last", "first"] = mixed["last", "first"].astype(np.float32)
    assert layered(blocks=mixed).dtype == np.float64
    assert layered().astype(np.float32).dtype == np.float32
    with pytest.raises(InputError, match="float32 or float64, got int32"):
        layered().astype(np.int32)


def test_counts() -> None:
    model = layered()
    nnz = sum(matrix.size for matrix in MATRICES.values())
    assert model.nnz == nnz == model.A.nnz + model.B.nnz + model.C.nnz + model.D.nnz
    assert model.size == (8 + 2) * (8 + 6)
    assert model.sparsity() == pytest.approx(100.0 * (1.0 - nnz / 140))
    assert model.sparsity(1000) == pytest.approx(100.0 * (1.0 - nnz / 1000))
    with pytest.raises(InputError, match="N0 must be an integer of at least 1, got 0"):
        model.sparsity(0)


def test_storage_bits_follow_appendix_b() -> None:
    bits = layered(np.float32).storage_bits()
    expected = 0
    for rows, columns, nnz in ((8, 8, 15), (8, 6, 48), (2, 8, 16), (2, 6, 12)):
        expected += rows * math.ceil(math.log2(nnz)) + nnz * math.ceil(math.log2(columns))
    assert bits.index == expected
    assert bits.values == 32 * (15 + 48 + 16 + 12)
    assert bits.bias == 32 * 10
    assert bits.dense == 32 * (140 + 10)
    assert bits.total == bits.index + bits.values + bits.bias
    assert bits.ratio == bits.dense / bits.total


def test_storage_bits_of_one_entry_in_one_column() -> None:
    bits = ImplicitModel([], {("output", "input"): CsrMap([[2.0]])}, n_inputs=1, n_outputs=1).storage_bits()
    assert bits.index == 0


@pytest.mark.parametrize(
    ("U", "message"),
    [
        (np.zeros((2, 5)), r"U must have shape \(m, 6\) or \(m, 2, 3\), samples first, got \(2, 5\)"),
        (np.zeros(6), r"got \(6,\)"),
        (np.zeros((2, 3, 2)), r"got \(2, 3, 2\)"),
        (np.zeros((0, 6)), "at least one sample"),
        (np.array([[0.0] * 6, [np.nan] * 6]), "NaN or infinite values in sample 1"),
        (np.array([[np.inf, -np.inf, 0, 0, 0, 0]]), "NaN or infinite values in sample 0"),
        (torch.full((1, 6), float("inf")), "NaN or infinite values in sample 0"),
        (np.zeros((2, 6), complex), "real numbers, got dtype complex128"),
        (torch.zeros((2, 6), dtype=torch.complex64), "real numbers"),
        (np.array([["a"] * 6]), "real numbers"),
    ],
)
def test_bad_inputs_to_predict(U: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layered().predict(U)


@pytest.mark.parametrize(
    ("U", "message"),
    [
        (torch.zeros((2, 6)).to_sparse(), "U must be a dense tensor, got a sparse one"),
        (torch.zeros((2, 6), device="meta"), "got a tensor on the device meta"),
        (np.ma.masked_array(np.zeros((2, 6)), np.ones((2, 6))), "U must not be a masked array"),
        ([[0.0] * 6, [0.0] * 5], "U must be an array with rows of equal length"),
        (None, "U must hold real numbers"),
        (torch.nn.Linear(2, 2), "got the network Linear"),
    ],
)
def test_what_is_no_batch(U: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layered().predict(U)


def test_takes_tensors_that_require_gradients() -> None:
    A, B = torch.zeros(2, 2, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    bias = torch.ones(2, requires_grad=True)
    model = ImplicitModel.from_matrices(A, B, B.T, torch.zeros(1, 1), state_bias=bias)
    assert model.dtype == np.float32
    assert_array_equal(model.predict([[1.0]]), [[4.0]])


@pytest.mark.parametrize("dtype", ["foo", None, object(), complex, "float16"])
def test_no_dtype(dtype: object) -> None:
    with pytest.raises(InputError, match="dtype must be float32 or float64"):
        layered().astype(dtype)


def test_values_beyond_float32_are_refused() -> None:
    with pytest.raises(InputError, match="must be finite"):
        ImplicitModel.from_matrices(np.zeros((1, 1)), [[1e300]], [[1.0]], [[0.0]]).astype(np.float32)
    model = ImplicitModel.from_matrices(np.zeros((1, 1)), [[1.0]], [[1.0]], [[0.0]], state_bias=[1e300])
    with pytest.raises(InputError, match="state_bias must be finite in float32, got inf at position 0"):
        model.astype(np.float32)


def test_input_that_overflows_float32_is_refused() -> None:
    with pytest.raises(InputError, match="finite in float32"):
        layered(np.float32).predict(np.full((1, 6), 1e300))
    assert np.isfinite(layered().predict(np.full((1, 6), 1e300))).all()


GROUP = StateGroup("last", 3, Activation("relu"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": [GROUP, GROUP]}, "unique names, got 'last' twice"),
        ({"groups": [StateGroup("input", 3, Activation("relu"))]}, "got 'input'"),
        ({"groups": [StateGroup("", 3, Activation("relu"))]}, "got ''"),
        ({"groups": [StateGroup("last", 0, Activation("relu"))]}, "size of group 'last' must be an integer"),
        ({"n_inputs": 0}, "n_inputs must be an integer of at least 1, got 0"),
        ({"n_outputs": 2.0}, "n_outputs must be an integer"),
        ({"n_inputs": True}, "n_inputs must be an integer"),
        ({"input_shape": (2, 2)}, r"input_shape = \(2, 2\) has 4 entries, but n_inputs = 6"),
        ({"output_shape": (3,)}, "output_shape"),
        ({"state_bias": np.zeros(7)}, r"state_bias must have shape \(8,\), got \(7,\)"),
        ({"output_bias": [0.0, np.nan]}, "output_bias must be finite in float64, got nan at position 1"),
        ({"groups": [GROUP, "relu"]}, r"groups must hold StateGroup\(name, size, activation\), got 'relu' at 1"),
        ({"groups": "relu"}, "groups must be a sequence of StateGroup"),
        ({"groups": None}, "groups must be a sequence of StateGroup"),
        ({"groups": [StateGroup("last", 3, "relu")]}, "the activation of group 'last' must be an Activation"),
        ({"input_shape": 3}, "input_shape must be a tuple of integers, got 3"),
        ({"input_shape": "ab"}, "input_shape must be a tuple"),
        ({"input_shape": (2.0, 3)}, "each entry of input_shape must be an integer"),
        ({"state_bias": "abc"}, "state_bias must hold real numbers"),
        ({"state_bias": np.zeros(8, complex)}, "state_bias must hold real numbers, got dtype complex128"),
        ({"state_bias": [[0.0], [0.0, 1.0]]}, "state_bias must be an array with rows of equal length"),
        ({"blocks": None}, r"blocks must map \(row, column\) to LinearMap"),
        ({"blocks": {"last": CsrMap(np.eye(3))}}, r"a key is \(row, column\)"),
        ({"blocks": {("last",): CsrMap(np.eye(3))}}, r"a key is \(row, column\)"),
        ({"blocks": {("other", "input"): CsrMap(np.eye(3))}}, r"groups are last, first"),
        ({"blocks": {("last", "output"): CsrMap(np.eye(3))}}, "its column 'input' or a group"),
        ({"blocks": {("last", "input"): np.eye(3)}}, "wrap a matrix in CsrMap"),
        ({"blocks": {("last", "input"): CsrMap(np.eye(3))}}, r"must have shape \(3, 6\), got \(3, 3\)"),
    ],
)
def test_bad_models(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        layered(**changes)


@pytest.mark.parametrize(
    ("matrices", "activation", "message"),
    [
        (((2, 3), (2, 4), (1, 2), (1, 4)), "relu", r"A must have shape \(2, 2\)"),
        (((2, 2), (3, 4), (1, 2), (1, 4)), "relu", r"B must have shape \(2, 4\)"),
        (((2, 2), (2, 4), (1, 3), (1, 4)), "relu", r"C must have shape \(1, 2\)"),
        (((2, 2), (2, 4), (1, 2), (1, 4)), "nope", "'nope' is unknown"),
        (((2, 2), (2, 4), (1, 2), (1, 4)), ["relu", "relu"], "one name or Activation for all states, or a sequence of"),
        (((2, 2), (2, 4), (1, 2), (1, 4)), None, "activation must be one name"),
        (((2, 2), (2, 4), (1, 2), (1, 4)), torch.relu, "activation must be one name"),
        (((2, 2), (2, 4), (1, 2), (1, 4)), [GROUP], "the groups hold 3 states, A has 2"),
    ],
)
def test_bad_matrices(matrices: tuple[tuple[int, int], ...], activation: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImplicitModel.from_matrices(*(np.ones(shape) for shape in matrices), activation=activation)


def test_nan_in_a_matrix_is_named() -> None:
    with pytest.raises(InputError, match="B must be finite, got nan in row 0, column 1"):
        ImplicitModel.from_matrices(np.eye(1), [[0.0, np.nan]], np.eye(1), np.zeros((1, 2)))
