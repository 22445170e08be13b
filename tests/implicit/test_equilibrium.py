"""Equilibria and gradients against solvers that know nothing of this package; bounds against far better solutions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from simplicit.errors import ConvergenceError, InputError, NotWellPosedError
from simplicit.implicit import (
    Activation,
    CsrMap,
    ImplicitModel,
    StateGroup,
    adjoint,
    equilibrium,
    fixed_point,
    linearise,
)

ACTIVATIONS = [
    "relu",
    "leaky_relu",
    "abs",
    "identity",
    "tanh",
    "sigmoid",
    "hardtanh",
    "softplus",
    "elu",
    "gelu",
    "silu",
]


def cyclic(
    activation: str, *, radius: float = 0.8, n: int = 12, p: int = 5, q: int = 3, seed: int = 0
) -> ImplicitModel:
    """A full A with λ_pf(diag(L)|A|) = radius, two groups, biases."""
    rng = np.random.default_rng(seed)
    phi = Activation(activation)
    A = rng.normal(size=(n, n))
    A *= radius / (phi.slope * np.abs(np.linalg.eigvals(np.abs(A))).max())
    groups = [StateGroup("one", n // 3, phi), StateGroup("two", n - n // 3, phi)]
    matrices = (A, rng.normal(size=(n, p)), rng.normal(size=(q, n)), rng.normal(size=(q, p)))
    biases = {"state_bias": rng.normal(size=n), "output_bias": rng.normal(size=q)}
    return ImplicitModel.from_matrices(*matrices, activation=groups, **biases)


def triangular(n: int, seed: int, activation: str = "tanh", *, permuted: bool = True) -> ImplicitModel:
    """A sparse strictly triangular A, its states shuffled, two activations."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(n) if permuted else np.arange(n)
    A = np.triu(rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.4), 1)[order][:, order]
    half = StateGroup("one", n // 2, Activation(activation)), StateGroup("two", n - n // 2, Activation("relu"))
    matrices = (A, rng.normal(size=(n, 4)), rng.normal(size=(2, n)), rng.normal(size=(2, 4)))
    return ImplicitModel.from_matrices(*matrices, activation=half, state_bias=rng.normal(size=n))


def phi_of(model: ImplicitModel, Z: np.ndarray) -> np.ndarray:
    tensor = torch.from_numpy(Z)
    return np.hstack([group.activation(tensor[:, model.slices[group.name]]).numpy() for group in model.groups])


def iterate(model: ImplicitModel, U: np.ndarray, steps: int = 3000) -> np.ndarray:
    """x ← φ(A x + B u + b) in float64, long."""
    A, drive = model.A.toarray().astype(float), U @ model.B.toarray().T.astype(float) + model.state_bias
    X = np.zeros((U.shape[0], model.n_states))
    for _ in range(steps):
        X = phi_of(model, X @ A.T + drive)
    return X


def inputs(model: ImplicitModel, m: int = 6, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(m, model.n_inputs))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_picard_finds_the_root_that_scipy_finds(activation: str) -> None:
    model = cyclic(activation)
    U = inputs(model)
    found = equilibrium(model, U, tol=1e-10)
    assert found.method == "picard"
    A, drive = model.A.toarray(), U @ model.B.toarray().T + model.state_bias
    for x, c in zip(found.states, drive, strict=True):

        def residual(v: np.ndarray, c: np.ndarray = c) -> np.ndarray:
            return v - phi_of(model, (A @ v + c)[None])[0]

        root, _, flag, _ = scipy.optimize.fsolve(residual, np.zeros(model.n_states), full_output=True, xtol=1e-13)
        assert flag == 1 or np.abs(residual(root)).max() < 1e-9
        assert_allclose(x, root, atol=1e-8)


def test_identity_is_a_linear_solve() -> None:
    model = cyclic("identity", radius=0.97)
    U = inputs(model)
    found = equilibrium(model, U)
    drive = U @ model.B.toarray().T + model.state_bias
    exact = np.linalg.solve(np.eye(model.n_states) - model.A.toarray(), drive.T).T
    assert (np.abs(found.states - exact).max(axis=1) <= found.error_bound).all()
    assert_allclose(model.predict(U), exact @ model.C.T + U @ model.D.T + model.output_bias, atol=1e-8)


@pytest.mark.parametrize(
    ("activation", "tol"),
    [
        ("relu", 1e-1), ("relu", 1e-9), ("identity", 1e-4), ("identity", 1e-30),
        ("softplus", 1e-4), ("softplus", 1e-30), ("gelu", 1e-1), ("gelu", 1e-9),
    ],
)  # fmt: skip
def test_picard_bounds_hold(activation: str, tol: float) -> None:
    model = cyclic(activation, radius=0.9, seed=3)
    U = inputs(model)
    found = equilibrium(model, U, tol)
    error = np.abs(found.states - iterate(model, U)).max(axis=1)
    assert found.iteration_bound is not None
    assert found.iterations <= found.iteration_bound
    assert (error <= found.error_bound).all()
    assert (found.error_bound <= tol + 1e-7 * (activation == "softplus") + 1e-11).all()
    if tol == 1e-1:
        assert found.iterations < equilibrium(model, U).iterations


def test_the_a_priori_bound_is_enough_and_not_absurd() -> None:
    model = cyclic("identity", radius=0.9, seed=5)
    U = inputs(model)
    found = equilibrium(model, U, 1e-6)
    bound = found.iteration_bound
    assert bound is not None
    assert np.abs(iterate(model, U, bound) - iterate(model, U)).max() <= 1e-6
    assert bound <= 4 * np.log(1e-6) / np.log(0.9)


@pytest.mark.parametrize("make", [lambda: cyclic("tanh", radius=0.95), lambda: triangular(12, 1)])
def test_float32_bound_covers_rounding(make) -> None:
    model = make()
    U = inputs(model).astype(np.float32)
    single = model.astype(np.float32)
    found = equilibrium(single, U, tol=1e-12)
    exact = iterate(single.astype(np.float64), U.astype(np.float64))
    error = np.abs(found.states - exact).max(axis=1)
    assert found.states.dtype == np.float32
    assert (error > 0).any()
    assert (error <= found.error_bound).all()
    assert (found.error_bound < 0.05).all()


@settings(deadline=None)
@given(n=st.integers(2, 30), seed=st.integers(0, 2**32 - 1))
def test_permuted_triangular_models_are_substituted(n: int, seed: int) -> None:
    model = triangular(n, seed)
    U = inputs(model)
    found = equilibrium(model, U)
    assert found.method == "substitution"
    assert found.iterations == 0
    assert found.iteration_bound is None
    exact = iterate(model, U, n + 1)  # nilpotent: n steps are exact
    assert (np.abs(found.states - exact).max(axis=1) <= found.error_bound + 1e-13 * np.abs(exact).max()).all()
    assert_allclose(found.states, exact, rtol=1e-9, atol=1e-9)


def test_groups_in_order_are_substituted_without_looking_inside() -> None:
    class Opaque(CsrMap):
        """Multiplies, but is never written out."""

        def to_csr(self):
            raise AssertionError("materialised")

        def astype(self, dtype):
            return self

        def absolute(self):
            return Opaque(abs(self._matrix))

    groups = [StateGroup("last", 3, Activation("relu")), StateGroup("first", 4, Activation("relu"))]
    rng = np.random.default_rng(0)
    blocks = {
        ("first", "input"): Opaque(rng.normal(size=(4, 2))),
        ("last", "first"): Opaque(rng.normal(size=(3, 4))),
        ("output", "last"): Opaque(rng.normal(size=(1, 3))),
    }
    model = ImplicitModel(groups, blocks, n_inputs=2, n_outputs=1)
    U = np.ones((2, 2))
    assert model.predict(U).shape == (2, 1)
    assert equilibrium(model, U).method == "substitution"
    assert adjoint(model, U, np.ones((2, 1))).shape == (2, 2)


def test_a_block_cycle_without_a_state_cycle_is_substituted() -> None:
    A = np.zeros((4, 4))
    A[0, 2], A[3, 1], A[2, 3] = 2.0, 3.0, 4.0
    groups = [StateGroup("one", 2, Activation("identity")), StateGroup("two", 2, Activation("identity"))]
    model = ImplicitModel.from_matrices(A, np.eye(4)[:, [1]], np.eye(4), np.zeros((4, 1)), activation=groups)
    assert_array_equal(model.predict([[1.0]]), [[24.0, 1.0, 12.0, 3.0]])
    assert equilibrium(model, np.ones((1, 1))).method == "substitution"


def test_steep_triangular_models_are_fine_steep_cycles_are_not() -> None:
    assert equilibrium(triangular(10, 0), np.ones((1, 4))).method == "substitution"
    model = cyclic("relu", radius=1.01)
    for call in (lambda: equilibrium(model, inputs(model)), lambda: model.predict(inputs(model))):
        with pytest.raises(
            NotWellPosedError, match=r"λ_pf\(diag\(L\)\|A\|\) = 1\.01 .*is not below 1.*scale A down"
        ) as raised:
            call()
        assert 1.0 < raised.value.lower <= 1.01 + 1e-12
        assert raised.value.upper == pytest.approx(1.01, rel=1e-11)


def test_just_below_one_is_well_posed_with_few_samples() -> None:
    model = ImplicitModel.from_matrices([[0.999]], [[1.0]], [[1.0]], [[0.0]])
    found = equilibrium(model, np.array([[1.0], [-1.0]]), tol=1e-8)
    assert_allclose(found.states, [[1000.0], [0.0]], atol=1e-8)
    assert (np.abs(found.states - [[1000.0], [0.0]]).max(axis=1) <= found.error_bound).all()


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "softplus", "gelu"])
@pytest.mark.parametrize("gap", [1e-5, 1e-9])
def test_very_close_to_one(activation: str, gap: float) -> None:
    phi = Activation(activation)
    model = ImplicitModel.from_matrices([[(1 - gap) / phi.slope]], [[1.0]], [[1.0]], [[0.0]], activation=phi)
    U = np.array([[1.0], [-1.0], [0.3]])
    found = equilibrium(model, U)
    assert found.iterations < 1100
    assert found.iteration_bound > 1_000_000
    residual = found.states - phi_of(model, found.states @ model.A.toarray().T + U)
    assert_allclose(residual, 0.0, atol=1e-12 * max(1.0, np.abs(found.states).max()))
    if activation == "identity":
        exact = U / (1.0 - model.A.toarray()[0, 0])
        assert (np.abs(found.states - exact) <= found.error_bound[:, None]).all()
        assert_allclose(found.states, exact, rtol=1e-16 / gap * 4)
        assert_allclose(adjoint(model, U, np.ones((3, 1))), 1 / (1.0 - model.A.toarray()[0, 0]), rtol=1e-16 / gap * 4)


