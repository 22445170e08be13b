"""CsrMap: the products of both paths, its algebra, and what it refuses."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal

from simplicit.errors import InputError
from simplicit.implicit import CsrMap, LinearMap, added, composed


def random_map(density: float, dtype: type, shape: tuple[int, int] = (120, 90), seed: int = 0) -> CsrMap:
    entries = sp.random_array(shape, density=density, rng=np.random.default_rng(seed), dtype=np.float64)
    return CsrMap(entries.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("density", "dense"), [(0.01, False), (0.2, True), (0.0, False)])
def test_both_paths_multiply(density: float, dense: bool, dtype: type) -> None:
    linear = random_map(density, dtype)
    assert linear.multiplies_densely is dense
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(7, 90)).astype(dtype), rng.normal(size=(7, 120)).astype(dtype)
    matrix = linear.to_csr().toarray().astype(np.float64)
    tolerance = 1e-4 if dtype is np.float32 else 1e-12
    assert_allclose(linear.apply(torch.from_numpy(x)).numpy(), x @ matrix.T, atol=tolerance)
    assert_allclose(linear.apply_transpose(torch.from_numpy(y)).numpy(), y @ matrix, atol=tolerance)
    assert linear.apply(torch.from_numpy(x)).numpy().dtype == dtype


def test_columns_of_a_larger_tensor_multiply() -> None:
    whole = torch.randn(5, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for density in (0.01, 0.2):
        linear = random_map(density, np.float64)
        assert torch.equal(linear.apply(whole[:, 30:120]), linear.apply(whole[:, 30:120].clone()))


def test_small_matrices_multiply_densely_and_huge_ones_never() -> None:
    assert CsrMap(sp.eye_array(60)).multiplies_densely
    assert not CsrMap(sp.eye_array(300)).multiplies_densely
    rows = sp.csr_array(np.ones((1, 40_000)))
    assert not CsrMap(sp.vstack([rows] * 5 + [sp.csr_array((1_000, 40_000))])).multiplies_densely


def test_is_canonical_and_a_copy() -> None:
    matrix = sp.csr_array((np.array([1.0, 2.0, 0.0, 4.0]), np.array([2, 0, 1, 1]), np.array([0, 2, 4])), shape=(2, 3))
    linear = CsrMap(matrix)
    matrix.data[:] = 9.0
    assert linear.nnz == 3
    assert linear.shape == (2, 3)
    assert_array_equal(linear.to_csr().toarray(), [[2.0, 0.0, 1.0], [0.0, 4.0, 0.0]])
    assert_array_equal(linear.to_csr().indices, [0, 2, 1])
    linear.to_csr().data[:] = 7.0
    assert_array_equal(linear.to_csr().data, [2.0, 1.0, 4.0])


def test_algebra() -> None:
    rng = np.random.default_rng(3)
    a, b, c = rng.normal(size=(4, 3)), rng.normal(size=(3, 5)), rng.normal(size=(4, 3))
    left, right = rng.normal(size=4), rng.normal(size=3)
    linear = CsrMap(a)
    assert_allclose(composed(linear, CsrMap(b)).to_csr().toarray(), a @ b)
    assert_allclose(added(linear, CsrMap(c)).to_csr().toarray(), a + c)
    assert_allclose(linear.scaled(left, right).to_csr().toarray(), left[:, None] * a * right)
    assert_allclose(linear.scaled(None, right).to_csr().toarray(), a * right)
    assert_array_equal(linear.absolute().to_csr().toarray(), np.abs(a))
    assert added(linear, CsrMap(-a)).nnz == 0


@pytest.mark.parametrize(
    ("given", "kept"), [(np.int64, np.float64), (bool, np.float64), (np.float16, np.float32), (np.float32, np.float32)]
)
def test_dtypes(given: type, kept: type) -> None:
    linear = CsrMap(np.eye(2, dtype=given))
    assert linear.dtype == kept
    assert linear.astype(np.float32).dtype == np.float32
    assert isinstance(linear, LinearMap)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CsrMap(np.ones(3)), r"two dimensions, got shape \(3,\)"),
        (lambda: CsrMap(np.eye(2) * 1j), "real numbers, got dtype complex128"),
        (lambda: CsrMap([["a"]]), "real numbers"),
        (lambda: CsrMap([[0.0, 1.0], [np.nan, 1.0]]), "got nan in row 1, column 0"),
        (lambda: CsrMap(sp.csr_array(([np.inf], [2], [0, 0, 1]), shape=(2, 3))), "got inf in row 1, column 2"),
        (lambda: composed(CsrMap(np.eye(2)), CsrMap(np.eye(3))), "cannot compose"),
        (lambda: added(CsrMap(np.eye(2)), CsrMap(np.eye(3))), "cannot add"),
        (lambda: CsrMap(np.eye(2)).scaled(np.ones(3)), r"left must have shape \(2,\), got \(3,\)"),
    ],
)
def test_bad_input(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5])
def test_products_are_those_of_the_matrix_for_any_number_of_samples(share: float, dtype: type) -> None:
    generator = np.random.default_rng(0)
    matrix = (generator.normal(size=(90, 80)) * (generator.random((90, 80)) < share)).astype(dtype)
    block, bias = CsrMap(matrix), torch.from_numpy(generator.normal(size=90).astype(dtype))
    again = pickle.loads(pickle.dumps(block))
    for samples in (0, 1, 7, 100):
        x = torch.from_numpy(generator.normal(size=(samples, 80)).astype(dtype))
        expected = x @ torch.from_numpy(matrix).T
        for one in (block, again):
            torch.testing.assert_close(one.apply(x), expected)
            torch.testing.assert_close(one.affine(bias, x), expected + bias)
