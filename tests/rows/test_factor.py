"""Factorisations of the polish against dense algebra, and the design that they are made from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicit.rows import factor as factors
from simplicit.rows.design import Design, SampleDesign, forms_gram, power_of_two
from simplicit.rows.factor import Factor, factorise


def design_of(m: int, d: int, seed: int = 0) -> SampleDesign:
    features = np.random.default_rng(seed).normal(size=(m, d))
    return SampleDesign.of_features(features, np.arange(d), None)


def block(design: Design, columns: Tensor) -> Tensor:
    return design.gram[columns][:, columns]


def solved(factor: Factor, right: Tensor) -> Tensor:
    return factor.decode(factor.encode(right))


def test_cholesky() -> None:
    rng = np.random.default_rng(0)
    design, columns = design_of(40, 20), torch.from_numpy(rng.permutation(20)[:12])
    right = torch.from_numpy(rng.normal(size=(12, 3)))
    for curvature in (torch.zeros(12).double(), torch.from_numpy(rng.uniform(0, 2, size=12))):
        factor = factorise(design, columns, curvature)
        matrix = block(design, columns) + curvature.diag()
        assert (factor.size, factor.symmetric) == (12, True)
        torch.testing.assert_close(solved(factor, right), torch.linalg.solve(matrix, right), rtol=1e-7, atol=1e-8)
        # Encoded once, a right-hand side gives DᵀH⁻¹D by one product.
        encoded = factor.encode(right)
        torch.testing.assert_close(encoded.T @ encoded, right.T @ solved(factor, right), rtol=1e-9, atol=1e-9)


def test_woodbury_is_cholesky(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    design, columns = design_of(6, 40), torch.from_numpy(rng.permutation(40)[:30])
    curvature, right = (torch.from_numpy(a) for a in (rng.uniform(0.5, 2, size=30), rng.normal(size=(30, 2))))
    wide = factorise(design, columns, curvature)
    assert not wide.symmetric
    monkeypatch.setattr(factors, "COLUMNS_PER_SAMPLE", 1000)
    tall = factorise(design, columns, curvature)
    assert tall.symmetric
    torch.testing.assert_close(solved(wide, right), solved(tall, right), rtol=1e-6, atol=1e-8)


def test_woodbury_without_curvature_only_for_very_many_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    design, columns = design_of(6, 40), torch.arange(40)
    nothing = torch.zeros(40).double()
    assert factorise(design, columns, nothing).symmetric
    monkeypatch.setattr(factors, "MOST_COLUMNS", 30)
    wide = factorise(design, columns, nothing)
    assert not wide.symmetric
    # A singular system with a right-hand side in its range: the least-squares solution up to the proximal term.
    right = design.gram @ torch.from_numpy(np.random.default_rng(0).normal(size=(40, 1)))
    torch.testing.assert_close(
        design.gram @ solved(wide, right), right, rtol=1e-4, atol=1e-4 * float(right.abs().max())
    )


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
    design = SampleDesign.of_features(features, np.arange(16), None)
    factor = factorise(design, torch.arange(16), torch.zeros(16).double())
    right = design.gram @ torch.from_numpy(rng.normal(size=(16, 1)))
    found = solved(factor, right)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(design.gram @ found, right, rtol=1e-4, atol=1e-4 * float(right.abs().max()))


def test_a_factor_of_the_samples_does_not_square_their_condition() -> None:
    """Of columns of condition 1e6 three corrections leave what a QR decomposition does; Cholesky's factor cannot."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(30, 1))
    features = np.hstack([common + 1e-6 * rng.normal(size=(30, 4)), rng.normal(size=(30, 3))])
    target, nothing = torch.from_numpy(rng.normal(size=30)), torch.zeros(7).double()
    design = SampleDesign.of_features(features, np.arange(7), None)
    phi = design.transposed.T
    best = np.linalg.lstsq(phi.numpy(), target.numpy(), rcond=None)[0]
    error = []
    for chosen in (design, design.with_all_digits()):
        factor, w = factorise(chosen, torch.arange(7), nothing), torch.zeros(7, 1).double()
        for _ in range(4):
            w = w + solved(factor, phi.T @ (target[:, None] - phi @ w))
        error.append(float(np.linalg.norm(w[:, 0].numpy() - best) / np.linalg.norm(best)))
    assert error[1] < 1e-7
    assert error[0] > 1e-4
    assert not design.orthogonal


def test_ridge_solutions() -> None:
    design = design_of(30, 12)
    cross = torch.from_numpy(np.random.default_rng(2).normal(size=(4, 12)))
    shifted = design.gram + 0.01 * torch.eye(12, dtype=torch.float64)
    expected = torch.linalg.solve(shifted, cross.T).T
    torch.testing.assert_close(design.ridge(0.01, cross), expected, rtol=1e-3, atol=1e-5)


# --- the design -----------------------------------------------------------------------------------------------------


def test_units_are_powers_of_two_and_lose_no_bit() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(9, 5)) * 10.0 ** rng.uniform(-8, 8, size=5)
    design = SampleDesign.of_features(features, np.array([4, 0, 2]), None)
    mantissa, _ = np.frexp(design.units)
    np.testing.assert_array_equal(mantissa, 0.5)
    norms = design.transposed.norm(dim=1).numpy()
    assert (norms >= 2**-0.51).all()
    assert (norms <= 2**0.51).all()
    np.testing.assert_array_equal(design.transposed.numpy() / design.units[:, None], features[:, [4, 0, 2]].T)
    assert power_of_two(np.array([0.0, 1.0, 3.0, 0.24])).tolist() == [1.0, 1.0, 4.0, 0.25]


def test_blocks_with_and_without_a_whole_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, columns = torch.tensor([3, 1, 8]), torch.tensor([0, 8])
    whole = design_of(4, 9)
    assert whole.forms_gram
    expected = whole.block(rows, columns)
    monkeypatch.setattr("simplicit.rows.design.MOST_COLUMNS", 0)
    monkeypatch.setattr("simplicit.rows.design.COLUMNS_PER_SAMPLE", 0)
    parts = design_of(4, 9)
    assert not parts.forms_gram
    torch.testing.assert_close(parts.block(rows, columns), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(parts.block(rows, rows), whole.block(rows, rows), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(whole.block(rows, columns), whole.gram[rows][:, columns], rtol=1e-15, atol=1e-15)


def test_which_gram_matrices_are_formed() -> None:
    assert forms_gram(None, 10**6)
    assert forms_gram(10, 4096)
    assert not forms_gram(10, 4097)
    assert forms_gram(2000, 8000)
    assert not forms_gram(1000, 20000)