@pytest.mark.parametrize("activation", ["relu", "abs", "tanh", "softplus"])
def test_many_states_close_to_one_take_newton_steps(activation: str) -> None:
    model = cyclic(activation, radius=1 - 1e-6, n=30)
    A = abs(model.A.toarray())
    model = ImplicitModel.from_matrices(A, model.B, model.C, model.D, activation=activation)
    U = np.abs(inputs(model))
    found = equilibrium(model, U)
    assert found.iterations < 1100
    X = found.states
    assert_allclose(phi_of(model, X @ A.T + U @ model.B.T), X, rtol=1e-10, atol=1e-10)
    amplified_jump = 1e6 * Activation(activation).jump
    assert (found.error_bound <= 1e-6 * np.abs(X).max() + 1e-8 + amplified_jump).all()


def test_too_many_steps_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed_point, "_LARGEST_NEWTON", 0)
    monkeypatch.setattr(fixed_point, "_LAST_PLAIN_STEP", 100)
    model = ImplicitModel.from_matrices([[1 - 1e-9]], [[1.0]], [[1.0]], [[0.0]])
    with pytest.raises(ConvergenceError, match=r"only ρ = 0\.999999999 a step, so that up to \d+ are needed.*scale A"):
        equilibrium(model, np.ones((1, 1)))


