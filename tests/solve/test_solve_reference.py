"""``solver="reference"``: a second opinion by CVXPY and Clarabel, with the same certificate."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import simplicit as sp
from cases import problem
from families import PENALTIES, flaws, random_case

UGLY = ("normal", "duplicate and zero columns", "integers", "positive")


@pytest.mark.parametrize("penalty", PENALTIES)
def test_both_solvers_agree(penalty: str) -> None:
    for seed in range(3):
        case = random_case(6000 + seed, rows=2, largest=30, penalty=penalty, regime=UGLY[seed % 4])
        case = case.with_changes(features=case.features.astype(float), targets=case.targets.astype(float))
        ours, theirs = case.solve(), case.solve(solver="reference")
        # A gap of theirs can end above the tolerance, but it is a proof all the same.
        assert flaws(case, theirs) == [], case.label
        infeasible = ours.status == sp.rows.RowStatus.INFEASIBLE
        np.testing.assert_array_equal(theirs.status == sp.rows.RowStatus.INFEASIBLE, infeasible)
        slack = ours.dual_gap + theirs.dual_gap + 1e-9 * ours.objective
        energy = np.square(case.targets).sum(axis=0)
        slack = slack + 1e-12 * np.mean(case.weight) * energy
        # A target that the intercept meets up to rounding has no digits left to agree on.
        varies = np.square(case.targets - case.intercept * case.targets.mean(axis=0)).sum(axis=0) > 1e-20 * energy
        both = ~infeasible & np.isfinite(slack) & varies
        assert (abs(ours.objective - theirs.objective) <= slack)[both].all(), case.label
        if penalty not in ("NoPenalty", "BasisPursuit"):
            assert (theirs.relative_gap[varies] <= 1e-3).all(), case.label


def test_it_takes_everything_that_the_solver_takes() -> None:
    features, targets = problem(20, 12, 3)
    options = {"penalty": sp.L1(0.5), "ball": sp.Ball(np.array([0.2, 0.5, 9.0]), slice(0, 6)), "intercept": True}
    support = np.random.default_rng(0).random((3, 12)) < 0.7
    ours = sp.solve_rows(features, targets, support=support, **options)
    theirs = sp.solve_rows(features, targets, support=support, solver="reference", throw=False, **options)
    np.testing.assert_allclose(theirs.objective, ours.objective, rtol=1e-6)
    np.testing.assert_allclose(theirs.coefficients.toarray(), ours.coefficients.toarray(), atol=1e-4)
    np.testing.assert_allclose(theirs.intercepts, ours.intercepts, atol=1e-4)
    np.testing.assert_allclose(theirs.multiplier, ours.multiplier, atol=1e-2, rtol=1e-3)
    assert not theirs.coefficients.toarray()[~support].any()
    gram = sp.Gram.from_batches([(features, targets)])
    streamed = sp.solve_rows(gram, support=support, solver="reference", throw=False, **options)
    np.testing.assert_allclose(streamed.objective, ours.objective, rtol=1e-6)
    assert (theirs.seconds > 0).all()


@pytest.mark.parametrize("missing", ["cvxpy", "clarabel"])
def test_without_the_extra_the_message_says_how_to_get_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(sp.errors.MissingExtraError, match=r"pip install 'simplicit\[cvxpy\]'"):
        sp.solve_rows(*problem(8, 5, 2), penalty=sp.L1(0.5), solver="reference")


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(sp.InputError, match="solver: 'lars' is unknown; choose one of 'active-set', 'reference'"):
        sp.solve_rows(*problem(8, 5, 2), penalty=sp.L1(0.5), solver="lars")
