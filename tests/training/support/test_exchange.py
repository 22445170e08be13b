"""Exchanges against brute force, and values against least squares."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from simplicit.rows.batch import Mask
from simplicit.training.support import exchange as room
from simplicit.training.support.elimination import Elimination, least_squares
from simplicit.training.support.exchange import Exchange

Array = npt.NDArray[np.float64]


def problem(d: int, seed: int = 0, rows: int = 6, m: int = 60) -> tuple[Array, Array]:
    """H (d, d) and c (rows, d) of ridge on correlated columns."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(m, d)) @ (np.eye(d) + 0.8 * rng.normal(size=(d, d)) / np.sqrt(d))
    return features.T @ features + 0.1 * np.eye(d), rng.normal(size=(rows, m)) @ features


def starts(rows: int, d: int, seed: int = 0) -> Mask:
    """Supports of different sizes."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.random((rows, d)).argsort(axis=1) < rng.integers(1, d // 2, (rows, 1)))


def found(
    H: Array, C: Array, start: Mask, allowed: Mask | None = None, *, exchanged: bool = True
) -> tuple[Mask, Array]:
    everywhere = np.ones_like(start) if allowed is None else allowed
    exchange, support, w = Exchange.of(H), np.zeros_like(start), np.zeros(start.shape)
    for batch in exchange.batches(start.sum(axis=1)):
        support[batch], w[batch] = exchange.supports(C[batch], start[batch], everywhere[batch], exchanged=exchanged)
    return support, w


def values(H: Array, C: Array, support: Mask) -> Array:
    """f of every row at the minimiser on its support."""
    pairs = zip(C, support, strict=True)
    return np.array([-float(c @ least_squares(H, c, np.flatnonzero(chosen))) for c, chosen in pairs])


@pytest.mark.parametrize("seed", range(8))
def test_after_exchanges_no_single_exchange_gains(seed: int) -> None:
    H, C = problem(10, seed)
    start = starts(6, 10, seed)
    support, _ = found(H, C, start)
    np.testing.assert_array_equal(support.sum(axis=1), start.sum(axis=1))
    reached = values(H, C, support)
    assert (reached <= values(H, C, start)).all()
    for c, chosen, own in zip(C, support, reached, strict=True):
        for out, new in itertools.product(np.flatnonzero(chosen), np.flatnonzero(~chosen)):
            other = chosen.copy()
            other[[out, new]] = False, True
            assert own <= values(H, c[None], other[None])[0] + 1e-4 * abs(own)


def test_wide_rows_in_float32_end_where_no_exchange_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    """And after more exchanges than are made before all is computed anew."""
    monkeypatch.setattr(room, "REFRESHED", 4)
    H, C = problem(120, rows=5, m=400)
    start = starts(5, 120)
    support, w = found(H, C, start)
    assert (support & ~start).sum(axis=1).max() > 4
    assert (values(H, C, support) < values(H, C, start)).all()
    again, _ = found(H, C, support)
    np.testing.assert_array_equal(again, support)
    for c, chosen, row in zip(C, support, w, strict=True):
        np.testing.assert_allclose(row, least_squares(H, c, np.flatnonzero(chosen)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60])
@pytest.mark.parametrize("exchanged", [False, True])
def test_values_are_those_of_least_squares_in_any_units(scale: float, exchanged: bool) -> None:
    H, C = problem(90, rows=4, m=300)
    units = 10.0 ** np.random.default_rng(2).uniform(-5, 5, 90) * scale
    support, w = found(H * np.outer(units, units), C * units, starts(4, 90), exchanged=exchanged)
    for c, chosen, row in zip(C, support, w * units, strict=True):
        np.testing.assert_allclose(row, least_squares(H, c, np.flatnonzero(chosen)), rtol=1e-8, atol=1e-12)


def test_columns_that_float32_does_not_tell_apart() -> None:
    """Every column is there twice; of a pair that is in one goes out, for what it explains is explained."""
    H, C = problem(50, rows=3, m=200)
    twice, C = np.block([[H, H], [H, H]]) + 1e-6 * np.eye(100), np.hstack([C, C])
    start = np.zeros((3, 100), dtype=bool)
    start[:, :10] = start[:, 50:60] = True
    support, w = found(twice, C, start)
    assert not (support[:, :50] & support[:, 50:]).any()
    for c, chosen, row in zip(C, support, w, strict=True):
        columns = np.flatnonzero(chosen)
        residual = c[columns] - twice[np.ix_(columns, columns)] @ row[columns]
        assert np.abs(residual).max() <= 1e-9 * np.abs(c).max()


def test_only_what_is_allowed_comes_in() -> None:
    H, C = problem(30, rows=4)
    allowed, start = np.ones((4, 30), dtype=bool), np.zeros((4, 30), dtype=bool)
    allowed[:, 10:] = False
    start[:, :5] = True
    start[1] = False  # a row without any
    allowed[2, 5:] = False  # and one without a choice
    support, w = found(H, C, start, allowed)
    assert not (support & ~allowed).any()
    assert support[2].tolist() == start[2].tolist()
    assert not w[1].any()
    nothing, none = found(H, C, np.zeros((4, 30), dtype=bool))
    assert not nothing.any()
    assert not none.any()


@pytest.mark.parametrize("seed", range(4))
def test_elimination_and_exchanges_come_near_the_best_support_of_all(seed: int) -> None:
    H, C = problem(10, seed, rows=4)
    start = np.zeros((4, 10), dtype=bool)
    for row, path in zip(start, Elimination.of(H, np.arange(10)).paths(C), strict=True):
        row[path.left(3)] = True
    reached = values(H, C, found(H, C, start)[0])
    for c, own in zip(C, reached, strict=True):
        all_of_three = [np.isin(np.arange(10), chosen) for chosen in itertools.combinations(range(10), 3)]
        best = min(values(H, np.tile(c, (len(all_of_three), 1)), np.array(all_of_three)))
        assert own <= 0.9 * best  # both negative
