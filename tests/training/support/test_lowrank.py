"""Elimination and exchange on few samples against those with the whole Gram matrix."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simplicit as sp
from simplicit.training.factor import LEAST_COLUMNS, LowRank
from simplicit.training.problem import LeastSquares, Samples
from simplicit.training.support import elimination, lowrank
from simplicit.training.support.bounds import with_support_gap
from simplicit.training.support.elimination import SINGLY, Elimination, EliminationPath
from simplicit.training.support.exchange import Exchange
from simplicit.training.support.lowrank import LowRankElimination, LowRankExchange
from simplicit.training.support.selection import elimination_paths, select

Array = npt.NDArray[np.float64]
D = LEAST_COLUMNS


class Case:
    """Two rows on few samples, ridge towards their weights."""

    def __init__(self, seed: int, m: int, *, ridge: float, anchor: float, scale: float, ugly: str) -> None:
        rng = np.random.default_rng(seed)
        features = scale * np.maximum(rng.normal(size=(m, D)), -0.5)
        if ugly == "duplicates":
            features[:, D // 2 :] = features[:, : D // 2]
        if ugly == "zeros":
            features[:, ::3] = 0.0
        if ugly == "scales":
            features *= 10.0 ** rng.uniform(-3, 3, size=D)
        weights = rng.normal(size=(2, D))
        targets = features @ weights.T
        if ugly == "zero target":
            targets[:, 1] = weights[1] = 0.0
        self.samples, self.weights, self.ridge = Samples(features, targets, False), weights, sp.Ridge(ridge, anchor)

    @cached_property
    def problem(self) -> LeastSquares:
        support = np.ones((2, D), dtype=bool)
        return LeastSquares.of(self.samples.sums, self.weights, support, self.ridge)

    @cached_property
    def low_rank(self) -> LowRank:
        found = self.problem.low_rank
        assert found is not None
        return found

    def value(self, row: int, support: npt.NDArray[np.intp]) -> float:
        """The least f on a support."""
        H, c = self.problem.gram, self.problem.cross[row]
        return -float(c[support] @ np.linalg.solve(H[np.ix_(support, support)], c[support]))


cases = st.builds(
    Case,
    st.integers(0, 10**6),
    st.integers(1, 20),
    ridge=st.sampled_from([1e-1, 1e-2, 1e-4]),
    anchor=st.sampled_from([0.0, 0.6, 1.0]),
    scale=st.sampled_from([1.0, 1e-30, 1e30]),
    ugly=st.sampled_from(["", "duplicates", "zeros", "scales", "zero target"]),
)


def both(case: Case, columns: npt.NDArray[np.intp]) -> zip[tuple[EliminationPath, EliminationPath]]:
    """The paths of few samples, and of the whole matrix, row by row."""
    found = []
    for begin in (LowRankElimination(case.low_rank, columns), Elimination.of(case.problem.gram, columns)):
        batches = begin.batches(2)
        found.append([path for batch in batches for path in begin.paths(case.problem.cross[batch])])
    return zip(*found, strict=True)


@settings(max_examples=6)
@given(cases)
def test_paths_leave_columns_as_good_as_those_of_the_whole_matrix(case: Case) -> None:
    columns = np.arange(D)
    for row, (found, dense) in enumerate(both(case, columns)):
        assert sorted(found.order) == columns.tolist()
        least = case.value(row, columns)
        for count in (128, SINGLY, 10):
            reached, expected = (case.value(row, path.left(count)) for path in (found, dense))
            assert reached <= expected + 1e-4 * abs(least)  # ties may be broken otherwise
            if count <= SINGLY:  # where no block is cut in two
                raised = found.cost[: D - count].sum()
                assert raised == pytest.approx(reached - least, rel=1e-6, abs=1e-8 * abs(least))


@settings(max_examples=6)
@given(cases, st.integers(0, 10**6))
def test_exchanges_gain_what_those_with_the_whole_matrix_do(case: Case, seed: int) -> None:
    problem, rng = case.problem, np.random.default_rng(seed)
    start, allowed = np.zeros((2, 2, D), dtype=bool)
    start[:, rng.permutation(D)[:120]] = allowed[:, rng.permutation(D)[:200]] = True
    ours = LowRankExchange(case.low_rank).supports(problem.cross, start, allowed)[0]
    theirs = Exchange.of(problem.gram).supports(problem.cross, start, allowed)[0]
    assert not (ours & ~(start | allowed)).any()
    for row in range(2):
        found, dense, first = (np.flatnonzero(one[row]) for one in (ours, theirs, start))
        assert len(found) == 120
        reached, expected, before = (case.value(row, one) for one in (found, dense, first))
        assert reached <= before * (1 - 1e-12)
        assert reached <= expected + 0.01 * abs(before - expected) + 1e-4 * abs(expected)


def test_exchange_without_a_choice() -> None:
    case = Case(0, 5, ridge=1e-2, anchor=1.0, scale=1.0, ugly="")
    start = np.isin(np.arange(D), [1, 2])[None].repeat(2, axis=0)
    rows = LowRankExchange(case.low_rank)
    support, values = rows.supports(case.problem.cross, start, np.zeros_like(start))
    np.testing.assert_array_equal(support, start)
    np.testing.assert_array_equal(values, rows.supports(case.problem.cross, start, start, exchanged=False)[1])


def test_without_ties_the_order_is_that_of_the_whole_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows go together."""
    case = Case(1, 12, ridge=1e-2, anchor=1.0, scale=1.0, ugly="")
    columns = np.setdiff1d(np.arange(D), [0, 7])
    monkeypatch.setattr(lowrank, "CACHE", 1)
    monkeypatch.setattr(elimination, "FEW", D)  # in float64
    assert len(LowRankElimination(case.low_rank, columns).batches(2)) == 2
    for path, expected in both(case, columns):
        assert path.order.tolist() == expected.order.tolist()
        np.testing.assert_allclose(path.cost, expected.cost, rtol=1e-9, atol=1e-12 * expected.cost.sum())


@pytest.mark.parametrize("thresholding", [False, True])
def test_selections_and_bounds_are_those_of_the_whole_matrix(thresholding: bool) -> None:
    given = Case(2, 10, ridge=1e-1, anchor=1.0, scale=1.0, ugly="").problem
    whole, scales = replace(given, ridge=0.0), np.array([1.0, 2.0])
    found = []
    for problem in (given, whole):
        paths = elimination_paths(problem, problem.support, 1)
        chosen = select(problem, paths, scales, 300, 1, thresholding=thresholding)
        solution = sp.solve_rows(
            problem.statistics, penalty=sp.NoPenalty(), support=chosen.support, executor="serial", throw=False
        )
        found.append((chosen, with_support_gap(solution, problem, 1.0).cardinality_gap))
    (ours, gap), (expected, expected_gap) = found
    assert whole.low_rank is None
    np.testing.assert_array_equal(ours.support, expected.support)
    np.testing.assert_allclose(ours.coefficients, expected.coefficients, atol=1e-9)
    np.testing.assert_allclose(gap, expected_gap, rtol=1e-3)
