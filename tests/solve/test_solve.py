"""``solve_rows`` against CVXPY + Clarabel, the optimality conditions, and ugly input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

import simplicit as sp
from cases import TOL, Array, Case, problem


#: Every pair of a shape, a strength and a radius.
@pytest.mark.parametrize(
    ("m", "d", "beta", "radius"),
    [
        (m, d, beta, (None, 0.5, 1e3)[(i + j) % 3])
        for i, (m, d) in enumerate([(60, 12), (30, 30), (12, 60), (5, 120)])
        for j, beta in enumerate((1e-3, 1.0, 30.0))
    ],
)
def test_against_the_reference(m: int, d: int, beta: float, radius: float | None) -> None:
    features, targets = problem(m, d, 3, seed=m + d)
    in_ball = np.arange(d) < d // 2
    Case(features, targets, beta, radius=radius, in_ball=in_ball).check()


@pytest.mark.parametrize("seed", range(6))
def test_ball_on_all_columns(seed: int) -> None:
    features, targets = problem(20, 40, 3, seed=seed)
    solution = Case(features, targets, 0.1, radius=0.3).check()
    assert (solution.multiplier > 0).all()


def test_shared_and_own_support() -> None:
    features, targets = problem(25, 30, 6)
    rng = np.random.default_rng(1)
    shared = rng.random(30) < 0.5
    assert not Case(features, targets, 0.5, support=shared).check().coefficients.toarray()[:, ~shared].any()
    own = rng.random((6, 30)) < 0.5
    assert not Case(features, targets, 0.5, support=own, radius=0.7).check().coefficients.toarray()[~own].any()
    grouped = np.repeat(rng.random((2, 30)) < 0.5, [4, 2], axis=0)[rng.permutation(6)]
    assert not Case(features, targets, 0.5, support=grouped).check().coefficients.toarray()[~grouped].any()


def test_many_rows_with_their_own_supports_share_one_design() -> None:
    features, targets = problem(40, 20, 45)
    own = ~np.eye(45, 20, dtype=bool)
    together = Case(features, targets, 0.5, support=own, radius=0.7).solve()
    for i in (0, 7, 19, 44):
        alone = Case(features, targets[:, [i]], 0.5, support=own[i], radius=0.7).solve()
        assert together.objective[i] == pytest.approx(alone.objective[0], rel=1e-6)
        assert not together.coefficients.toarray()[i, ~own[i]].any()


def test_empty_support_gives_the_zero_row() -> None:
    features, targets = problem(10, 4, 2)
    support = np.array([[True] * 4, [False] * 4])
    solution = Case(features, targets, 0.5, support=support).solve()
    assert solution.nnz[1] == 0
    assert solution.objective[1] == pytest.approx(np.square(targets[:, 1]).sum())
    assert solution.converged.all()


def test_intercept_is_free() -> None:
    features, targets = problem(40, 10, 3)
    shifted = Case(features + 7.0, targets - 100.0, 0.5, intercept=True, radius=0.4).check()
    plain = Case(features, targets, 0.5, intercept=True, radius=0.4).check()
    np.testing.assert_allclose(shifted.coefficients.toarray(), plain.coefficients.toarray(), atol=1e-8)


def test_per_row_weight_strength_and_radius() -> None:
    features, targets = problem(30, 15, 3)
    weight, beta, radius = np.array([0.1, 1.0, 10.0]), np.array([0.5, 0.1, 2.0]), np.array([0.2, 0.5, 9.0])
    together = sp.solve_rows(features, targets, penalty=sp.L1(beta), weight=weight, ball=sp.Ball(radius))
    for i in range(3):
        alone = Case(features, targets[:, [i]], float(beta[i]), float(weight[i]), radius=float(radius[i])).check()
        assert together.objective[i] == pytest.approx(alone.objective[0], rel=1e-6)


def test_column_weights() -> None:
    features, targets = problem(30, 15, 2)
    Case(features, targets, 0.5, column_weights=np.linspace(0.1, 4, 15), radius=0.8).check()


# --- ugly input -----------------------------------------------------------------------------------------------------


def test_duplicate_and_collinear_columns() -> None:
    features, targets = problem(30, 10, 3)
    ugly = np.hstack([features, features, -2 * features, features[:, :5] + features[:, 5:]])
    Case(ugly, targets, 0.5, radius=0.6).check()
    Case(ugly, targets, 0.5).check()


def test_rank_one_and_low_rank() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(40, 1)) @ rng.normal(size=(1, 20))
    Case(features, rng.normal(size=(40, 2)), 0.1, radius=0.2).check()
    features = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 30))
    Case(features, rng.normal(size=(40, 2)), 1e-3).check()


def test_zero_columns_zero_targets_zero_features() -> None:
    features, targets = problem(20, 8, 3)
    features[:, [0, 5]] = 0
    targets[:, 1] = 0
    solution = Case(features, targets, 0.1).check()
    assert solution.nnz[1] == 0
    assert solution.dual_gap[1] == 0
    assert not solution.coefficients.toarray()[:, [0, 5]].any()
    nothing = Case(np.zeros((20, 8)), targets, 0.1).solve()
    assert nothing.coefficients.nnz == 0
    assert nothing.converged.all()


def test_strength_above_the_largest_useful_one_gives_zero() -> None:
    features, targets = problem(20, 8, 3)
    largest = 2 * np.abs(features.T @ targets).max()
    solution = Case(features, targets, largest * 1.000001).solve()
    assert solution.coefficients.nnz == 0
    assert (solution.dual_gap <= TOL * solution.objective).all()
    assert Case(features, targets, largest * 0.9).solve().coefficients.nnz >= 1


@pytest.mark.parametrize("feature_scale", [1e-8, 1e-3, 1e8])
@pytest.mark.parametrize("target_scale", [1e-8, 1e8])
def test_huge_and_tiny_scales(feature_scale: float, target_scale: float) -> None:
    features, targets = problem(25, 40, 3)
    base = Case(features, targets, 0.5, radius=0.6).solve()
    # w scales by target/feature; keep the problem the same one in other units.
    ratio = target_scale / feature_scale
    scaled = Case(
        features * feature_scale, targets * target_scale, 0.5 * target_scale * feature_scale, radius=0.6 * ratio
    ).solve()
    assert scaled.converged.all()
    np.testing.assert_allclose(scaled.coefficients.toarray() / ratio, base.coefficients.toarray(), atol=1e-7)


def test_columns_of_very_different_scale() -> None:
    features, targets = problem(30, 20, 3)
    Case(features * np.logspace(-3, 3, 20), targets, 0.3, radius=0.6).check()


def test_one_sample_one_column() -> None:
    Case(np.array([[2.0]]), np.array([[3.0]]), 0.5).check()
    features, targets = problem(1, 10, 2)
    Case(features, targets, 0.01, radius=0.5).check()


def test_lower_dtype_layout_and_kind_do_not_matter(tmp_path: Any) -> None:
    features, targets = problem(30, 20, 3)
    features32, targets32 = features.astype(np.float32), targets.astype(np.float32)
    expected = sp.solve_rows(features32.astype(float), targets32.astype(float), penalty=sp.L1(0.5))
    np.save(tmp_path / "phi.npy", features32)
    mapped = np.load(tmp_path / "phi.npy", mmap_mode="r")
    for phi, z in ((features32, targets32), (torch.tensor(features32), torch.tensor(targets32)),
                   (np.asfortranarray(features32), np.asfortranarray(targets32))):  # fmt: skip
        solution = sp.solve_rows(phi, z, penalty=sp.L1(0.5))
        assert solution.coefficients.dtype == np.float64
        np.testing.assert_array_equal(solution.coefficients.toarray(), expected.coefficients.toarray())
    # A tall memory map is read in chunks, and its gradients come from the Gram matrix.
    streamed = sp.solve_rows(mapped, targets32, penalty=sp.L1(0.5)).coefficients.toarray()
    np.testing.assert_allclose(streamed, expected.coefficients.toarray(), rtol=1e-9, atol=1e-12)


def badly_scaled(seed: int, m: int, d: int) -> tuple[Array, Array, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(m, d)) * 10 ** rng.uniform(-4, 4, size=d), rng.normal(size=(m, 1)), rng


@pytest.mark.parametrize(("seed", "m", "d", "share", "radius"), [(14, 5, 30, 1e-6, 1e-4), (0, 5, 30, 1e-6, 0.01)])
def test_small_balls_on_badly_scaled_columns(seed: int, m: int, d: int, share: float, radius: float) -> None:
    """Once every column of the ball has left the pattern, the ball has no direction of its own."""
    features, targets, _ = badly_scaled(seed, m, d)
    beta = 2 * np.abs(features.T @ targets).max() * share
    solution = sp.solve_rows(
        features, targets, penalty=sp.L1(beta), ball=sp.Ball(radius, slice(0, d // 2)), throw=False
    )
    assert np.isfinite(solution.objective).all()
    assert np.isfinite(solution.coefficients.data).all()
    assert solution.objective[0] <= np.square(targets).sum()
    assert (solution.relative_gap[solution.converged] <= TOL).all()


@pytest.mark.parametrize("seed", range(12))
def test_a_bad_warm_start_is_no_worse_than_none(seed: int) -> None:
    features, targets, rng = badly_scaled(seed, 12, 90)
    start = rng.normal(size=(1, 90)) * 10 ** rng.uniform(0, 6)
    arguments: dict[str, Any] = {
        "penalty": sp.L1(2 * np.abs(features.T @ targets).max() * 1e-2),
        "ball": sp.Ball(1.0, slice(0, 45)),
    }
    cold = sp.solve_rows(features, targets, **arguments)
    warm = sp.solve_rows(features, targets, warm_start=start, **arguments)
    assert warm.converged.all()
    assert warm.objective[0] == pytest.approx(cold.objective[0], rel=2 * TOL)


def test_a_warm_start_off_the_support_and_outside_the_ball() -> None:
    features, targets = problem(30, 20, 2)
    support = np.arange(20) < 10
    start = np.full((2, 20), 100.0)
    solution = Case(features, targets, 0.5, support=support, radius=0.5, extra={"warm_start": start}).check()
    assert not solution.coefficients.toarray()[:, ~support].any()


def test_tiny_columns_count() -> None:
    """A column is left out only if it is exactly zero: a weak penalty can make a tiny one worth having."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=(30, 1))
    features = np.hstack([1e6 * rng.normal(size=(30, 3)), 1e-8 * target])
    solution = sp.solve_rows(features, target, penalty=sp.L1(1.0, np.array([1e8, 1e8, 1e8, 1e-12])), throw=False)
    assert solution.objective[0] <= 1e-3


