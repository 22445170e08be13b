"""The three bounds: sound at every step, in order, exact where they should be, and proof against rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from simplicit.implicit import Activation, ImplicitModel, equilibrium
from simplicit.robustness import certify
from simplicit.robustness.box import OuterBox
from simplicit.robustness.certificates import interval, linear
from simplicit.robustness.certificates.interval import Enclosure, Neighbourhood
from simplicit.robustness.certificates.linear import Functionals, Relaxation, linear_margins, sharpened
from simplicit.robustness.certificates.prepared import PreparedModel
from victims import ACTIVATIONS, P, Q, corners, data, layered, model_of

KINDS = ["triangular", "full"]


def neighbourhood(
    model: ImplicitModel, U: np.ndarray, eps: float, clip: tuple[float, float] | None = (0.0, 1.0)
) -> Neighbourhood:
    samples = torch.from_numpy(U).double()
    return Neighbourhood(PreparedModel(model), samples, OuterBox.around(samples, eps, clip))


def states_of(model: ImplicitModel, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Z and X for points (k, m, p), both (k, m, n), in the model's order of states."""
    flat = points.reshape(-1, points.shape[-1])
    X = equilibrium(model, flat, tol=1e-12).states
    Z = X @ model.A.T + flat @ model.B.T + model.state_bias
    return Z.reshape(*points.shape[:2], -1), X.reshape(*points.shape[:2], -1)


def assert_holds(model: ImplicitModel, found: Enclosure, points: np.ndarray) -> None:
    plan = model.state_equation.plan
    bounds = [plan.to_model(bound).numpy() for bound in found.bounds]
    for values, lower, upper in zip(states_of(model, points), bounds[::2], bounds[1::2], strict=True):
        assert (values >= lower - 1e-11).all()
        assert (values <= upper + 1e-11).all()


@pytest.mark.slow
@pytest.mark.parametrize("eps", [pytest.param(0.004, marks=pytest.mark.slow), 0.1])
@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("kind", ["triangular", pytest.param("full", marks=pytest.mark.slow)])
def test_boxes_hold_the_states_of_all_inputs_and_shrink(kind: str, phi: Activation, eps: float) -> None:
    model = model_of(kind, phi)
    U, _ = data(model, 6)
    hood = neighbourhood(model, U, eps)
    coarse = hood.enclosure()
    fine = sharpened(hood, coarse)
    points = corners(U, eps, 200)
    assert_holds(model, coarse, points)
    assert_holds(model, fine, points)
    radii = hood.state_radii + 1e-9
    assert (coarse.x_upper - coarse.x_lower <= 2 * radii * (1 + 1e-9) + 1e-9).all()
    assert (fine.z_lower >= coarse.z_lower).all()
    assert (fine.z_upper <= coarse.z_upper).all()


@pytest.mark.parametrize("phi", ["relu", "tanh", "abs"])
def test_every_sweep_is_sound(phi: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("full", phi)
    U, _ = data(model, 6)
    points, widths = corners(U, 0.05, 100), []
    for sweeps in (1, 2, 3, 10):
        monkeypatch.setattr(interval, "_SWEEPS", sweeps)
        found = neighbourhood(model, U, 0.05).enclosure()
        assert_holds(model, found, points)
        widths.append(float((found.x_upper - found.x_lower).sum()))
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0]


