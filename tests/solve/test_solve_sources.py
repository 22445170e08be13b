"""The same rows from arrays, memory maps, batches and tensors; in two precisions; with and without a Gram matrix."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simplicit as sp
from cases import problem
from families import PENALTIES, RowCase, flaws, random_case
from kkt import assert_kkt
from reference import Array
from simplicit.rows import design, start
from simplicit.solve import input as row_input

SMOOTH = [penalty for penalty in PENALTIES if penalty != "BasisPursuit"]
OPTIONS: dict[str, Any] = {"penalty": sp.L1(0.5), "ball": sp.Ball(0.7, slice(0, 10))}


def batches(features: Array, targets: Array, size: int) -> Iterator[tuple[Array, Array]]:
    for first in range(0, len(features), size):
        yield features[first : first + size], targets[first : first + size]


# --- Gram statistics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("penalty", SMOOTH)
def test_gram_solves_what_the_arrays_solve(penalty: str, intercept: bool) -> None:
    for seed in range(intercept, 3, 2):
        case = random_case(seed, rows=4, largest=30, penalty=penalty, regime="normal").with_changes(intercept=intercept)
        gram = sp.Gram.from_batches(batches(case.features, case.targets, 7))
        whole, streamed = case.solve(), case.with_changes(features=gram).solve()
        centred = case.targets - intercept * case.targets.mean(axis=0)
        floor = 1e-6 * np.mean(case.weight) * np.square(case.targets.astype(float)).sum(axis=0)
        np.testing.assert_allclose(streamed.objective, whole.objective, rtol=2e-6, atol=1e-6 * floor.max())
        assert (streamed.dual_gap >= 0).all()
        if np.square(centred).sum(axis=0).min() > 1e-6 * np.square(case.targets).sum(axis=0).max():
            np.testing.assert_allclose(
                streamed.intercepts, whole.intercepts, atol=1e-2 * abs(case.targets).max(), rtol=1e-2
            )


def test_gram_is_the_sum_of_its_batches() -> None:
    features, targets = problem(50, 6, 2)
    gram = sp.Gram.from_batches(batches(features, targets, 9))
    np.testing.assert_allclose(gram.gram, features.T @ features, rtol=1e-12)
    np.testing.assert_allclose(gram.cross, targets.T @ features, rtol=1e-12)
    np.testing.assert_allclose(gram.energy, np.square(targets).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(gram.feature_mean, features.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(gram.target_mean, targets.mean(axis=0), rtol=1e-10)
    assert (gram.n_samples, gram.shape) == (50, (2, 6))
    assert repr(gram) == "Gram(50 samples, 6 columns, 2 targets)"
    centred = gram.centred()
    np.testing.assert_allclose(centred.gram, 50 * np.cov(features.T, bias=True), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(centred.energy, 50 * targets.var(axis=0), rtol=1e-9)


def test_gram_of_lower_precision_and_of_tensors_is_summed_in_float64() -> None:
    features, targets = problem(50, 6, 2)
    single = sp.Gram.from_batches(batches(features.astype(np.float32), targets.astype(np.float32), 9))
    tensors = sp.Gram.from_batches(
        (torch.from_numpy(a.astype(np.float32)), torch.from_numpy(b.astype(np.float32)))
        for a, b in batches(features, targets, 9)
    )
    expected = features.astype(np.float32).astype(float)
    np.testing.assert_allclose(single.gram, expected.T @ expected, rtol=1e-12)
    np.testing.assert_array_equal(tensors.gram, single.gram)


def test_constant_columns_of_a_gram_with_intercept() -> None:
    features, targets = problem(40, 5, 2)
    features[:, 2] = 0.1
    gram = sp.Gram.from_batches(batches(features, targets, 11))
    solution = sp.solve_rows(gram, penalty=sp.L1(0.1), intercept=True)
    plain = sp.solve_rows(features, targets, penalty=sp.L1(0.1), intercept=True)
    assert not solution.coefficients.toarray()[:, 2].any()
    np.testing.assert_allclose(solution.objective, plain.objective, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sp.Gram.from_batches([]), "batches: there was none"),
        (lambda: sp.Gram().update(np.ones((2, 3)), np.ones((3, 1))), r"targets: shape \(3, 1\) does not fit"),
        (lambda: sp.Gram().update(np.full((2, 3), np.nan), np.ones((2, 1))), "features: holds nan at index"),
        (lambda: sp.Gram().update(np.ones((2, 3)), np.full((2, 1), np.inf)), "targets: holds inf at index"),
        (lambda: sp.Gram().update(np.ones((2, 3), dtype=int), np.ones((2, 1))), "features: expected floats"),
        (lambda: sp.Gram().update(np.ones((0, 3)), np.ones((0, 1))), "features: is empty"),
        (lambda: sp.solve_rows(sp.Gram(), penalty=sp.L1()), "the Gram has no samples yet"),
        (lambda: sp.solve_rows(small_gram(), np.ones((3, 1)), penalty=sp.L1()), "a Gram has its targets in it"),
        (lambda: sp.solve_rows(small_gram(), penalty=sp.BasisPursuit()), "exact matching needs the samples"),
        (lambda: sp.solve_rows(np.ones((3, 2)), penalty=sp.L1()), "targets: missing"),
        (lambda: small_gram().update(np.ones((2, 3)), np.ones((2, 1))), "do not fit the batches before"),
    ],
)
def test_bad_batches(call: Any, message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        call()


def small_gram() -> sp.Gram:
    gram = sp.Gram()
    gram.update(np.ones((3, 2)), np.ones((3, 1)))
    return gram


def test_a_refused_batch_adds_nothing() -> None:
    gram = small_gram()
    before = gram.gram.copy()
    with pytest.raises(sp.InputError):
        gram.update(np.full((3, 2), np.nan), np.ones((3, 1)))
    np.testing.assert_array_equal(gram.gram, before)
    assert gram.n_samples == 3


# --- memory maps ----------------------------------------------------------------------------------------------------


def test_a_tall_memory_map_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as one slice nor, by the allocations that NumPy reports, in any other way."""
    rng = np.random.default_rng(0)
    m, d = 200_000, 20
    written = np.lib.format.open_memmap(tmp_path / "phi.npy", mode="w+", dtype=np.float32, shape=(m, d))
    for first in range(0, m, 20_000):
        written[first : first + 20_000] = rng.normal(size=(20_000, d))
    written.flush()
    features = np.load(tmp_path / "phi.npy", mmap_mode="r")
    targets = (features[:, :2] + 0.1).astype(np.float32)
    monkeypatch.setattr(row_input, "CHUNK", 2**17)
    seen: list[int] = []
    plain = row_input._chunks

    def counted(*arrays: Any) -> Iterator[Any]:
        for part in plain(*arrays):
            seen.append(sum(array.size for array in part))
            yield part

    monkeypatch.setattr(row_input, "_chunks", counted)
    tracemalloc.start()
    try:
        solution = sp.solve_rows(features, targets, penalty=sp.L1(10.0), intercept=True, executor="serial")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert solution.converged.all()
    assert solution.nnz.tolist() == [1, 1]
    np.testing.assert_allclose(solution.intercepts, 0.1, atol=1e-3)
    assert max(seen) <= 2**17
    assert sum(seen) >= m * d
    assert peak < features.nbytes