def test_large_offsets_with_an_intercept() -> None:
    rng = np.random.default_rng(0)
    steps = rng.integers(-1000, 1000, size=(30, 1)) * 256.0
    features = np.hstack([1.7e18 + steps, rng.normal(size=(30, 2)), np.full((30, 1), 0.1)])
    targets = (steps - steps.mean()) / 1e5
    solution = sp.solve_rows(features, targets, penalty=sp.L1(1e-3), intercept=True)
    assert solution.objective[0] <= 1e-3 * np.square(targets).sum()
    assert not solution.coefficients.toarray()[0, 3]


@pytest.mark.parametrize("radius", [1e2, 1e4, 1e8, 1e12])
def test_a_slack_ball_is_certified_like_none(radius: float) -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(20, 40)), rng.normal(size=(20, 3))
    free = sp.solve_rows(features, targets, penalty=sp.L1(1e-4))
    slack = sp.solve_rows(features, targets, penalty=sp.L1(1e-4), ball=sp.Ball(radius))
    np.testing.assert_allclose(slack.objective, free.objective, rtol=2 * TOL)


def test_an_indefinite_gram_matrix_is_no_crash() -> None:
    """An offset of 1e8 without intercept leaves the Gram matrix with nothing but rounding off its first direction."""
    features, targets = problem(30, 20, 2)
    solution = sp.solve_rows(features + 1e8, targets, penalty=sp.L1(0.1), throw=False)
    assert np.isfinite(solution.coefficients.data).all()
    assert (solution.objective <= np.square(targets).sum(axis=0)).all()


