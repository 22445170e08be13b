"""Paths of strengths and balls, the strongest useful strength, and re-weighted rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import simplicit as sp
from cases import problem
from families import PENALTIES, RowCase, flaws, random_case
from reference import Array

SMOOTH = [penalty for penalty in PENALTIES if penalty != "BasisPursuit"]


def same(members: list[sp.Solution], alone: list[sp.Solution]) -> None:
    """Member by member, the objective to the tolerance."""
    assert len(members) == len(alone)
    for member, single in zip(members, alone, strict=True):
        assert member.converged.all()
        np.testing.assert_allclose(member.objective, single.objective, rtol=2e-6)
        assert (member.dual_gap <= 1e-6 * member.objective).all()
        assert member.tol == single.tol


def series(penalty: str, strongest: float) -> list[Any]:
    shares = (1.0, 0.5, 0.2, 0.05, 1e-3)
    return {
        "L1": [sp.L1(s * strongest) for s in shares],
        "ElasticNet": [sp.ElasticNet(s * strongest, 1.0) for s in shares],
        "Perspective": [sp.Perspective(2.0, (s * strongest) ** 2 / 8) for s in shares],
        "mixed": [sp.L1(strongest / 3), sp.ElasticNet(strongest / 9, 1.0), sp.NoPenalty(), sp.L1(strongest / 2)],
    }[penalty]


#: Every penalty with and without a ball, and with and without supports; both pairs of these, two by two.
@pytest.mark.parametrize(
    ("penalty", "ball", "support"),
    [
        (penalty, (None, sp.Ball(0.7, slice(0, 10)))[j], ("none", "own")[(i + j) % 2])
        for i, penalty in enumerate(("L1", "ElasticNet", "Perspective", "mixed"))
        for j in range(2)
    ],
)
def test_a_path_is_its_members(penalty: str, ball: sp.Ball | None, support: str) -> None:
    features, targets = problem(60, 20, 5)
    options: dict[str, Any] = {"ball": ball, "weight": np.linspace(0.5, 2, 5)}
    if support == "own":
        options["support"] = np.random.default_rng(0).random((5, 20)) < 0.7
    penalties = series(penalty, 2 * float(abs(features.T @ targets).max()))
    path = sp.solve_path(features, targets, penalties, **options)
    same(path, [sp.solve_rows(features, targets, penalty=p, **options) for p in penalties])


@pytest.mark.parametrize("shape", [(15, 60), (40, 200)])
def test_a_path_with_more_columns_than_samples(shape: tuple[int, int]) -> None:
    features, targets = problem(*shape, 4)
    penalties = [sp.L1(share * 2 * float(abs(features.T @ targets).max())) for share in (0.8, 0.3, 0.05, 0.01)]
    for options in ({}, {"ball": sp.Ball(1.0)}, {"intercept": True}):
        path = sp.solve_path(features, targets, penalties, **options)
        same(path, [sp.solve_rows(features, targets, penalty=p, **options) for p in penalties])


def test_a_path_of_balls_is_its_members() -> None:
    features, targets = problem(50, 30, 4)
    balls = [sp.Ball(0.1), sp.Ball(1.0, slice(0, 10)), None, sp.Ball(np.linspace(0.2, 2, 4), slice(5, 30))]
    path = sp.solve_path(features, targets, sp.L1(0.5), ball=balls)
    same(path, [sp.solve_rows(features, targets, penalty=sp.L1(0.5), ball=ball) for ball in balls])
    both = sp.solve_path(features, targets, [sp.L1(b) for b in (4.0, 2.0, 1.0, 0.5)], ball=balls)
    expected = zip((4.0, 2.0, 1.0, 0.5), balls, strict=True)
    same(both, [sp.solve_rows(features, targets, penalty=sp.L1(b), ball=ball) for b, ball in expected])


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_a_path_does_not_matter(order: int) -> None:
    features, targets = problem(30, 60, 4)
    penalties = [sp.L1(beta) for beta in (50.0, 5.0, 0.5, 0.05)]
    forth = sp.solve_path(features, targets, penalties[::order], ball=sp.Ball(1.0))
    same(forth[::order], [sp.solve_rows(features, targets, penalty=p, ball=sp.Ball(1.0)) for p in penalties])


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 24))])
def test_random_paths(seed: int) -> None:
    """Ugly problems: a member of a path is proved as well as a lone problem, and is no worse."""
    case = random_case(4000 + seed, rows=3, largest=60, penalty=SMOOTH[seed % 8])
    others = [random_case(5000 + seed, rows=3, largest=60, penalty=kind).penalty for kind in ("L1", "ridge")]
    penalties = [others[0], case.penalty, others[1]]
    options = {"weight": case.weight, "ball": case.ball, "support": case.support, "intercept": case.intercept}
    path = sp.solve_path(case.features, case.targets, penalties, throw=False, executor="serial", **options)
    for penalty, member in zip(penalties, path, strict=True):
        single = case.with_changes(penalty=penalty)
        assert flaws(single, member) == []
        alone = single.solve()
        assert member.converged[alone.converged].all(), (case.label, member.relative_gap)
        slack = member.dual_gap + alone.dual_gap + 1e-9 * alone.objective
        slack = slack + 1e-12 * np.mean(case.weight) * np.square(case.targets.astype(float)).sum(axis=0)
        assert (abs(member.objective - alone.objective) <= slack).all(), case.label


def test_a_path_on_a_gram() -> None:
    features, targets = problem(60, 20, 3)
    gram = sp.Gram.from_batches([(features, targets)])
    penalties = [sp.L1(beta) for beta in (5.0, 0.5)]
    same(sp.solve_path(gram, penalties=penalties), sp.solve_path(features, targets, penalties))


@pytest.mark.slow
def test_a_path_reports_its_progress_and_its_failures() -> None:
    features, targets = problem(30, 20, 70)
    seen: list[sp.progress.Progress] = []
    penalties = [sp.L1(5.0), sp.L1(0.5), sp.L1(0.05)]
    sp.solve_path(features, targets, penalties, progress=seen.append)
    assert (seen[-1].done, seen[-1].total) == (210, 210)
    rows = [state.done for state in seen if state.of is None]
    assert rows == sorted(set(rows))
    with pytest.raises(sp.ConvergenceError, match="rows did not reach tol=1e-300"):
        sp.solve_path(features, targets, penalties, tol=1e-300)
    marked = sp.solve_path(features, targets, penalties, tol=1e-300, throw=False)
    assert len(marked) == 3
    assert not marked[2].converged.any()


def test_executors_agree_on_a_path() -> None:
    features, targets = problem(40, 60, 70)
    penalties = [sp.L1(5.0), sp.L1(0.5)]
    serial = sp.solve_path(features, targets, penalties, ball=sp.Ball(1.0), executor="serial")
    threads = sp.solve_path(features, targets, penalties, ball=sp.Ball(1.0), executor=sp.Threads(workers=2))
    for first, second in zip(serial, threads, strict=True):
        np.testing.assert_array_equal(first.coefficients.toarray(), second.coefficients.toarray())
        np.testing.assert_array_equal(first.dual_gap, second.dual_gap)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"penalties": None}, "penalties: give a sequence of penalties"),
        ({"penalties": []}, "penalties: give a sequence of penalties"),
        ({"penalties": "l1"}, "penalties: give a sequence of penalties"),
        ({"penalties": [0.5]}, "penalty: expected a penalty such as"),
        ({"penalties": [sp.L1(1.0)], "ball": [sp.Ball(1.0)] * 2}, "ball: 2 balls for 1 penalties"),
        ({"penalties": sp.L1(1.0), "ball": [sp.Ball(1.0), 0.5]}, "ball: expected simplicit.Ball"),
        ({"penalties": [sp.L1(1.0), sp.BasisPursuit()]}, "a path cannot mix BasisPursuit with others"),
        ({"penalties": [sp.L1(1.0)], "tol": 2.0}, "tol: must lie between 0 and 1"),
    ],
)
def test_bad_paths(arguments: dict[str, Any], message: str) -> None:
    features, targets = problem(8, 5, 2)
    with pytest.raises(sp.InputError, match=message):
        sp.solve_path(features, targets, **arguments)


# --- the strongest useful strength ----------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("shape", [(30, 10), (8, 40)])
def test_beta_max_is_the_threshold(shape: tuple[int, int], intercept: bool) -> None:
    features, targets = problem(*shape, 4)
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {
        "weight": rng.uniform(0.1, 10, size=4),
        "support": rng.random((4, shape[1])) < 0.7,
        "intercept": intercept,
    }
    factors = rng.uniform(0.1, 3, size=shape[1])
    strongest = sp.beta_max(features, targets, column_weights=factors, **options)
    centred = targets - intercept * targets.mean(axis=0)
    pull = 2 * options["weight"][:, None] * abs((features - intercept * features.mean(axis=0)).T @ centred).T / factors
    np.testing.assert_allclose(strongest, (pull * options["support"]).max(axis=1), rtol=1e-10)
    above = sp.solve_rows(features, targets, penalty=sp.L1(strongest * (1 + 1e-10), factors), **options)
    below = sp.solve_rows(features, targets, penalty=sp.L1(strongest * (1 - 1e-4), factors), tol=1e-12, **options)
    assert above.coefficients.nnz == 0
    assert (below.nnz > 0).all()


def test_beta_max_of_zero_targets_free_columns_and_gram() -> None:
    features, targets = problem(30, 10, 3)
    targets[:, 1] = 0
    strongest = sp.beta_max(features, targets)
    assert strongest[1] == 0
    np.testing.assert_allclose(sp.beta_max(sp.Gram.from_batches([(features, targets)])), strongest, rtol=1e-10)
    factors = np.ones(10)
    factors[3] = 0.0
    assert sp.beta_max(features, targets, column_weights=factors).tolist() == [np.inf, 0.0, np.inf]
    assert sp.beta_max(features, targets, support=np.zeros(10, dtype=bool)).tolist() == [0.0, 0.0, 0.0]


# --- rounds ---------------------------------------------------------------------------------------------------------


def factors_after(w: Array, features: Array) -> Array:
    """ε/(|wⱼ|‖Φⱼ‖ + ε), ε a tenth of the row's largest |wⱼ|‖Φⱼ‖; 1 where w = 0."""
    size = abs(w) * np.linalg.norm(features, axis=0)
    epsilon = 0.1 * size.max(axis=1, keepdims=True)
    return np.where(size > 0, epsilon / np.where(size > 0, size + epsilon, 1.0), 1.0)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("base", ["L1", "ElasticNet", "Perspective"])
