"""The parametric active set: from any start to the same solution, along paths, with few factorisations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from reference import Array
from simplicit.rows import L1, ElasticNet, PiecewiseQuadratic
from simplicit.rows import condense as condensed
from simplicit.rows.admm import Start, admm
from simplicit.rows.design import Design, SampleDesign
from simplicit.rows.outcome import Stopwatch
from simplicit.rows.penalties import Perspective
from simplicit.rows.polish import Polish
from simplicit.rows.problem import SampleProblem
from simplicit.rows.refinement import Refinement

ROWS = 5


def problem_of(
    features: Array, targets: Array, penalty: PiecewiseQuadratic, radius: float | None = None
) -> SampleProblem:
    """Rows ½‖z − Φw‖² + Σh with a ball on the first half of the columns."""
    d, z = features.shape[1], torch.from_numpy(targets.T.copy())
    design = SampleDesign.of_features(features, np.arange(d), None)
    inside = torch.arange(0 if radius is None else d // 2)
    return SampleProblem(
        design=design,
        targets=z,
        cross=z @ design.transposed.T,
        energy=(z * z).sum(1),
        penalty=penalty,
        allowed=None,
        ball_columns=inside,
        ball_weights=torch.ones(1, len(inside)).double(),
        radius=torch.full((len(z), 1), radius or 1.0, dtype=torch.float64),
    )


def regression(m: int, d: int, seed: int = 0, *, twins: bool = False) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(m, d))
    if twins:
        features[:, d // 2 :] = features[:, : d - d // 2]
    truth = rng.normal(size=(d, ROWS)) * (rng.random((d, ROWS)) < 0.3)
    return features, features @ truth + 0.1 * rng.normal(size=(m, ROWS))


def nowhere(problem: SampleProblem) -> Start:
    nothing = torch.zeros_like(problem.cross)
    return Start(nothing, nothing.sum(1), nothing > 0)


def solved(problem: SampleProblem, start: Start) -> Refinement:
    refinement = Refinement(problem, 1e-9, start, Stopwatch())
    refinement.run()
    assert refinement.certificate.converged(1e-9).all()
    return refinement


@dataclass(frozen=True)
class Bent:
    """p|w| up to τ, and beyond it a quadratic that the line through its origin meets below zero."""

    kink: float = 1.0
    curvature: float = 20.0
    threshold: float = 0.3

    def pieces(self, rows: int, columns: int) -> PiecewiseQuadratic:
        full = torch.ones(rows, columns, dtype=torch.float64)
        return PiecewiseQuadratic(self.kink * full, self.curvature * full, self.threshold * full)


PENALTIES = {
    "bent": Bent(),
    "l1": L1(1.0),
    "elastic net": ElasticNet(1.0, 0.5),
    "perspective": Perspective(alpha=0.5, gamma=2.0),
}


@pytest.mark.parametrize(
    ("shape", "name", "radius"),
    [
        (((60, 30), (12, 40))[(i + j) % 2], name, radius)  # either shape with every penalty and every radius
        for i, name in enumerate(PENALTIES)
        for j, radius in enumerate((None, 0.7, 50.0))
    ],
)
def test_every_start_leads_to_the_same_solution(shape: tuple[int, int], name: str, radius: float | None) -> None:
    features, targets = regression(*shape)
    problem = problem_of(features, targets, PENALTIES[name].pieces(ROWS, shape[1]), radius)
    rng = np.random.default_rng(1)
    garbage = problem.feasible(torch.from_numpy(rng.normal(size=(ROWS, shape[1]))))
    starts = [
        nowhere(problem),
        admm(problem),
        Start(garbage, torch.from_numpy(rng.random(ROWS)), torch.from_numpy(rng.random(garbage.shape) < 0.3)),
    ]
    found = [solved(problem, replace(start, w=problem.feasible(start.w))) for start in starts]
    for other in found[1:]:
        torch.testing.assert_close(other.certificate.objective, found[0].certificate.objective, rtol=1e-8, atol=1e-10)
    if radius is not None:
        inside = found[0].best[:, problem.ball_columns].abs().sum(1)
        assert bool((inside <= radius).all())


def test_the_solution_stays_where_it_is() -> None:
    features, targets = regression(60, 30)
    problem = problem_of(features, targets, L1(1.0).pieces(ROWS, 30), 0.7)
    best = solved(problem, nowhere(problem))
    polish = Polish.begin(problem, Start(best.best, best.certificate.multiplier, torch.zeros_like(best.best) > 0))
    assert not bool(polish.improve().any())
    torch.testing.assert_close(polish.w, best.best, rtol=1e-6, atol=1e-8)


def test_equal_columns_come_in_one_at_a_time() -> None:
    features, targets = regression(30, 20, twins=True)
    problem = problem_of(features, targets, L1(0.5).pieces(ROWS, 20))
    best = solved(problem, nowhere(problem)).best
    doubled = best[:, :10] * best[:, 10:]
    assert not bool((doubled < 0).any())  # twins never work against each other


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    sizes: list[int] = []
    original = condensed.factorise

    def factorise(design: Design, columns: Tensor, curvature: Tensor) -> condensed.Factor:
        sizes.append(len(columns))
        return original(design, columns, curvature)

    monkeypatch.setattr(condensed, "factorise", factorise)
    return sizes


def test_one_factorisation_serves_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = regression(400, 120)
    problem = problem_of(features, targets, L1(2.0).pieces(ROWS, 120), 2.0)
    start = admm(problem)
    sizes = counted(monkeypatch)
    solved(problem, replace(start, w=problem.feasible(start.w)))
    assert len(sizes) == ROWS


def test_a_path_goes_on_with_the_same_factorisation(monkeypatch: pytest.MonkeyPatch) -> None:
    features, targets = regression(400, 120)
    betas = [8.0, 6.0, 4.0, 3.0]
    problems = [problem_of(features, targets, L1(beta).pieces(ROWS, 120), 2.0) for beta in betas]
    expected = [solved(problem, nowhere(problem)).certificate.objective for problem in problems]
    start = admm(problems[0])
    sizes = counted(monkeypatch)
    refinement = Refinement(problems[0], 1e-9, replace(start, w=problems[0].feasible(start.w)), Stopwatch())
    for number, (problem, objective) in enumerate(zip(problems, expected, strict=True)):
        if number:
            refinement.continue_with(problem, Stopwatch())
        refinement.run(last=number == len(problems) - 1)
        assert refinement.certificate.converged(1e-9).all()
        torch.testing.assert_close(refinement.certificate.objective, objective, rtol=1e-8, atol=0)
    assert len(sizes) < 2 * ROWS


@pytest.mark.parametrize("radii", [(0.5, 5.0, 0.5), (5.0, 0.2, 50.0)])
def test_a_path_of_radii_stays_feasible(radii: tuple[float, ...]) -> None:
    features, targets = regression(60, 30)
    problems = [problem_of(features, targets, L1(1.0).pieces(ROWS, 30), radius) for radius in radii]
    refinement = Refinement(problems[0], 1e-9, nowhere(problems[0]), Stopwatch())
    for number, (problem, radius) in enumerate(zip(problems, radii, strict=True)):
        if number:
            refinement.continue_with(problem, Stopwatch())
        refinement.run(last=False)
        assert bool((refinement.best[:, :15].abs().sum(1) <= radius).all())
        alone = solved(problem, nowhere(problem))
        torch.testing.assert_close(refinement.certificate.objective, alone.certificate.objective, rtol=1e-8, atol=1e-10)


def test_admm_leaves_undecided_what_is_about_to_change() -> None:
    features, targets = regression(60, 30)
    problem = problem_of(features, targets, L1(1.0).pieces(ROWS, 30))
    best = solved(problem, nowhere(problem)).best
    start = admm(problem)
    wrong = (start.w != 0) != (best != 0)
    assert not bool((wrong & ~start.undecided).any())
    assert bool((start.undecided.sum(1) <= 30).all())