def test_a_memory_map_is_the_array(tmp_path: Path) -> None:
    for shape in ((60, 20), (15, 40)):
        features, targets = problem(*shape, 3)
        np.save(tmp_path / "phi.npy", features)
        mapped = np.load(tmp_path / "phi.npy", mmap_mode="r")
        plain, streamed = (sp.solve_rows(phi, targets, **OPTIONS) for phi in (features, mapped))
        np.testing.assert_allclose(streamed.coefficients.toarray(), plain.coefficients.toarray(), atol=1e-9)
        exact = [sp.solve_rows(phi, targets, penalty=sp.BasisPursuit(), throw=False) for phi in (features, mapped)]
        np.testing.assert_allclose(exact[0].coefficients.toarray(), exact[1].coefficients.toarray(), atol=1e-9)


def test_non_finite_values_of_a_memory_map_are_found(tmp_path: Path) -> None:
    features, targets = problem(300, 20, 3)
    features[271, 13] = np.inf
    np.save(tmp_path / "phi.npy", features)
    with pytest.raises(sp.InputError, match=r"features: holds inf at index \(271, 13\)"):
        sp.solve_rows(np.load(tmp_path / "phi.npy", mmap_mode="r"), targets, penalty=sp.L1(1.0))


# --- without a whole Gram matrix ------------------------------------------------------------------------------------