def test_bounds_in_badly_scaled_units_and_flat_activations_are_sharp() -> None:
    A = np.array([[0.0, 1e-10], [1e9, 0.0]], np.float32)
    ones = np.ones((2, 1), np.float32)
    model = ImplicitModel.from_matrices(A, ones, ones.T, ones[:1], activation="tanh")
    U = np.array([[0.5], [1e-3]], np.float32)
    found = equilibrium(model, U, 1e-3)
    exact = iterate(model.astype(np.float64), U.astype(float))
    assert (np.abs(found.states - exact).max(axis=1) <= found.error_bound).all()
    assert (found.error_bound < 1e-5).all()


@pytest.mark.slow
@given(n=st.integers(2, 40), size=st.floats(0.1, 1e4), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_bounded_activations_bound_the_error(n: int, size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = (size * np.triu(rng.normal(size=(n, n)), 1)).astype(np.float32)
    one, zero = np.ones((n, 1), np.float32), np.zeros((1, 1), np.float32)
    model = ImplicitModel.from_matrices(A, one, one.T, zero, activation="tanh")
    U = rng.normal(size=(4, 1)).astype(np.float32)
    found = equilibrium(model, U)
    exact = equilibrium(model.astype(np.float64), U.astype(float))
    error = np.abs(found.states - exact.states).max(axis=1)
    assert (error <= found.error_bound + exact.error_bound).all()
    assert (found.error_bound <= 2.0 + 1e-5).all()


def test_bounds_cover_what_underflows() -> None:
    one, zero = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    model = ImplicitModel.from_matrices(zero, one, one, zero, activation="sigmoid")
    U = np.array([[-150.0], [-100.0], [-300.0]], np.float32)
    found = equilibrium(model, U)
    assert (np.abs(found.states - np.exp(U.astype(float)))[:, 0] <= found.error_bound).all()
    assert (found.error_bound < 1e-35).all()


OVERFLOWING = {
    "triangular": np.array([[0.0, 1e200], [0.0, 0.0]]),
    "cyclic": np.array([[0.5, 0.2], [0.1, 0.3]]),
}


@pytest.mark.parametrize("kind", OVERFLOWING)
def test_samples_that_leave_the_range_are_named(kind: str) -> None:
    model = ImplicitModel.from_matrices(OVERFLOWING[kind], np.ones((2, 1)), np.ones((1, 2)), [[0.0]])
    good, bad = [[1.0], [2.0]], [[1.0], [1.7e308]]
    for call in (model.predict, lambda U: equilibrium(model, U), lambda U: linearise(model, U)):
        call(good)
        with pytest.raises(InputError, match=r"of sample 1 leave the range of torch\.float64; scale the inputs"):
            call(bad)
    with pytest.raises(InputError, match="gradients of sample 1 leave the range"):
        adjoint(model, good, [[1.0], [1.7e308]])


def test_tiny_gradients_and_inputs_pass() -> None:
    model = ImplicitModel.from_matrices(OVERFLOWING["cyclic"], np.ones((2, 1)), np.ones((1, 2)), [[0.0]])
    assert_allclose(adjoint(model, [[1.0]], [[1e-320]]), 0.0, atol=1e-318)
    assert_allclose(equilibrium(model, [[1e-320]]).states, 0.0, atol=1e-318)


def test_no_model() -> None:
    net = torch.nn.Linear(2, 2)
    for call in (equilibrium, linearise, lambda model, U: adjoint(model, U, U)):
        with pytest.raises(InputError, match=r"model must be an ImplicitModel, got Linear; see simplicit\.from_torch"):
            call(net, np.ones((1, 2)))


def test_slope_above_one_counts() -> None:
    steep = Activation.of("leaky_relu", negative_slope=2.0)
    model = ImplicitModel.from_matrices([[0.6]], [[1.0]], [[1.0]], [[0.0]], activation=steep)
    with pytest.raises(NotWellPosedError, match=r"= 1\.2 "):
        equilibrium(model, np.ones((1, 1)))


@pytest.mark.slow
def test_kinds_and_chunks() -> None:
    model = cyclic("relu")
    U = np.random.default_rng(0).normal(size=(150_000, model.n_inputs))
    found = equilibrium(model, torch.from_numpy(U))
    assert isinstance(found.states, torch.Tensor)
    assert isinstance(found.error_bound, torch.Tensor)
    few = equilibrium(model, U[-3:])
    assert isinstance(few.states, np.ndarray)
    assert_allclose(found.states[-3:].numpy(), few.states, atol=2e-9)


def test_without_states() -> None:
    model = ImplicitModel([], {("output", "input"): CsrMap([[2.0, 3.0]])}, n_inputs=2, n_outputs=1)
    found = equilibrium(model, np.ones((3, 2)))
    assert found.states.shape == (3, 0)
    assert_array_equal(found.error_bound, np.zeros(3))
    assert_array_equal(adjoint(model, np.ones((3, 2)), np.ones((3, 1))), [[2.0, 3.0]] * 3)


@pytest.mark.parametrize("tol", [0.0, -1.0, float("nan"), float("inf"), None, "1", True, [1e-9]])
def test_bad_tolerance(tol: object) -> None:
    with pytest.raises(InputError, match="tol must be positive"):
        equilibrium(cyclic("relu"), np.ones((1, 5)), tol)


def autograd(model: ImplicitModel, U: np.ndarray, Y_bar: np.ndarray) -> np.ndarray:
    """The gradient by differentiating a long unrolled iteration with torch."""
    A, B, C, D = (torch.from_numpy(M.toarray()) for M in (model.A, model.B, model.C, model.D))
    variable = torch.from_numpy(U).requires_grad_()
    drive = variable @ B.T + torch.tensor(model.state_bias)
    X = torch.zeros(U.shape[0], model.n_states, dtype=torch.float64)
    for _ in range(400):
        Z = X @ A.T + drive
        X = torch.cat([group.activation(Z[:, model.slices[group.name]]) for group in model.groups], dim=1)
    (gradient,) = torch.autograd.grad(((X @ C.T + variable @ D.T) * torch.from_numpy(Y_bar)).sum(), variable)
    return gradient.numpy()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_adjoint_is_the_gradient_of_the_iteration(activation: str) -> None:
    for model in (
        cyclic(activation, seed=2),
        triangular(14, 2, activation),
        triangular(14, 2, activation, permuted=False),
    ):
        U = inputs(model)
        Y_bar = np.random.default_rng(1).normal(size=(6, model.n_outputs))
        assert_allclose(adjoint(model, U, Y_bar), autograd(model, U, Y_bar), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "gelu_tanh"])
def test_adjoint_against_central_differences(activation: str) -> None:
    model = cyclic(activation, radius=0.9, seed=4)
    u, y_bar, h = inputs(model, 1), np.array([[1.0, -2.0, 0.5]]), 1e-5
    numerical = [
        float(((model.predict(u + h * e) - model.predict(u - h * e)) * y_bar).sum()) / (2 * h)
        for e in np.eye(5)[:, None]
    ]
    assert_allclose(adjoint(model, u, y_bar)[0], numerical, rtol=1e-5, atol=1e-6)


def test_linearisation_serves_many_gradients() -> None:
    model = cyclic("tanh")
    U = torch.from_numpy(inputs(model))
    at = linearise(model, U)
    assert_allclose(at.outputs.numpy(), model.predict(U).numpy(), atol=1e-12)
    rows = [at.vjp(torch.eye(3, dtype=torch.float64)[[k]].expand(6, 3)) for k in range(3)]
    combined = at.vjp(torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64).expand(6, 3))
    assert_allclose((rows[0] + 2 * rows[1] + 3 * rows[2]).numpy(), combined.numpy(), atol=1e-12)


