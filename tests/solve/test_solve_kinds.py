"""Sparse features, sample weights, number types and one-dimensional targets, against the independent twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_array, csc_matrix, csr_array

import simplicit as sp
from reference import Prices, RowModel
from simplicit.solve import features as kinds


def data(m: int, d: int, r: int = 2) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(3)
    phi = rng.normal(size=(m, d)) * (rng.random((m, d)) < 0.3)
    phi[:, 3] = 2.0  # constant
    phi[:, 5] = 0.0
    z = phi[:, :4] @ rng.normal(size=(4, r)) + 0.3 * rng.normal(size=(m, r)) + 1.0
    return phi, z, rng.random(m) * (rng.random(m) < 0.8)


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_sparse_and_weighted_rows_meet_the_twin(
    tall: bool, intercept: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "DENSE_ENTRIES", 0 if tall else 2**23)
    phi, z, s = data(60, 12)
    s = s if weighted else np.ones(60)
    options: dict[str, Any] = {"penalty": sp.L1(3.0), "ball": sp.Ball(1.5, slice(0, 6)), "intercept": intercept}
    given = {"sample_weight": s} if weighted else {}
    found = sp.solve_rows(csr_array(phi), z, **options, **given)
    dense = sp.solve_rows(phi, z, **options, **given)
    np.testing.assert_allclose(found.objective, dense.objective, rtol=2e-6)
    np.testing.assert_allclose(found.intercepts, dense.intercepts, atol=1e-4)
    centre = (s @ phi / s.sum(), s @ z / s.sum()) if intercept else (np.zeros(12), np.zeros(2))
    root, in_ball = np.sqrt(s)[:, None], np.arange(12) < 6
    features, targets = root * (phi - centre[0]), root * (z - centre[1])
    for row in range(2):
        prices = Prices.of(options["penalty"], 12)
        twin = RowModel(features, targets[:, row], prices, radius=1.5, in_ball=in_ball)
        least, w = twin.solve()[0], found.coefficients.toarray()[row]
        assert twin.objective(w) - least <= found.dual_gap[row] + 1e-7 * least
        assert found.dual_gap[row] <= 1e-6 * found.objective[row] * (1 + 1e-9)
    assert not found.coefficients.toarray()[:, 5].any()


def test_a_memory_map_and_a_gram_take_weights(tmp_path: Any) -> None:
    phi, z, s = data(40, 8)
    np.save(tmp_path / "phi.npy", phi.astype(">f8"))
    mapped = np.load(tmp_path / "phi.npy", mmap_mode="r")
    gram = sp.Gram.from_batches([(phi[:10], z[:10], s[:10]), (phi[10:], z[10:], s[10:])])
    plain = sp.solve_rows(phi, z, penalty=sp.L1(2.0), sample_weight=s, intercept=True)
    for other in (
        sp.solve_rows(mapped, z, penalty=sp.L1(2.0), sample_weight=s, intercept=True),
        sp.solve_rows(gram, penalty=sp.L1(2.0), intercept=True),
    ):
        np.testing.assert_allclose(other.coefficients.toarray(), plain.coefficients.toarray(), atol=1e-5)
        np.testing.assert_allclose(other.intercepts, plain.intercepts, atol=1e-5)
    with pytest.raises(sp.InputError, match="a Gram has its samples weighted already"):
        sp.solve_rows(gram, penalty=sp.L1(2.0), sample_weight=s)


@pytest.mark.parametrize("dtype", [">f8", "<f4", ">f4", "<f2", np.longdouble])
@pytest.mark.parametrize("sparse", [False, True])
def test_any_float_type_and_byte_order_is_taken(dtype: Any, sparse: bool) -> None:
    phi, z, _ = data(30, 8)
    phi = np.round(phi, 1).astype(np.float16).astype(float)
    plain = sp.solve_rows(phi, z[:, 0], penalty=sp.L1(2.0))
    assert plain.coefficients.shape == (1, 8)
    given: Any = phi.astype(dtype)
    if sparse:
        given = csc_matrix(phi)
        given.data = given.data.astype(dtype)
    found = sp.solve_rows(given, z[:, :1].astype(dtype), penalty=sp.L1(2.0))
    np.testing.assert_allclose(found.coefficients.toarray(), plain.coefficients.toarray(), atol=2e-3)


def test_entries_at_one_place_count_as_their_sum_and_journals_know_sparse_features(tmp_path: Any) -> None:
    phi, z, s = data(20, 6)
    rows, columns = np.nonzero(phi)
    halves = coo_array((np.tile(phi[rows, columns] / 2, 2), (np.tile(rows, 2), np.tile(columns, 2))), phi.shape)
    plain = sp.solve_rows(phi, z, penalty=sp.L1(1.0))
    found = sp.solve_rows(halves, z, penalty=sp.L1(1.0), journal=tmp_path / "kept")
    np.testing.assert_allclose(found.coefficients.toarray(), plain.coefficients.toarray(), atol=1e-9)
    with pytest.raises(sp.InputError, match="journal"):
        sp.solve_rows(halves, z, penalty=sp.L1(1.0), journal=tmp_path / "kept", sample_weight=s)
    np.testing.assert_allclose(sp.beta_max(halves, z, sample_weight=s), sp.beta_max(phi, z, sample_weight=s))