@pytest.fixture
def no_gram(monkeypatch: pytest.MonkeyPatch) -> None:
    treat_as_wide(monkeypatch)


def treat_as_wide(patch: pytest.MonkeyPatch) -> None:
    """No design has few enough columns for its Gram matrix, or for ADMM."""
    patch.setattr(design, "MOST_COLUMNS", 0)
    patch.setattr(design, "COLUMNS_PER_SAMPLE", 0)
    patch.setattr(start, "admm_pays", lambda *_: False)


def with_and_without(case: RowCase, monkeypatch: pytest.MonkeyPatch) -> tuple[sp.Solution, sp.Solution]:
    formed = case.solve()
    with monkeypatch.context() as patch:
        treat_as_wide(patch)
        return formed, case.solve()


@pytest.mark.slow
@pytest.mark.parametrize("penalty", PENALTIES)
def test_small_problems_without_a_gram_matrix(penalty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(6):
        case = random_case(900 + seed, rows=4, penalty=penalty, regime="normal")
        formed, wide = with_and_without(case, monkeypatch)
        assert flaws(case, wide) == [], case.label
        np.testing.assert_array_equal(wide.converged, formed.converged, err_msg=str(case.label))
        floor = np.mean(case.weight) * np.square(case.targets.astype(float)).sum(axis=0)
        np.testing.assert_allclose(
            wide.objective, formed.objective, rtol=3e-6, atol=1e-12 * floor.max(), err_msg=str(case.label)
        )
        if penalty == "BasisPursuit":
            continue
        for i in np.flatnonzero(wide.converged):
            w = wide.coefficients.toarray()[i]
            gap, multiplier = float(wide.dual_gap[i]), float(wide.multiplier[i])
            assert_kkt(
                case.row(i), w, constant=wide.intercepts[i], multiplier=multiplier, gap=gap, label=(i, case.label)
            )


@pytest.mark.slow
def test_thousands_of_columns_and_few_samples() -> None:
    """60 x 6,000: no Gram matrix is formed, of 288 MB."""
    features, targets = problem(60, 6000, 6, seed=1)
    assert not design.forms_gram(60, 6000)
    strongest = sp.beta_max(features, targets)
    for penalty in (sp.L1(0.1 * strongest), sp.ElasticNet(0.1 * strongest, 1.0), sp.Perspective(10.0, 1.0)):
        for ball in (None, sp.Ball(0.5, slice(0, 3000))):
            case = RowCase(features, targets, penalty, ball=ball, label={"penalty": "wide"})
            solution = case.solve()
            assert solution.converged.all()
            assert flaws(case, solution) == []
            for i in (0, 5):
                gap, multiplier = float(solution.dual_gap[i]), float(solution.multiplier[i])
                assert_kkt(case.row(i), solution.coefficients.toarray()[i], multiplier=multiplier, gap=gap)


@pytest.mark.usefixtures("no_gram")
def test_no_gram_matrix_is_ever_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: design.SampleDesign) -> None:
        raise AssertionError("the whole Gram matrix was formed")

    monkeypatch.setattr(design.SampleDesign, "gram", property(refused))
    features, targets = problem(20, 80, 3)
    assert sp.solve_rows(features, targets, **OPTIONS).converged.all()
    assert sp.solve_rows(features, features[:, :2].copy(), penalty=sp.BasisPursuit()).converged.all()


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", SMOOTH)
def test_float32_is_the_same_problem_in_float64(penalty: str) -> None:
    """Nothing but the input is float32: the certificate is of the float64 problem on the same numbers."""
    case = random_case(3, rows=4, largest=30, penalty=penalty, ball="slice", regime="normal")
    single = case.with_changes(features=case.features.astype(np.float32), targets=case.targets.astype(np.float32))
    double = single.with_changes(features=single.features.astype(float), targets=single.targets.astype(float))
    first, second = single.solve(), double.solve()
    np.testing.assert_array_equal(first.coefficients.toarray(), second.coefficients.toarray())
    np.testing.assert_array_equal(first.dual_gap, second.dual_gap)
    assert first.objective.dtype == np.float64
