"""Elimination and exchange against brute force: prices, paths and supports of one least-squares problem."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from simplicit.training.support.elimination import SINGLY, eliminate, exchange, inverse, least_squares

Array = npt.NDArray[np.float64]


def problem(k: int, seed: int = 0, m: int = 60) -> tuple[Array, Array]:
    """H and c of ridge on correlated columns."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(m, k)) @ (np.eye(k) + 0.4 * rng.normal(size=(k, k)) / np.sqrt(k))
    return features.T @ features + 0.1 * np.eye(k), features.T @ rng.normal(size=m)


def value(H: Array, c: Array, support: npt.ArrayLike) -> float:
    """f at the minimiser on a support."""
    at = np.asarray(support, dtype=int)
    return -float(c[at] @ np.linalg.solve(H[np.ix_(at, at)], c[at])) if len(at) else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_every_single_step_costs_what_the_refitted_loss_rises_by(seed: int) -> None:
    H, c = problem(12, seed)
    path = eliminate(inverse(H), c, np.arange(12))
    for gone in range(12):
        before, after = path.order[gone:], path.order[gone + 1 :]
        assert path.cost[gone] == pytest.approx(value(H, c, after) - value(H, c, before), rel=1e-8, abs=1e-12)
        cheapest = min(value(H, c, np.setdiff1d(before, [j])) for j in before)
        assert value(H, c, after) == pytest.approx(cheapest, rel=1e-10)


def test_blocks_cost_together_what_they_raise_the_loss_by() -> None:
    k = SINGLY + 60
    H, c = problem(k, m=150)
    path = eliminate(inverse(H), c, np.arange(k))
    assert sorted(path.order) == list(range(k))
    assert (path.cost > 0).all()
    for count in (0, 1, 10, SINGLY):
        assert path.cost[: k - count].sum() == pytest.approx(value(H, c, path.left(count)) - value(H, c, range(k)))


def test_a_path_names_the_columns_that_it_was_given() -> None:
    H, c = problem(9)
    columns = np.array([1, 4, 5, 8])
    path = eliminate(inverse(H[np.ix_(columns, columns)]), c[columns], columns)
    assert sorted(path.order) == columns.tolist()
    assert path.left(2).tolist() == sorted(path.order[2:])
    assert path.left(0).size == 0


def test_nothing_to_eliminate() -> None:
    path = eliminate(np.zeros((0, 0)), np.zeros(0), np.zeros(0, dtype=int))
    assert (len(path.order), len(path.price)) == (0, 0)


def test_a_target_without_anything_in_it_costs_nothing() -> None:
    H, _ = problem(SINGLY + 20, m=100)
    path = eliminate(inverse(H), np.zeros(SINGLY + 20), np.arange(SINGLY + 20))
    assert not path.cost.any()


def test_the_inverse_is_symmetric_and_refuses_what_is_not_positive_definite() -> None:
    H, _ = problem(8)
    P = inverse(H)
    np.testing.assert_array_equal(P, P.T)
    np.testing.assert_allclose(P @ H, np.eye(8), atol=1e-10)
    with pytest.raises(np.linalg.LinAlgError):
        inverse(-H)


def test_least_squares_is_numpys() -> None:
    rng = np.random.default_rng(3)
    features, target, support = rng.normal(size=(30, 7)), rng.normal(size=30), np.array([0, 2, 6])
    w = least_squares(features.T @ features, features.T @ target, support)
    np.testing.assert_allclose(w[support], np.linalg.lstsq(features[:, support], target, rcond=None)[0])
    assert not np.delete(w, support).any()


@pytest.mark.parametrize("seed", range(8))
def test_after_exchanges_no_single_exchange_gains(seed: int) -> None:
    H, c = problem(10, seed)
    start = np.arange(4)
    support = exchange(H, c, start, np.arange(10))
    reached = value(H, c, support)
    assert len(support) == 4
    assert reached <= value(H, c, start)
    outside = np.setdiff1d(np.arange(10), support)
    others = [np.union1d(np.setdiff1d(support, [out]), [new]) for out in support for new in outside]
    assert reached <= min(value(H, c, other) for other in others) + 1e-4 * abs(reached)


@pytest.mark.parametrize("seed", range(8))
def test_elimination_and_exchange_come_near_the_best_support_of_all(seed: int) -> None:
    H, c = problem(10, seed)
    found = exchange(H, c, eliminate(inverse(H), c, np.arange(10)).left(3), np.arange(10))
    best = min(value(H, c, support) for support in itertools.combinations(range(10), 3))
    assert value(H, c, found) <= 0.97 * best  # both negative


def test_exchange_keeps_to_the_candidates() -> None:
    H, c = problem(10)
    assert exchange(H, c, np.array([0, 1]), np.array([0, 1, 2])).max() <= 2
    assert exchange(H, c, np.array([0, 1]), np.array([0, 1])).tolist() == [0, 1]
    assert exchange(H, c, np.zeros(0, dtype=int), np.arange(10)).size == 0