def test_many_columns_few_samples() -> None:
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(40, 1500)), rng.normal(size=(40, 4))
    for ball in (None, sp.Ball(0.01), sp.Ball(2.0)):
        assert sp.solve_rows(features, targets, penalty=sp.L1(0.01), ball=ball).converged.all()


# --- properties -----------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    m=st.integers(1, 25),
    d=st.integers(1, 40),
    log_beta=st.floats(-3, 2),
    radius=st.one_of(st.none(), st.floats(0.01, 5)),
    intercept=st.booleans(),
)
def test_random_problems(seed: int, m: int, d: int, log_beta: float, radius: float | None, intercept: bool) -> None:
    features, targets = problem(m, d, 2, seed=seed)
    in_ball = np.random.default_rng(seed).random(d) < 0.5
    in_ball[0] = True
    Case(features, targets, 10**log_beta, radius=radius, in_ball=in_ball, intercept=intercept).check()


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), m=st.integers(2, 60), d=st.integers(2, 100), log_beta=st.floats(-4, 1))
def test_gap_closes_everywhere(seed: int, m: int, d: int, log_beta: float) -> None:
    """Many rows, without the slow reference: the certificate itself is the proof."""
    features, targets = problem(m, d, 12, seed=seed, sparse_truth=max(1, d // 3))
    in_ball = np.arange(d) < d // 2
    solution = Case(features, targets, 10**log_beta, radius=0.7, in_ball=in_ball).solve()
    assert solution.converged.all()
    assert (np.abs(solution.coefficients.toarray()[:, in_ball]).sum(axis=1) <= 0.7).all()


def test_permuting_rows_and_columns_permutes_the_solution() -> None:
    features, targets = problem(30, 20, 5)
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(5), rng.permutation(20)
    plain = Case(features, targets, 0.5, radius=0.7).solve().coefficients.toarray()
    permuted = Case(features[:, columns], targets[:, rows], 0.5, radius=0.7).solve().coefficients.toarray()
    np.testing.assert_allclose(permuted, plain[np.ix_(rows, columns)], atol=1e-8)


def test_executors_agree_to_the_bit() -> None:
    features, targets = problem(60, 90, 100)
    solutions = [
        Case(features, targets, 0.5, radius=0.7, extra=extra).solve()
        for extra in ({"executor": "serial"}, {}, *({"executor": sp.Threads(workers=n)} for n in (1, 2, 3)))
    ]
    for solution in solutions[1:]:
        for name in ("data", "indices", "indptr"):
            expected = getattr(solutions[0].coefficients, name)
            np.testing.assert_array_equal(getattr(solution.coefficients, name), expected)
        np.testing.assert_array_equal(solution.dual_gap, solutions[0].dual_gap)


def test_warm_start_ends_at_the_same_point() -> None:
    features, targets = problem(60, 90, 10)
    cold = Case(features, targets, 0.5, radius=0.7).solve()
    nearby = Case(features, targets, 0.6, radius=0.7).solve()
    for start in (nearby.coefficients, nearby.coefficients.toarray(), csr_array(cold.coefficients.shape)):
        warm = Case(features, targets, 0.5, radius=0.7, extra={"warm_start": start}).solve()
        np.testing.assert_allclose(warm.objective, cold.objective, rtol=2e-6)


def test_progress_counts_every_row_once() -> None:
    features, targets = problem(30, 20, 70)
    seen: list[sp.progress.Progress] = []
    solution = Case(features, targets, 0.5, extra={"progress": seen.append}).solve()
    assert (seen[-1].done, seen[-1].total, seen[-1].remaining) == (70, 70, 0.0)
    rows = [state for state in seen if state.of is None]
    assert [state.done for state in rows] == sorted({state.done for state in rows})
    assert seen[-1].worst_gap == solution.relative_gap.max()
    assert all((state.rate > 0) == (state.done > 0) and state.resumed == 0 for state in rows)
    assert {str(state.stage) for state in seen if state.of is not None} == {"Gram matrix"}


def test_solution_describes_itself() -> None:
    features, targets = problem(30, 20, 3)
    solution = Case(features, targets, 0.5).solve()
    assert "3 rows x 20 columns" in repr(solution)
    assert "3 converged" in repr(solution)
    assert all(len(sp.rows.RowStatus(s).advice) > 20 for s in sp.rows.RowStatus)
    assert (solution.seconds > 0).all()


# --- bad input ------------------------------------------------------------------------------------------------------

GOOD = problem(8, 5, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((8,))}, "features: expected 2 dimensions"),
        ({"features": np.zeros((0, 5))}, "features: is empty"),
        ({"targets": np.zeros((8, 0))}, "targets: is empty"),
        ({"features": np.ones((8, 5), dtype=int)}, "features: expected floats, got int64"),
        ({"features": np.full((8, 5), None)}, "features must hold real numbers, got dtype object"),
        ({"targets": np.zeros((7, 2))}, r"targets: shape \(7, 2\) does not fit features \(8, 5\)"),
        (
            {"features": np.where(np.arange(40).reshape(8, 5) == 13, np.nan, 1.0)},
            r"features: holds nan at index \(2, 3\)",
        ),
        ({"targets": np.where(np.arange(16).reshape(8, 2) == 5, np.inf, 1.0)}, r"targets: holds inf at index \(2, 1\)"),
        ({"features": np.full((8, 5), 1e155)}, "features: the largest magnitude in column 0 is 1e\\+155, outside"),
        ({"targets": np.full((8, 2), 1e-155)}, "targets: the largest magnitude in column 0 is 1e-155"),
        ({"features": [[1.0, 2.0], [3.0]]}, "features must be an array with rows of equal length"),
        ({"features": np.ma.masked_array(GOOD[0], GOOD[0] > 1)}, "features must not be a masked array"),
        ({"penalty": 0.5}, r"penalty: expected a penalty such as simplicit\.L1"),
        ({"penalty": sp.L1}, r"penalty: expected a penalty such as simplicit\.L1"),
        ({"penalty": sp.L1("a")}, "beta must hold real numbers"),  # type: ignore[arg-type]
        ({"ball": 0.5}, "ball: expected simplicit.Ball"),
        ({"ball": sp.Ball(1.0, slice(9, 12))}, "choose none of the 5 columns"),
        ({"ball": sp.Ball("x")}, "radius must hold real numbers"),  # type: ignore[arg-type]
        ({"tol": "a"}, "tol must be"),
        ({"weight": -1.0}, "weight must be finite and > 0, got -1"),
        ({"weight": np.ones(3)}, "weight has shape"),
        ({"penalty": sp.L1(-0.1)}, "beta must be finite and >= 0"),
        ({"ball": sp.Ball(0.0)}, "radius must"),
        ({"support": np.ones(4, dtype=bool)}, r"support: expected booleans of shape \(5,\) or \(2, 5\)"),
        ({"support": np.ones(5)}, "support: expected booleans"),
        ({"tol": 0.0}, "tol: must lie between 0 and 1"),
        ({"executor": "gpu"}, "executor: 'gpu' is unknown; choose one of 'serial', 'threads'"),
        ({"warm_start": np.zeros((3, 5))}, "warm_start: expected shape"),
        ({"warm_start": np.full((2, 5), np.nan)}, "warm_start: holds nan"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"features": GOOD[0], "targets": GOOD[1], "penalty": sp.L1(0.1)} | change
    with pytest.raises(sp.InputError, match=message):
        sp.solve_rows(arguments.pop("features"), arguments.pop("targets"), **arguments)


def test_rows_that_do_not_converge_are_named_or_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = problem(40, 60, 3)
    unreachable: dict[str, Any] = {"penalty": sp.L1(0.01), "tol": 1e-300}
    with pytest.raises(sp.ConvergenceError, match=r"3 of 3 rows did not reach tol=1e-300.*throw=False") as caught:
        sp.solve_rows(features, targets, **unreachable)
    assert isinstance(caught.value.solution, sp.Solution)
    marked = sp.solve_rows(features, targets, **unreachable, throw=False)
    assert not marked.converged.any()
    assert set(marked.status) <= {sp.rows.RowStatus.ACCURACY_LIMIT, sp.rows.RowStatus.ITERATION_LIMIT}
    assert np.isfinite(marked.coefficients.data).all()
    assert (marked.dual_gap <= 1e-9 * marked.objective).all()


def test_an_error_in_a_block_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("simplicit.solve.options.solve_block_path", broken)
    for executor in ("serial", "threads"):
        with pytest.raises(sp.errors.ExecutionError, match=r"rows 0, 1, 2: could not be solved \(MemoryError: no room"):
            sp.solve_rows(*problem(40, 60, 3), penalty=sp.L1(0.01), executor=executor)
    assert torch.get_num_threads() >= 1


def test_least_squares_that_are_proved_at_the_start_are_taken_as_they_are() -> None:
    """And what is not, beside them, is solved."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(60, 9)), rng.normal(size=(60, 4))
    support = rng.random((4, 9)) < 0.6
    exact = np.zeros((4, 9))
    for row, chosen, target in zip(exact, support, targets.T, strict=True):
        row[chosen] = np.linalg.lstsq(features[:, chosen], target, rcond=None)[0]
    start = exact.copy()
    start[2] *= 0.9
    arguments: dict[str, Any] = {"penalty": sp.NoPenalty(), "support": support, "executor": "serial"}
    solution = sp.solve_rows(features, targets, warm_start=start, **arguments)
    assert solution.converged.all()
    np.testing.assert_allclose(solution.coefficients.toarray(), exact, rtol=1e-9, atol=1e-12)
    alone = sp.solve_rows(features, targets, warm_start=exact, **arguments)
    assert alone.timings["factor"] == 0
    np.testing.assert_allclose(alone.coefficients.toarray(), exact, rtol=1e-12)