def test_rounds_are_solves_with_the_documented_weights(base: str, intercept: bool) -> None:
    features, targets = problem(40, 25, 4)
    targets[:, 2] = 0
    beta = 0.1 * 2 * float(abs(features.T @ targets).max())
    kinds: dict[str, Any] = {
        "L1": lambda c: sp.L1(beta, c),
        "ElasticNet": lambda c: sp.ElasticNet(beta, 1.0, c),
        "Perspective": lambda c: sp.Perspective(2.0, beta**2 / 8, c),
    }
    own = np.linspace(0.5, 2, 25)
    options: dict[str, Any] = {"ball": sp.Ball(1.0, slice(0, 12)), "intercept": intercept}
    solution = sp.solve_rows(features, targets, penalty=kinds[base](own), rounds=3, **options)
    rounds = [*solution.earlier, solution]
    assert len(rounds) == 3
    centred = features - intercept * features.mean(axis=0)
    factors = np.broadcast_to(own, (4, 25))
    for member in rounds:
        assert member.converged.all()
        expected = sp.solve_rows(features, targets, penalty=kinds[base](factors), **options)
        np.testing.assert_allclose(member.objective, expected.objective, rtol=2e-6)
        case = RowCase(features, targets, kinds[base](factors), **options)
        assert flaws(case, member) == []
        factors = own * factors_after(member.coefficients.toarray(), centred)
    assert rounds[0].earlier == ()
    assert solution.nnz[2] == 0