@pytest.mark.parametrize("kind", KINDS)
def test_lines_bound_any_functional(kind: str) -> None:
    model = model_of(kind, "relu", seed=4)
    U, _ = data(model, 5)
    hood = neighbourhood(model, U, 0.1)
    plan, rng = hood.prepared.system.plan, np.random.default_rng(0)
    v, w, z = (torch.from_numpy(rng.normal(size=(5, 7, size))) for size in (10, P, 10))
    constant = torch.from_numpy(rng.normal(size=(5, 7)))
    of_stages = {number: z[..., stage.rows] for number, stage in enumerate(plan.stages)}
    functionals = Functionals(constant, x=v, z=of_stages, u=w)
    relaxation = Relaxation(hood, sharpened(hood, hood.enclosure()))
    points = corners(U, 0.1, 100)
    Z, X = (
        plan.to_working(torch.from_numpy(part.reshape(-1, 10))).reshape(100, 5, 10) for part in states_of(model, points)
    )
    inputs = torch.from_numpy(points)
    values = sum(torch.einsum("msk,cmk->cms", a, b) for a, b in ((z, Z), (v, X), (w, inputs))) + constant
    plain = relaxation.lower_bounds(functionals, len(plan.stages))
    climbed = relaxation.lower_bounds(functionals, len(plan.stages), steps=10)
    assert (plain <= values.amin(dim=0) + 1e-11).all()
    assert (climbed <= values.amin(dim=0) + 1e-11).all()
    assert (climbed >= plain).all()
    assert (climbed > plain + 1e-4).any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["triangular", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
def test_the_bounds_stand_in_order_and_no_point_passes_them(kind: str, phi: Activation) -> None:
    model = model_of(kind, phi)
    U, labels = data(model, 8)
    radii = (0.002, 0.1)
    found = certify(model, U, labels, radii, steps=3)
    a, b, c = (found.margins[name] for name in ("global", "interval", "linear"))
    assert (a <= b).all()
    assert (b <= c).all()
    assert c[0].max() > 0
    for eps, margins in zip(radii, c, strict=True):
        Y = model.predict(corners(U, eps, 100).reshape(-1, P)).reshape(100, 8, Q)
        own = np.take_along_axis(Y, labels[None, :, None], axis=2)
        others = np.where(np.arange(Q) == labels[:, None], -np.inf, Y)
        assert ((own[..., 0] - others.max(axis=2)) >= margins).all()


def test_larger_boxes_have_smaller_margins() -> None:
    model = model_of("triangular")
    U, labels = data(model)
    found = certify(model, U, labels, [0.02, 0.001, 0.1, 0.02])
    for margins in found.margins.values():
        assert (margins[1] >= margins[0]).all()
        assert (margins[0] >= margins[2]).all()
        assert (margins[0] == margins[3]).all()


def test_the_global_bound_is_the_formula() -> None:
    model = model_of("full", "tanh", seed=2)
    U, labels = data(model, 20)
    A, B = abs(model.A.toarray()), abs(model.B.toarray())
    states = np.linalg.solve(np.eye(len(A)) - A, B)
    eps, Y = 0.01, model.predict(U)
    expected = np.full(20, np.inf)
    signed_C, signed_D = model.C.toarray(), model.D.toarray()
    for i, c in enumerate(labels):
        for k in set(range(Q)) - {c}:
            gains = abs(signed_C[c] - signed_C[k]) @ states + abs(signed_D[c] - signed_D[k])
            expected[i] = min(expected[i], Y[i, c] - Y[i, k] - eps * gains.sum())
    found = certify(model, U, labels, eps, clip=None, method="global")
    assert list(found.margins) == ["global"]
    assert_allclose(found.margins["global"][0], expected, atol=1e-8)
    assert (found.margins["global"][0] <= expected).all()


def test_a_linear_model_is_bounded_exactly() -> None:
    model = layered((6, 5, 4, 3), "identity")
    U, labels = data(model, 30)
    whole = model.C.toarray() @ np.linalg.solve(np.eye(9) - model.A.toarray(), model.B.toarray()) + model.D.toarray()
    Y, eps = model.predict(U), 0.2
    lower, upper = np.maximum(U - eps, 0), np.minimum(U + eps, 1)
    worst = np.full(30, np.inf)
    for i, c in enumerate(labels):
        for k in set(range(3)) - {c}:
            row = whole[c] - whole[k]
            move = np.where(row > 0, lower[i] - U[i], upper[i] - U[i]) @ row
            worst[i] = min(worst[i], Y[i, c] - Y[i, k] + move)
    assert_allclose(certify(model, U, labels, eps).margins["linear"][0], worst, atol=1e-10)


def least_margin(model: ImplicitModel, u: np.ndarray, label: int, eps: float) -> tuple[float, float]:
    """Bounds on the least margin over a box of two inputs, by cutting it until both agree to a hundredth."""
    boxes = [(np.maximum(u - eps, 0.0), np.minimum(u + eps, 1.0))]
    upper = np.inf
    for _ in range(40):
        middles, radii = np.array([(a + b) / 2 for a, b in boxes]), np.array([(b - a) / 2 for a, b in boxes])
        Y = model.predict(middles)
        others = np.where(np.arange(Y.shape[1]) == label, -np.inf, Y).max(axis=1)
        upper = min(upper, float((Y[:, label] - others).min()))
        lowers = np.array(
            [
                certify(model, [m], [label], float(r.max()), clip=None).margins["linear"][0, 0]
                for m, r in zip(middles, radii, strict=True)
            ]
        )
        if upper - lowers.min() < 0.01:
            return float(lowers.min()), upper
        boxes = [half for (a, b), low in zip(boxes, lowers, strict=True) if low < upper - 0.01 for half in halves(a, b)]
    raise AssertionError("the bounds do not close in as the boxes shrink")


def halves(a: np.ndarray, b: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    side = int(np.argmax(b - a))
    middle_b, middle_a = b.copy(), a.copy()
    middle_b[side] = middle_a[side] = (a[side] + b[side]) / 2
    return [(a, middle_b), (middle_a, b)]


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_tiny_networks_against_branch_and_bound(activation: str) -> None:
    model = layered((2, 4, 3, 3), activation, seed=3)
    U, labels = data(model, 3, seed=5)
    found = certify(model, U, labels, 0.15, steps=10)
    for i in range(3):
        low, high = least_margin(model, U[i], int(labels[i]), 0.15)
        assert low <= high
        for name in ("global", "interval", "linear"):
            assert found.margins[name][0, i] <= high
    assert (found.margins["linear"][0] > found.margins["interval"][0] + 1e-3).any()


@pytest.mark.parametrize("seed", range(5))
def test_relu_with_one_input_against_a_fine_grid(seed: int) -> None:
    model = layered((1, 6, 5, 3), seed=seed)
    U, labels = data(model, 12)
    for eps in (0.02, 0.2):
        margins = certify(model, U, labels, eps, steps=20).margins["linear"][0]
        for i in range(12):
            u = np.linspace(max(0.0, U[i, 0] - eps), min(1.0, U[i, 0] + eps), 4001)[:, None]
            Y = model.predict(u)
            true = (Y[:, labels[i]] - np.where(np.arange(3) == labels[i], -np.inf, Y).max(axis=1)).min()
            assert margins[i] <= true + 1e-12


def test_outer_boxes_hold_the_exact_ones() -> None:
    U = torch.rand(20, 5)
    for eps in (8 / 255, 1e-9, 0.3):
        for clip in (None, (0.0, 1.0)):
            box = OuterBox.around(U, eps, clip)
            for u, c, r in zip(
                U.flatten().tolist(), box.centre.flatten().tolist(), box.radius.flatten().tolist(), strict=True
            ):
                low, high = Fraction(u) - Fraction(eps), Fraction(u) + Fraction(eps)
                if clip is not None:
                    low, high = max(low, Fraction(0)), min(high, Fraction(1))
                assert Fraction(c) - Fraction(r) <= low
                assert high <= Fraction(c) + Fraction(r)


def test_rounding_of_the_model_itself_is_taken_off() -> None:
    # Exactly, y₀ - y₁ = 1 for every u; in float32 the large terms swallow it.
    big = 2.0**26
    matrices = ([[0.0]], [[big]], [[1.0], [1.0]], [[0.0], [0.0]])
    model = ImplicitModel.from_matrices(*matrices, state_bias=[0.0], output_bias=[1.0, 0.0])
    double, single = (certify(model.astype(dtype), [[0.7]], [0], 0.1) for dtype in (np.float64, np.float32))
    assert double.certified["linear"].all()
    assert double.margins["linear"][0, 0] == pytest.approx(1.0, abs=1e-5)
    assert not single.certified["linear"].any()


def test_float32_models_are_certified_about_as_well() -> None:
    model = layered((12, 20, 15, 4), seed=1)
    U, labels = data(model, 200)
    double = certify(model, U, labels, 0.01).margins["linear"]
    single = certify(model.astype(np.float32), U.astype(np.float32), labels, 0.01).margins["linear"]
    assert (single <= double + 1e-4).all()
    assert_allclose(single, double, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_margins_by_lines_are_those_of_the_labels(kind: str) -> None:
    model = model_of(kind)
    U, labels = data(model, 10)
    hood = neighbourhood(model, U, 0.0)
    margins = linear_margins(hood, hood.enclosure(), torch.from_numpy(labels))
    Y = model.predict(U)
    expected = np.take_along_axis(Y, labels[:, None], axis=1) - Y
    expected[np.arange(10), labels] = np.inf
    assert_allclose(margins.numpy(), expected, atol=1e-7)


def test_functionals_taken_one_by_one_have_the_same_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(KINDS[0], "relu", seed=4)
    U, _ = data(model, 5)
    hood = neighbourhood(model, U, 0.1)
    coarse = hood.enclosure()
    together = sharpened(hood, coarse, steps=2)
    monkeypatch.setattr(linear, "_NUMBERS", 1)
    for mine, theirs in zip(sharpened(hood, coarse, steps=2).bounds, together.bounds, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-13)