def test_bad_gradients() -> None:
    model = cyclic("tanh")
    U = inputs(model)
    for Y_bar, message in (
        (np.ones((6, 2)), r"Y_bar must have shape \(m, 3\)"),
        (np.ones((5, 3)), "as many samples as U, 6, got 5"),
        (np.full((6, 3), np.nan), "Y_bar must be finite"),
    ):
        with pytest.raises(InputError, match=message):
            adjoint(model, U, Y_bar)


def test_plain_steps_finish_what_newton_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    A = np.abs(rng.normal(size=(6, 6)))
    A *= 0.99 / A.sum(axis=1, keepdims=True)
    model = ImplicitModel.from_matrices(A, rng.normal(size=(6, 2)), np.eye(6), np.zeros((6, 2)), activation="tanh")
    U = rng.normal(size=(5, 2))
    expected = equilibrium(model, U).states
    monkeypatch.setattr("simplicit.implicit.fixed_point._PLAIN_STEPS", 3)
    monkeypatch.setattr("simplicit.implicit.fixed_point._PLAIN_STEPS_PER_STATE", 0)
    monkeypatch.setattr("simplicit.implicit.fixed_point._NEWTON_STEPS", 1)
    monkeypatch.setattr("simplicit.implicit.picard._correction", lambda *args, **_: torch.zeros_like(args[2]))
    solved = equilibrium(model, U)
    np.testing.assert_allclose(solved.states, expected, atol=1e-8)
    assert solved.iterations > 4