def test_rounds_make_sparser_rows_with_less_bias() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 100))
    truth = np.zeros((5, 100))
    truth[:, :6] = rng.choice([-1.0, 1.0], size=(5, 6))
    targets = features @ truth.T + 0.1 * rng.normal(size=(60, 5))
    solution = sp.solve_rows(features, targets, penalty=sp.L1(8.0), rounds=3)
    first = solution.earlier[0]
    assert solution.coefficients.nnz < first.coefficients.nnz
    error, before = (np.linalg.norm(s.coefficients.toarray() - truth) for s in (solution, first))
    assert error < before


def test_rounds_report_progress_and_failures() -> None:
    features, targets = problem(30, 20, 40)
    seen: list[sp.progress.Progress] = []
    sp.solve_rows(features, targets, penalty=sp.L1(0.5), rounds=2, progress=seen.append)
    assert (seen[-1].done, seen[-1].total) == (80, 80)
    rows = [state.done for state in seen if state.of is None]
    assert rows == sorted(set(rows))
    with pytest.raises(sp.ConvergenceError):
        sp.solve_rows(features, targets, penalty=sp.L1(0.5), rounds=2, tol=1e-300)
    for rounds in (0, -1, 1.5, True):
        with pytest.raises(sp.InputError, match="rounds must be an integer of at least 1"):
            sp.solve_rows(features, targets, penalty=sp.L1(0.5), rounds=rounds)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_a_cold_solve_at_a_tiny_strength_is_led_to_the_solution(shape: tuple[int, int]) -> None:
    """Noiseless rows, in a ball, with their own strengths: the same as along a path, within what both prove."""
    rng = np.random.default_rng(0)
    truth = np.zeros((shape[1], 3))
    truth[:4] = rng.normal(size=(4, 3))
    phi = rng.normal(size=shape)
    beta = sp.beta_max(phi, phi @ truth) * np.array([1e-7, 1e-8, 1e-3])
    ball = sp.Ball(0.9 * np.abs(truth[:2]).sum(0).min(), slice(0, 2))
    for inside in (None, ball):
        cold = sp.solve_rows(phi, phi @ truth, penalty=sp.L1(beta), ball=inside)
        path = sp.solve_path(phi, phi @ truth, [sp.L1(beta * 10.0**k) for k in (5, 4, 3, 2, 1, 0)], ball=inside)[-1]
        np.testing.assert_allclose(cold.objective, path.objective, rtol=3e-6)
        if inside is None:
            found = cold.coefficients.toarray()
            assert ((found != 0).sum(1) <= min(shape)).all()
            assert (cold.objective <= (1 + 2e-6) * beta * np.abs(truth).sum(0)).all()
