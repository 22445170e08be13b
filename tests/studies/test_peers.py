"""Pruning methods against the plainest form of what their papers say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from simplicit.studies.peers import PEERS, Layer, Pattern
from simplicit.studies.peers.base import DAMPING, keep_in_groups, keep_largest_in_rows
from simplicit.training.support.thresholding import keep_largest

Array = npt.NDArray[np.float64]


TWO_OF_FOUR = Pattern(2, 4)


def layer(r: int = 5, k: int = 12, count: int = 20, seed: int = 0) -> Layer:
    rng = np.random.default_rng(seed)
    features, weights = rng.random((40, k)) * rng.random(k), rng.normal(size=(r, k))
    return Layer.of_samples(weights, features, features @ weights.T, count)


def with_pattern(given: Layer, pattern: Pattern = TWO_OF_FOUR) -> Layer:
    return replace(given, pattern=pattern, count=given.weights.size * pattern.kept // pattern.of)


def error(given: Layer, W: Array) -> float:
    """‖T − XWᵀ‖² but for ‖T‖²."""
    return float(np.einsum("ij,jk,ik->", W, given.gram, W) - 2 * (W * given.cross).sum())


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("count", [0, 1, 20, 59, 60])
def test_every_method_keeps_the_number_that_it_is_given(name: str, count: int) -> None:
    given = layer(count=count)
    found = PEERS[name].prune(given)
    assert found.shape == given.weights.shape
    assert np.count_nonzero(found) == count
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", PEERS)
def test_a_layer_that_keeps_everything_stays_as_it_is(name: str) -> None:
    given = layer(count=60)
    np.testing.assert_allclose(PEERS[name].prune(given), given.weights, atol=1e-8)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("pattern", [TWO_OF_FOUR, Pattern(1, 3), Pattern(5, 6)])
def test_every_method_keeps_a_pattern(name: str, pattern: Pattern) -> None:
    given = with_pattern(layer(), pattern)
    found = PEERS[name].prune(given)
    assert np.count_nonzero(found) == given.count
    assert (np.count_nonzero(found.reshape(5, -1, pattern.of), axis=2) == pattern.kept).all()


@pytest.mark.parametrize("name", ["magnitude", "wanda", "sparsegpt", "sparseswaps"])
def test_alps_beats_the_others_at_a_pattern(name: str) -> None:
    given = with_pattern(layer(r=6, k=16))
    assert error(given, PEERS["alps"].prune(given)) <= error(given, PEERS[name].prune(given))


def test_magnitude_and_wanda_keep_the_largest_of_every_group() -> None:
    given = with_pattern(layer())
    for name, scale in (("magnitude", np.ones(12)), ("wanda", np.sqrt(given.gram.diagonal()))):
        found = PEERS[name].prune(given)
        for row, new in zip(given.weights, found, strict=True):
            for first in range(0, 12, 4):
                group = np.abs(row * scale)[first : first + 4]
                assert set(np.flatnonzero(new[first : first + 4])) == set(np.argsort(-group)[:2])
        np.testing.assert_array_equal(found[found != 0], given.weights[found != 0])


def test_magnitude_keeps_the_largest() -> None:
    given = layer()
    found = PEERS["magnitude"].prune(given)
    kept = found != 0
    np.testing.assert_array_equal(found[kept], given.weights[kept])
    assert np.abs(given.weights[kept]).min() >= np.abs(given.weights[~kept]).max()


def test_wanda_keeps_the_largest_products_of_every_row() -> None:
    given = layer(count=22)
    found = PEERS["wanda"].prune(given)
    for i, row in enumerate(given.weights):
        scores = [abs(w) * np.sqrt(given.gram[j, j]) for j, w in enumerate(row)]
        best = sorted(range(len(row)), key=lambda j, s=scores: -s[j])[: 5 if i < 2 else 4]
        assert np.flatnonzero(found[i]).tolist() == sorted(best)
        np.testing.assert_array_equal(found[i, best], row[best])


@pytest.mark.parametrize("pattern", [None, TWO_OF_FOUR])
def test_sparsegpt_answers_every_weight_that_goes_with_the_best_of_those_after_it(pattern: Pattern | None) -> None:
    """Row by row and column by column, with a least-squares problem for every answer."""
    given = layer(r=3, k=8, count=14) if pattern is None else with_pattern(layer(r=3, k=8), pattern)
    H = given.gram + DAMPING * given.gram.diagonal().mean() * np.eye(8)
    found = PEERS["sparsegpt"].prune(given)
    W = given.weights.copy()
    R = np.linalg.cholesky(np.linalg.inv(H)).T
    for i in range(3):
        for j in range(8):
            if pattern is not None and j % 4 == 0:
                costs = np.square(W[i, j : j + 4] / R.diagonal()[j : j + 4])
                assert set(np.flatnonzero(found[i, j : j + 4])) == set(np.argsort(-costs)[:2])
            if found[i, j]:
                continue
            later = np.arange(j + 1, 8)
            # Least of (w - W)ᵀH(w - W) with w_j = 0 and the columns before j as they are.
            change = np.zeros(8)
            change[j] = -W[i, j]
            if len(later):
                change[later] = np.linalg.solve(H[np.ix_(later, later)], H[later, j] * W[i, j])
            W[i] += change
            W[i, j] = 0.0
    np.testing.assert_allclose(found, W, atol=1e-9)


def test_alps_ends_with_least_squares_on_its_support_and_beats_the_sweep() -> None:
    given = layer(r=4, k=10, count=12)
    found = PEERS["alps"].prune(given)
    damping = DAMPING * given.gram.diagonal().mean()
    H, G = given.gram + damping * np.eye(10), given.cross + damping * given.weights

    def loss(W: Array) -> float:
        return float(np.einsum("ij,jk,ik->", W, H, W) - 2 * (W * G).sum())

    for i, row in enumerate(found):
        S = np.flatnonzero(row)
        np.testing.assert_allclose(row[S], np.linalg.solve(H[np.ix_(S, S)], G[i, S]), rtol=1e-6)
    for name in ("magnitude", "wanda", "sparsegpt"):
        assert loss(found) <= loss(PEERS[name].prune(given))


def test_alps_is_near_the_best_support_of_a_row() -> None:
    given = layer(r=1, k=9, count=3, seed=4)
    damping = DAMPING * given.gram.diagonal().mean()
    H, g = given.gram + damping * np.eye(9), (given.cross + damping * given.weights)[0]

    def gained(S: tuple[int, ...]) -> float:
        return float(g[list(S)] @ np.linalg.solve(H[np.ix_(S, S)], g[list(S)]))

    best = max(gained(S) for S in itertools.combinations(range(9), 3))
    assert gained(tuple(np.flatnonzero(PEERS["alps"].prune(given)[0]))) >= 0.9 * best


def exchanged(given: Layer, row: int, kept: tuple[int, ...]) -> Iterator[tuple[float, tuple[int, ...]]]:
    """All supports that differ in one weight, with their errors."""
    k = given.weights.shape[1]
    group = k if given.pattern is None else given.pattern.of
    for p, u in itertools.product(kept, set(range(k)) - set(kept)):
        if p // group == u // group:
            new = tuple(sorted({*kept, u} - {p}))
            yield row_error(given, row, new), new


def row_error(given: Layer, row: int, kept: tuple[int, ...]) -> float:
    w = np.zeros(given.weights.shape[1])
    w[list(kept)] = given.weights[row, list(kept)]
    return float(w @ given.gram @ w - 2 * given.cross[row] @ w)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pattern", [None, TWO_OF_FOUR])
@pytest.mark.parametrize("targets", ["own", "others"])
def test_sparseswaps_takes_the_best_exchange_until_none_is_for_the_better(
    seed: int, pattern: Pattern | None, targets: str
) -> None:
    given = layer(count=22, seed=seed) if pattern is None else with_pattern(layer(seed=seed), pattern)
    if targets == "others":
        given = replace(given, cross=given.cross + np.random.default_rng(seed).normal(size=given.cross.shape))
    start, found = PEERS["wanda"].prune(given), PEERS["sparseswaps"].prune(given)
    for row in range(5):
        kept = tuple(np.flatnonzero(start[row]).tolist())
        while (best := min(exchanged(given, row, kept)))[0] < row_error(given, row, kept) - 1e-9:
            kept = best[1]
        assert tuple(np.flatnonzero(found[row])) == kept
        np.testing.assert_array_equal(found[row, list(kept)], given.weights[row, list(kept)])
    assert error(given, found) <= error(given, start)


def test_largest_scores_with_ties() -> None:
    assert keep_in_groups(np.ones((1, 6)), Pattern(1, 3)).tolist() == [[True, False, False] * 2]
    assert keep_largest(np.ones((2, 3)), 4).sum() == 4
    assert keep_largest_in_rows(np.ones((3, 4)), 7).sum(axis=1).tolist() == [3, 2, 2]
