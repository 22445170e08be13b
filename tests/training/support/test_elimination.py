"""Elimination against brute force: prices and paths of rows that share their columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from simplicit.training.support.elimination import FEW, SINGLY, Elimination, EliminationPath, inverse, least_squares

Array = npt.NDArray[np.float64]


def problem(k: int, seed: int = 0, m: int = 60, rows: int = 1) -> tuple[Array, Array]:
    """H (k, k) and c (rows, k) of ridge on correlated columns."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(m, k)) @ (np.eye(k) + 0.4 * rng.normal(size=(k, k)) / np.sqrt(k))
    return features.T @ features + 0.1 * np.eye(k), rng.normal(size=(rows, m)) @ features


def paths(H: Array, c: Array, columns: npt.ArrayLike | None = None) -> list[EliminationPath]:
    at = np.arange(len(H)) if columns is None else np.asarray(columns, dtype=int)
    begin = Elimination.of(H, at)
    return [path for batch in begin.batches(len(c)) for path in begin.paths(c[batch])]


def value(H: Array, c: Array, support: npt.ArrayLike) -> float:
    """f at the minimiser on a support."""
    at = np.asarray(support, dtype=int)
    return -float(c[at] @ np.linalg.solve(H[np.ix_(at, at)], c[at])) if len(at) else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_every_single_step_costs_what_the_refitted_loss_rises_by(seed: int) -> None:
    H, C = problem(12, seed, rows=3)
    for path, c in zip(paths(H, C), C, strict=True):
        for gone in range(12):
            before, after = path.order[gone:], path.order[gone + 1 :]
            assert path.cost[gone] == pytest.approx(value(H, c, after) - value(H, c, before), rel=1e-8, abs=1e-12)
            cheapest = min(value(H, c, np.setdiff1d(before, [j])) for j in before)
            assert value(H, c, after) == pytest.approx(cheapest, rel=1e-10)


@pytest.mark.parametrize("scale", [1.0, 1e-90, 1e90])
def test_blocks_cost_together_what_they_raise_the_loss_by(scale: float) -> None:
    """In float32, whatever the units of columns and targets are."""
    k = SINGLY + 200
    H, C = problem(k, m=400, rows=5)
    units = 10.0 ** np.random.default_rng(1).uniform(-6, 6, k) * scale
    H, C = H * np.outer(units, units), C * units / np.sqrt(scale)
    assert Elimination.of(H, np.arange(k)).P.dtype == torch.float32
    for path, c in zip(paths(H, C), C, strict=True):
        assert sorted(path.order) == list(range(k))
        assert (path.cost > 0).all()
        scaled, target = H / np.outer(units, units), c / units * np.sqrt(scale)
        for count in (0, 1, 10, SINGLY):
            rise = value(scaled, target, path.left(count)) - value(scaled, target, range(k))
            assert path.cost[: k - count].sum() * scale == pytest.approx(rise, rel=1e-3)


def test_dependent_columns_are_eliminated_in_float64() -> None:
    """Every column is there twice, but for a ridge that float32 does not tell from rounding."""
    H, C = problem(60, m=300, rows=2)
    twice, C = np.block([[H, H], [H, H]]) + 1e-6 * np.eye(120), np.hstack([C, C])
    assert Elimination.of(twice, np.arange(120)).P.dtype == torch.float64
    for path, c in zip(paths(twice, C), C, strict=True):
        for count in (0, 10, SINGLY):
            rise = value(twice, c, path.left(count)) - value(twice, c, range(120))
            assert path.cost[: 120 - count].sum() == pytest.approx(rise, rel=1e-5)


def test_columns_and_targets_of_nothing() -> None:
    k = FEW + SINGLY
    H, C = problem(k, m=200, rows=2)
    H[3] = H[:, 3] = 0.0
    H[3, 3] = 1e-3
    C[:, 3], C[1] = 0.0, 0.0
    one, nothing = paths(H, C)
    assert one.order[0] == 3
    assert one.cost[0] == 0
    assert not nothing.cost.any()
    (none,) = paths(np.zeros((0, 0)), np.zeros((1, 0)))
    assert (len(none.order), len(none.price)) == (0, 0)


def test_a_path_names_the_columns_that_it_was_given() -> None:
    H, C = problem(9)
    (path,) = paths(H, C, [1, 4, 5, 8])
    assert sorted(path.order) == [1, 4, 5, 8]
    assert path.left(2).tolist() == sorted(path.order[2:])
    assert path.left(0).size == 0


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
