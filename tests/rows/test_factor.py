"""Factorisations of the polish against dense algebra, and the design that they are made from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reference import Array
from simplicit.rows import factor as factors
from simplicit.rows.design import Design, forms_gram, power_of_two
from simplicit.rows.factor import Factor, factorise


def design_of(m: int, d: int, seed: int = 0) -> Design:
    features = np.random.default_rng(seed).normal(size=(m, d))
    return Design.of_features(features, np.arange(d), None)


def checked(factor: Factor, gram: Array, curvature: Array, normal: Array, *, rtol: float = 1e-7) -> None:
    """All that a factorisation answers, against the matrices themselves."""
    rng = np.random.default_rng(1)
    right = rng.normal(size=(len(gram), 3))
    bordered = gram + factor.sigma * np.outer(normal, normal)
    expected = np.linalg.solve(bordered + np.diag(curvature), right)
    np.testing.assert_allclose(factor.solve(right), expected, rtol=rtol, atol=rtol * abs(expected).max())
    squares = np.einsum("ij,ij->j", right, gram @ right)
    np.testing.assert_allclose(factor.gram_times(right), squares, rtol=1e-9, atol=1e-9 * abs(squares).max())
    product = bordered @ right[:, 0]
    np.testing.assert_allclose(factor.product(right[:, 0]), product, rtol=1e-9, atol=1e-9 * abs(product).max())


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_cholesky(sigma: float) -> None:
    rng = np.random.default_rng(0)
    design = design_of(40, 20)
    columns = rng.permutation(20)[:12]
    gram = design.gram_array
    assert gram is not None
    normal = rng.choice([-1.0, 0.0, 2.0], size=12)
    for curvature in (np.zeros(12), rng.uniform(0, 2, size=12)):
        factor = factorise(design, columns, curvature, sigma, normal)
        assert factor.sigma == sigma
        checked(factor, gram[np.ix_(columns, columns)], curvature, normal)


def test_woodbury_is_cholesky(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    design, columns, curvature = design_of(6, 40), rng.permutation(40)[:30], rng.uniform(0.5, 2, size=30)
    wide = factorise(design, columns, curvature, 0.5, np.ones(30))
    assert type(wide).__name__ == "_Woodbury"
    assert wide.sigma == 0
    gram = design.gram_array
    assert gram is not None
    checked(wide, gram[np.ix_(columns, columns)], curvature, np.ones(30), rtol=1e-6)
    monkeypatch.setattr(factors, "COLUMNS_PER_SAMPLE", 1000)
    tall = factorise(design, columns, curvature, 0.0, np.ones(30))
    assert type(tall).__name__ == "_Cholesky"
    right = rng.normal(size=(30, 2))
    np.testing.assert_allclose(wide.solve(right), tall.solve(right), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(wide.gram_times(right), tall.gram_times(right), rtol=1e-9)


def test_woodbury_without_curvature_only_for_very_many_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    design, columns = design_of(6, 40), np.arange(40)
    assert type(factorise(design, columns, np.zeros(40), 0.0, np.zeros(40))).__name__ == "_Cholesky"
    monkeypatch.setattr(factors, "MOST_COLUMNS", 30)
    wide = factorise(design, columns, np.zeros(40), 0.0, np.zeros(40))
    assert type(wide).__name__ == "_Woodbury"
    # A singular system with a right-hand side in its range: the least-squares solution up to the proximal term.
    gram = design.gram_array
    assert gram is not None
    right = gram @ np.random.default_rng(0).normal(size=(40, 1))
    solved = wide.solve(right)
    np.testing.assert_allclose(gram @ solved, right, rtol=1e-4, atol=1e-4 * abs(right).max())


@pytest.mark.parametrize("kind", ["duplicates", "rank one", "a tiny gap"])
def test_singular_columns_are_no_crash(kind: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(10, 8))
    if kind == "duplicates":
        features = np.hstack([features, features])
    elif kind == "rank one":
        features = np.outer(rng.normal(size=10), rng.normal(size=16))
    else:
        features = np.hstack([features, features + 1e-9 * rng.normal(size=(10, 8))])
    design = Design.of_features(features, np.arange(16), None)
    gram = design.gram_array
    assert gram is not None
    factor = factorise(design, np.arange(16), np.zeros(16), 0.0, np.zeros(16))
    right = gram @ rng.normal(size=(16, 1))
    solved = factor.solve(right)
    assert np.isfinite(solved).all()
    np.testing.assert_allclose(gram @ solved, right, rtol=1e-4, atol=1e-4 * abs(right).max())


# --- the design -----------------------------------------------------------------------------------------------------


def test_units_are_powers_of_two_and_lose_no_bit() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 5)) * 10.0 ** rng.uniform(-8, 8, size=5)
    design = Design.of_features(features, np.array([4, 0, 2]), None)
    mantissa, _ = np.frexp(design.units)
    np.testing.assert_array_equal(mantissa, 0.5)
    assert design.transposed is not None
    norms = design.transposed.norm(dim=1).numpy()
    assert (norms >= 2**-0.51).all()
    assert (norms <= 2**0.51).all()
    np.testing.assert_array_equal(design.transposed.numpy() / design.units[:, None], features[:, [4, 0, 2]].T)
    assert power_of_two(np.array([0.0, 1.0, 3.0, 0.24])).tolist() == [1.0, 1.0, 4.0, 0.25]


def test_blocks_with_and_without_a_whole_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = np.array([3, 1, 8]), np.array([0, 8])
    whole = design_of(4, 9)
    assert whole.forms_gram
    expected = whole.block(rows, columns)
    monkeypatch.setattr("simplicit.rows.design.MOST_COLUMNS", 0)
    monkeypatch.setattr("simplicit.rows.design.COLUMNS_PER_SAMPLE", 0)
    parts = design_of(4, 9)
    assert not parts.forms_gram
    assert parts.gram_array is None
    np.testing.assert_allclose(parts.block(rows, columns), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(parts.block(rows, rows), whole.block(rows, rows), rtol=1e-12, atol=1e-14)


def test_which_gram_matrices_are_formed() -> None:
    assert forms_gram(None, 10**6)
    assert forms_gram(10, 4096)
    assert not forms_gram(10, 4097)
    assert forms_gram(2000, 8000)
    assert not forms_gram(1000, 20000)


@pytest.mark.parametrize("rho", [1.0, 1e-2, 1e-8])
def test_ridge_inverse(rho: float) -> None:
    design = design_of(30, 12)
    shifted = design.gram + rho * torch.eye(12, dtype=torch.float64)
    for dtype, tol in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        inverse = design.ridge_inverse(rho, dtype)
        assert inverse.dtype == dtype
        torch.testing.assert_close(shifted @ inverse.double(), torch.eye(12, dtype=torch.float64), rtol=0, atol=tol)
        assert design.ridge_inverse(rho, dtype) is inverse
