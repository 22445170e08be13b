"""Supports in N:M patterns against brute force, CVXPY and least squares."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import cvxpy as cp
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import simplicit as sp
from simplicit.rows.batch import Mask
from simplicit.training import problem as problems
from simplicit.training.problem import LeastSquares, Ridge
from simplicit.training.support.elimination import least_squares
from simplicit.training.support.exchange import Exchange
from simplicit.training.support.pattern import Groups, Pattern
from simplicit.training.support.selection import elimination_paths, select
from simplicit.training.support.thresholding import keep_largest

Array = npt.NDArray[np.float64]


def problem(
    pattern: str, d: int = 8, seed: int = 0, rows: int = 5, m: int = 40, *, scale: float = 1.0, dead: int = 0
) -> LeastSquares:
    """Rows on correlated columns, of which the first may be dead, in a pattern."""
    rng = np.random.default_rng(seed)
    features = scale * (rng.normal(size=(m, d)) + rng.normal(size=(m, 1)))
    features[:, :dead] = 0.0
    weights = rng.normal(size=(rows, d))
    targets = features @ weights.T + scale * rng.normal(size=(m, rows))
    sums = problems.Samples(features, targets, intercept=False).sums
    groups = Groups.along(Pattern.parse("pattern", pattern), d, 1)
    return LeastSquares.of(sums, weights, np.ones((rows, d), dtype=bool), Ridge(1e-2, anchor=0.5), groups)


def losses(given_: LeastSquares, support: Mask) -> Array:
    """f of every row at the minimiser on its support."""
    pairs = zip(given_.cross, support, strict=True)
    return np.array([-float(c @ least_squares(given_.gram, c, np.flatnonzero(own))) for c, own in pairs])


def over(given_: LeastSquares, support: Mask) -> int:
    assert given_.groups is not None
    return given_.groups.figures("layer", Pattern(1, 2), support.astype(float)).violations


def selected(given_: LeastSquares, count: int | None = None, *, thresholding: bool = False) -> Mask:
    """A support of all rows, as many as the pattern allows if there is no count."""
    assert given_.groups is not None
    capacity = int(given_.groups.capacity(given_.support).sum())
    paths = elimination_paths(given_, given_.support, 1, priced=count is not None)
    scales = np.ones(len(given_.cross))
    found = select(given_, paths, scales, capacity if count is None else count, 1, thresholding=thresholding)
    assert found.support.sum() == (capacity if count is None else count)
    for row, (own, w) in enumerate(zip(found.support, found.coefficients, strict=True)):
        gradient = given_.gram @ w - given_.cross[row]
        np.testing.assert_allclose(gradient[own], 0, atol=1e-9 * np.abs(given_.cross).max())
        assert not w[~own].any()
    return found.support


def swaps(row: Mask, groups: Groups) -> Iterator[Mask]:
    """All supports that differ by a column of the same group."""
    number = groups.group[0].numpy()
    for out, new in itertools.product(np.flatnonzero(row), np.flatnonzero(~row)):
        if number[out] == number[new]:
            other = row.copy()
            other[[out, new]] = False, True
            yield other


def in_pattern(d: int, kept: int, of: int) -> Iterator[list[int]]:
    """All supports with exactly so many of every group."""
    parts = [itertools.combinations(range(first, first + of), kept) for first in range(0, d, of)]
    return ([column for part in one for column in part] for one in itertools.product(*parts))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("thresholding", [False, True])
def test_no_exchange_within_a_group_gains_and_the_best_of_all_is_near(seed: int, thresholding: bool) -> None:
    one = problem("2:4", seed=seed)
    assert one.groups is not None
    support = selected(one, thresholding=thresholding)
    np.testing.assert_array_equal(support.reshape(-1, 4).sum(axis=1), 2)
    reached = losses(one, support)
    best = np.full(len(reached), np.inf)
    for columns in in_pattern(8, 2, 4):
        every = np.zeros_like(support)
        every[:, columns] = True
        best = np.minimum(best, losses(one, every))
    assert (reached + one.energy <= 1.1 * (best + one.energy)).all()
    for row, own in enumerate(support):
        for other in swaps(own, one.groups):
            whole = np.repeat(other[None], len(support), axis=0)
            assert reached[row] <= losses(one, whole)[row] + 1e-4 * abs(reached[row])


def test_wide_rows_end_where_no_exchange_within_a_group_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    from simplicit.training.support import exchange

    monkeypatch.setattr(exchange, "TRIED", 1)
    monkeypatch.setattr(exchange, "LEAST_GAIN", 1e-4)
    one = problem("2:4", d=96, m=150, rows=3)
    assert one.groups is not None
    assert Exchange.of(one.gram).single.dtype == torch.float32
    support = selected(one)
    reached = losses(one, support)
    for row, own in enumerate(support):
        for other in swaps(own, one.groups):
            w = least_squares(one.gram, one.cross[row], np.flatnonzero(other))
            assert reached[row] <= -float(one.cross[row] @ w) + 2e-4 * abs(reached[row])


@pytest.mark.parametrize(("pattern", "kept", "of"), [("1:2", 1, 2), ("4:8", 4, 8), ("1:4", 1, 4)])
def test_fewer_weights_than_the_pattern_allows_go_where_they_gain_most(pattern: str, kept: int, of: int) -> None:
    one = problem(pattern, d=16, seed=1)
    whole = selected(one)
    np.testing.assert_array_equal(whole.reshape(-1, of).sum(axis=1), kept)
    count = int(whole.sum()) - 7
    for thresholding in (False, True):
        some = selected(one, count, thresholding=thresholding)
        assert over(one, some) == 0
        assert losses(one, some).sum() > losses(one, whole).sum()


def test_a_group_with_room_takes_columns_from_others() -> None:
    one = problem("2:4", seed=3, rows=1)
    start = np.array([[True, True, False, False, False, False, False, False]])
    support, _ = Exchange.of(one.gram).supports(one.cross, start, one.support, groups=one.groups)
    free, _ = Exchange.of(one.gram).supports(one.cross, start, one.support)
    assert over(one, support) == 0
    np.testing.assert_array_equal(support, free)  # which is in the pattern too


def test_of_few_samples_supports_are_those_of_the_whole_matrix() -> None:
    one = problem("2:4", d=258, m=8, rows=2)
    assert one.low_rank is not None
    whole = replace(one)
    object.__setattr__(whole, "low_rank", None)
    found, same = selected(one), selected(whole)
    assert over(one, found) == 0
    np.testing.assert_allclose(losses(one, found) + one.energy, losses(whole, same) + one.energy, rtol=0.05)
    some = selected(one, 100)
    assert over(one, some) == 0


@given(
    st.integers(0, 1000),
    st.integers(1, 13),
    st.sampled_from(["1:2", "2:4", "1:4", "3:5", "4:8"]),
    st.sampled_from([1.0, 1e-8, 1e8]),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_ugly_problems(seed: int, d: int, pattern: str, scale: float, dead: int, sparser: bool) -> None:
    one = problem(pattern, d, seed, rows=3, m=6, scale=scale, dead=min(dead, d))
    assert one.groups is not None
    rng = np.random.default_rng(seed)
    one = replace(one, support=rng.random(one.support.shape) < 0.8)
    capacity = int(one.groups.capacity(one.support).sum())
    support = selected(one, capacity // 2 if sparser else None, thresholding=bool(seed % 2))
    assert over(one, support) == 0
    assert not (support & ~one.support).any()


def test_groups_at_the_end_of_a_row_and_over_the_channels_of_a_kernel() -> None:
    groups = Groups.along(Pattern(2, 4), 7, 1)
    assert groups.slots.tolist() == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    assert groups.most.tolist() == [[2, 2]]
    assert Groups.along(Pattern(2, 4), 5, 1).most.tolist() == [[2, 1]]
    # Channel c at position p is column 2c + p.
    assert Groups.along(Pattern(1, 2), 4, 2).slots.tolist() == [[[0, 2], [1, 3], [4, 6], [5, 7]]]
    scores = torch.tensor([[3.0, 3.0, 1.0, 3.0, 0.0, 2.0, 1.0]])
    assert groups.largest(scores).int().tolist() == [[1, 1, 0, 0, 0, 1, 1]]


def test_rows_may_have_groups_of_their_own() -> None:
    lines, places = np.array([[0, 0, 0, 0, -1], [0, 1, 0, 1, 0]]), np.array([[3, 2, 1, 0, 0], [0, 0, 1, 1, 2]])
    lengths = np.array([[4, 4, 4, 4, 0], [3, 2, 3, 2, 3]])
    groups = Groups.of_lines(Pattern(1, 2), lines, places, lengths)
    kept = groups.largest(torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.0], [1.0, 4.0, 3.0, 2.0, 0.0]]))
    assert kept.int().tolist() == [[0, 1, 0, 1, 1], [0, 1, 1, 0, 1]]
    assert groups.capacity(np.ones((2, 5), dtype=bool)).tolist() == [3, 3]
    assert Groups.of_lines(Pattern(1, 4), lines, places, lengths).capacity(np.ones((2, 5), dtype=bool)).tolist() == [
        2,
        5,
    ]


@pytest.mark.parametrize("count", [3, 5, 8])
def test_the_projection_is_that_of_a_linear_program(count: int) -> None:
    rng = np.random.default_rng(count)
    scores, groups = np.square(rng.normal(size=(2, 10))), Groups.along(Pattern(2, 4), 10, 1)
    t = cp.Variable((2, 10))
    sums = [cp.sum(t[:, a:b], axis=1) <= most for a, b, most in ((0, 4, 2), (4, 8, 2), (8, 10, 1))]
    best = cp.Problem(cp.Maximize(cp.sum(cp.multiply(scores, t))), [t >= 0, t <= 1, cp.sum(t) <= count, *sums])
    best.solve()
    kept = keep_largest(scores, count, groups)
    assert kept.sum() == count
    assert scores[kept].sum() == pytest.approx(best.value, rel=1e-6)


@pytest.mark.parametrize("value", ["2:1", "0:4", "2/4", "4:4", "2:4:8", "a:b", "-1:4", "", 24, (2, 4), None])
def test_what_is_no_pattern(value: object) -> None:
    with pytest.raises(sp.InputError, match=r"pattern: expected N:M with 0 < N < M, such as '2:4' or '1:4', got "):
        Pattern.parse("pattern", value)
