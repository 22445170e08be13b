"""What ``solve_rows`` refuses, and what it says of where the time went."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix, csr_array

import simplicit as sp
from cases import problem
from simplicit import machine
from simplicit.machine import available_memory

FEATURES, TARGETS = problem(8, 5, 2)


def refused(message: str, **change: Any) -> None:
    arguments: dict[str, Any] = {"features": FEATURES, "targets": TARGETS, "penalty": sp.L1(0.1)} | change
    with pytest.raises(sp.InputError, match=message):
        sp.solve_rows(arguments.pop("features"), arguments.pop("targets"), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((8, 0))}, r"features: is empty, shape \(8, 0\)"),
        ({"features": np.zeros((2, 3, 4))}, "features: expected 2 dimensions"),
        ({"features": np.ones((8, 5), dtype=complex)}, "features must hold real numbers"),
        ({"features": np.ones((8, 5), dtype=bool)}, "features: expected floats, got bool"),
        ({"features": torch.ones(8, 5, dtype=torch.int64)}, "features: expected floats"),
        ({"features": torch.ones(8, 5).to_sparse()}, "features must be a dense tensor"),
        ({"features": "features"}, "features must hold real numbers"),
        ({"features": None}, "features must hold real numbers"),
        ({"targets": np.zeros((8, 2, 1))}, "targets: expected 2 dimensions"),
        ({"targets": None}, "targets: missing"),
        ({"targets": np.ones((8, 2), dtype=object)}, "targets must hold real numbers, got dtype object"),
        ({"targets": np.ones((8, 2), dtype=int)}, "targets: expected floats"),
        ({"targets": np.full((8, 2), -np.inf)}, r"targets: holds -inf at index \(0, 0\)"),
        ({"targets": np.full((8, 2), 1e100)}, "targets: the largest magnitude in column 0 is 1e\\+100"),
        ({"features": np.full((8, 5), 1e-100)}, "features: the largest magnitude in column 0 is 1e-100"),
        ({"features": csr_array(np.ones((8, 5), dtype=int))}, "features: expected floats, got int64"),
        ({"features": csr_array((8, 0))}, "features: expected samples x columns, at least one of each"),
        ({"features": csr_array(np.ones((7, 5)))}, r"targets: shape \(8, 2\) does not fit features \(7, 5\)"),
        ({"features": csr_array(np.full((8, 5), np.nan))}, r"features: holds nan at index \(0, 0\)"),
        ({"targets": csr_array(np.ones((8, 2)))}, "targets: must be dense"),
        ({"sample_weight": -np.ones(8)}, "sample_weight must be finite and >= 0, got -1"),
        ({"sample_weight": np.ones(7)}, r"sample_weight has shape \(7,\)"),
        ({"sample_weight": np.zeros(8)}, "sample_weight: is zero for all samples"),
        ({"sample_weight": np.full(8, 1e40)}, "sample_weight: runs from 1e\\+40"),
        ({"weight": 0.0}, "weight must be finite and > 0, got 0"),
        ({"weight": np.nan}, "weight must be finite and > 0"),
        ({"weight": np.array([1.0, -2.0])}, "weight must be finite and > 0, got -2"),
        ({"weight": "heavy"}, "weight must hold real numbers"),
        ({"penalty": None}, "penalty: expected a penalty such as"),
        ({"penalty": sp.ElasticNet(alpha=-1.0)}, "alpha must be finite and >= 0"),
        ({"penalty": sp.Perspective(alpha=0.0)}, "alpha must be finite and > 0"),
        ({"penalty": sp.L1(np.ones(3))}, r"beta has shape \(3,\)"),
        ({"penalty": sp.L1(1.0, np.ones(4))}, "column_weights has shape"),
        ({"ball": sp.Ball(np.array([1.0, 0.0]))}, "radius must be finite and > 0, got 0"),
        ({"ball": sp.Ball(np.ones(3))}, "radius has shape"),
        ({"ball": sp.Ball(1.0, np.array([5]))}, "do not index the 5 columns"),
        ({"ball": sp.Ball(1.0, np.ones(4, dtype=bool))}, "do not index the 5 columns"),
        ({"ball": sp.Ball(1.0, np.zeros(5, dtype=bool))}, "choose none of the 5 columns"),
        ({"ball": sp.Ball(1.0, np.array([0.5]))}, "must be a slice, indices or a boolean mask"),
        ({"support": np.ones((3, 5), dtype=bool)}, "support: expected booleans of shape"),
        ({"support": np.ones((2, 5), dtype=int)}, "support: expected booleans"),
        ({"support": csr_array(np.ones((2, 5)))}, "support: expected booleans"),
        ({"support": "all"}, "support: expected booleans"),
        ({"tol": 1.0}, "tol: must lie between 0 and 1"),
        ({"tol": -1e-6}, "tol must be a finite number"),
        ({"tol": np.nan}, "tol must be a finite number"),
        ({"warm_start": np.zeros(5)}, "warm_start: expected 2 dimensions"),
        ({"warm_start": np.zeros((2, 5), dtype=int)}, "warm_start: expected floats"),
        ({"warm_start": csr_array((2, 4))}, r"warm_start: expected shape \(2, 5\), got \(2, 4\)"),
        ({"executor": 3}, "executor: 3 is unknown"),
        ({"device": "tpu"}, "device: 'tpu' is no device; give 'cpu' or 'cuda'"),
        ({"device": "meta"}, "device: 'meta' has no float64"),
        ({"device": 7.5}, "device: 7.5 is no device"),
    ],
)
def test_more_bad_input(change: dict[str, Any], message: str) -> None:
    refused(message, **change)


def test_nothing_that_is_given_is_changed() -> None:
    features, targets = FEATURES.copy(), TARGETS.copy()
    support, start, radius = np.ones((2, 5), dtype=bool), np.full((2, 5), 9.0), np.array([0.1, 0.2])
    sp.solve_rows(
        features, targets, penalty=sp.L1(0.1), ball=sp.Ball(radius), support=support, warm_start=start, intercept=True
    )
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(targets, TARGETS)
    assert support.all()
    assert (start == 9).all()
    assert radius.tolist() == [0.1, 0.2]


def test_read_only_and_strided_arrays_are_taken() -> None:
    features, targets = np.repeat(FEATURES, 2, axis=1)[:, ::2], TARGETS[::-1][::-1]
    features.flags.writeable = False
    plain = sp.solve_rows(FEATURES, TARGETS, penalty=sp.L1(0.1))
    other = sp.solve_rows(features, targets, penalty=sp.L1(0.1), warm_start=coo_matrix((2, 5)))
    np.testing.assert_allclose(other.coefficients.toarray(), plain.coefficients.toarray(), atol=1e-9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_no_cuda_device(device: str) -> None:
    refused("device: this torch sees no CUDA device; take device='cpu'", device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("penalty", [sp.L1(0.5), sp.ElasticNet(0.5, 0.5), sp.Perspective(0.5, 0.5), sp.BasisPursuit()])
def test_a_cuda_device_solves_the_same_rows(penalty: Any) -> None:
    features, targets = problem(20, 40, 5)
    options: dict[str, Any] = {"penalty": penalty, "ball": sp.Ball(50.0, slice(0, 20))}
    here, there = (sp.solve_rows(features, targets, device=device, **options) for device in ("cpu", "cuda"))
    assert there.converged.all()
    np.testing.assert_allclose(there.objective, here.objective, rtol=2e-6)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_what_cannot_fit_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 2**10)
    message = r"features: 2 rows x 5 columns need, .* about .* GiB, and 9\.54e-07 GiB are free; restrict the support"
    refused(message)
    with pytest.raises(sp.InputError, match="are free"):
        sp.solve_path(FEATURES, TARGETS, [sp.L1(0.1)])


def test_the_estimate_grows_with_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = np.ones((4, 2000)), np.ones((4, 1))
    features[:, ::2] = np.arange(4)[:, None]
    monkeypatch.setattr(machine, "available_memory", lambda: 2**25)
    with pytest.raises(sp.InputError, match="2000 columns need"):
        sp.solve_rows(features, targets, penalty=sp.L1(1.0))
    # On a tenth of the columns there is room.
    support = np.arange(2000) < 200
    assert sp.solve_rows(features, targets, penalty=sp.L1(1.0), support=support).converged.all()


def test_an_unknown_amount_of_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: None)
    assert sp.solve_rows(FEATURES, TARGETS, penalty=sp.L1(0.1)).converged.all()
    monkeypatch.undo()
    found = available_memory()
    assert found is None or found > 2**20


# --- what the solution says of itself -------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [sp.L1(0.5), sp.Perspective(0.5, 0.5), sp.NoPenalty(), sp.BasisPursuit()])
def test_timings_name_their_stages(penalty: Any) -> None:
    features, targets = problem(20, 60, 40)
    solution = sp.solve_rows(features, targets, penalty=penalty, executor="serial")
    assert {"gram", "iterations", "polish", "certificate"} <= set(solution.timings)
    assert all(np.isfinite(seconds) and seconds >= 0 for seconds in solution.timings.values())
    assert sum(solution.timings.values()) > 0
    assert (solution.seconds > 0).all()


def test_advice_is_what_to_do() -> None:
    words = {
        sp.rows.RowStatus.CONVERGED: "nothing to do",
        sp.rows.RowStatus.ACCURACY_LIMIT: "raise tol or the penalty",
        sp.rows.RowStatus.ITERATION_LIMIT: "raise tol or the penalty",
        sp.rows.RowStatus.INFEASIBLE: "no coefficients match the target exactly",
    }
    assert set(words) == set(sp.rows.RowStatus)
    assert all(text in status.advice for status, text in words.items())
    solution = sp.solve_rows(FEATURES, TARGETS, penalty=sp.L1(0.1))
    assert solution.advice(1) == sp.rows.RowStatus.CONVERGED.advice


def test_rows_that_float64_cannot_prove_are_marked_not_hidden() -> None:
    """Columns equal up to 1e-9 and no penalty: whatever comes out is finite, and says what it is."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20, 1)) + 1e-9 * rng.normal(size=(20, 12))
    solution = sp.solve_rows(features, rng.normal(size=(20, 3)), penalty=sp.NoPenalty(), throw=False)
    assert np.isfinite(solution.coefficients.data).all()
    assert np.isfinite(solution.dual_gap).all()
    np.testing.assert_array_equal(solution.converged, solution.relative_gap <= 1e-6)
