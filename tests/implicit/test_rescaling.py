"""Theorem 2.4, in the direction that works."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from simplicit.errors import InputError, NotWellPosedError
from simplicit.implicit import (
    Activation,
    CsrMap,
    ImplicitModel,
    StateGroup,
    perron_frobenius,
    rescale,
    scaling_vector,
    spectral,
)


def network(widths: tuple[int, ...] = (40, 32, 16, 10), seed: int = 0, dtype: type = np.float64) -> ImplicitModel:
    """A ReLU network as trained ones are: weights of order one, last layer first."""
    rng = np.random.default_rng(seed)
    hidden = widths[1:-1]
    names = [f"layer{k}" for k in range(len(hidden), 0, -1)]
    groups = [StateGroup(name, size, Activation("relu")) for name, size in zip(names, hidden[::-1], strict=True)]
    rows, columns = ["output", *names], [*names, "input"]
    blocks = {
        (row, column): CsrMap((3.0 * rng.normal(size=(out, into)) / np.sqrt(into)).astype(dtype))
        for row, column, out, into in zip(rows, columns, widths[:0:-1], widths[-2::-1], strict=True)
    }
    bias = rng.normal(size=sum(hidden))
    return ImplicitModel(groups, blocks, n_inputs=widths[0], n_outputs=widths[-1], state_bias=bias)


def norm(A: object) -> float:
    return float(abs(A).sum(axis=1).max())


def cyclic(n: int, radius: float, seed: int) -> ImplicitModel:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n))
    A *= radius / np.abs(np.linalg.eigvals(np.abs(A))).max()
    matrices = (A, rng.normal(size=(n, 3)), rng.normal(size=(2, n)), rng.normal(size=(2, 3)))
    return ImplicitModel.from_matrices(*matrices, activation="leaky_relu", state_bias=rng.normal(size=n))


def test_ours_is_below_one_and_the_printed_one_is_not() -> None:
    model = network()
    s = scaling_vector(model)
    assert_allclose(s, 1.0 + np.abs(model.A.toarray()) @ s)
    ours = rescale(model)
    assert norm(ours.A) < 1.0
    assert norm(ours.A) == pytest.approx(((s - 1.0) / s).max())
    A = model.A.toarray()
    printed = np.diag(s) @ A @ np.diag(1.0 / s)
    assert norm(printed) > 50.0
    assert_allclose(ours.A.toarray(), np.diag(1.0 / s) @ A @ np.diag(s))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outputs_are_the_same(dtype: type) -> None:
    model = network(dtype=dtype)
    U = np.random.default_rng(1).normal(size=(20, 40))
    ours = rescale(model)
    assert ours.dtype == dtype
    assert_allclose(ours.predict(U), model.predict(U), rtol=1e-3 if dtype is np.float32 else 1e-11, atol=1e-4)
    assert ours.nnz == model.nnz


@pytest.mark.slow
@settings(deadline=None)
@given(n=st.integers(1, 15), radius=st.floats(0.01, 0.99), seed=st.integers(0, 2**32 - 1))
def test_models_with_cycles(n: int, radius: float, seed: int) -> None:
    model = cyclic(n, radius, seed)
    ours = rescale(model)
    assert norm(ours.A) < 1.0
    s = scaling_vector(model)
    assert_allclose(s, np.linalg.solve(np.eye(n) - np.abs(model.A.toarray()), np.ones(n)), rtol=1e-8)
    U = np.random.default_rng(1).normal(size=(5, 3))
    assert_allclose(ours.predict(U), model.predict(U), rtol=1e-6, atol=1e-6)


def test_large_models_are_summed_to_the_same_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    model = cyclic(30, 0.9, 0)
    dense = scaling_vector(model)
    monkeypatch.setattr(spectral, "_DENSE_SIZE", 0)
    assert_allclose(scaling_vector(cyclic(30, 0.9, 0)), dense, rtol=1e-10)


def test_states_in_any_order() -> None:
    model, order = network(), np.random.default_rng(2).permutation(48)
    A, B, C = model.A[order][:, order], model.B[order], model.C[:, order]
    shuffled = ImplicitModel.from_matrices(A, B, C, model.D, state_bias=model.state_bias[order])
    assert_allclose(scaling_vector(shuffled), scaling_vector(model)[order])


def test_slopes_above_one_count() -> None:
    A = np.array([[0.0, 2.0], [0.0, 0.0]])
    steep = Activation.of("leaky_relu", negative_slope=3.0)
    model = ImplicitModel.from_matrices(A, np.eye(2), np.eye(2), np.zeros((2, 2)), activation=steep)
    assert_allclose(scaling_vector(model), [7.0, 1.0])
    assert 3.0 * norm(rescale(model).A) < 1.0


def test_without_states_nothing_happens() -> None:
    model = ImplicitModel([], {("output", "input"): CsrMap([[2.0]])}, n_inputs=1, n_outputs=1)
    assert rescale(model).predict(np.ones((1, 1))) == 2.0


def exact_norm(A: object) -> Fraction:
    """‖A‖∞ in exact arithmetic."""
    return max(sum((Fraction(abs(float(value))) for value in row), Fraction(0)) for row in A.toarray())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_round_up_to_one_are_brought_below(dtype: type) -> None:
    chain = 1e4 * np.eye(3, k=1) if dtype is np.float32 else 1e9 * np.eye(3, k=1)
    rng = np.random.default_rng(0)
    for A in (chain, *(1e4 * np.triu(rng.normal(size=(4, 4)), 1) for _ in range(20))):
        n = len(A)
        matrices = (A.astype(dtype), np.ones((n, 1), dtype), np.ones((1, n), dtype), np.zeros((1, 1), dtype))
        model = ImplicitModel.from_matrices(*matrices)
        ours = rescale(model)
        assert exact_norm(ours.A) < 1
        Y = model.predict([[1.0]])
        assert_allclose(ours.predict([[1.0]]), Y, rtol=100 * np.finfo(dtype).eps * np.abs(A).max())


@pytest.mark.parametrize(("weight", "dtype"), [(1e200, np.float64), (1e30, np.float32)])
def test_scalings_that_overflow_are_refused(weight: float, dtype: type) -> None:
    A = (weight * np.eye(3, k=1)).astype(dtype)
    model = ImplicitModel.from_matrices(A, np.eye(3, dtype=dtype), np.eye(3, dtype=dtype), np.zeros((3, 3), dtype))
    with pytest.raises(InputError, match=rf"the scaling overflows {np.dtype(dtype)} in group 'state'"):
        rescale(model)


def test_close_to_one_the_vector_still_solves_its_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "_DENSE_SIZE", 200)
    A = sp.csr_array(sp.random_array((300, 300), density=0.05, rng=np.random.default_rng(0)))
    A *= 0.99999 / perron_frobenius(A).value
    model = ImplicitModel.from_matrices(A, np.ones((300, 1)), np.ones((1, 300)), [[0.0]])
    s = scaling_vector(model)
    assert_allclose(1.0 + A @ s, s, rtol=1e-9)
    assert s.max() > 1e4


def test_no_model() -> None:
    for call in (rescale, scaling_vector):
        with pytest.raises(InputError, match=r"model must be an ImplicitModel, got Linear; see simplicit\.from_torch"):
            call(torch.nn.Linear(2, 2))


def test_bad_input() -> None:
    groups = [StateGroup("good", 1, Activation("abs")), StateGroup("bad", 1, Activation("tanh"))]
    model = ImplicitModel(groups, {}, n_inputs=1, n_outputs=1)
    with pytest.raises(InputError, match="group 'bad' has tanh"):
        rescale(model)
    with pytest.raises(NotWellPosedError, match="λ_pf"):
        rescale(cyclic(4, 1.5, 0))
