"""λ_pf and its bounds against dense eigenvalues, and the contraction that Picard's bounds rest on."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from simplicit.errors import ConvergenceError, InputError, NotWellPosedError
from simplicit.implicit import (
    Activation,
    CsrMap,
    ImplicitModel,
    collatz_wielandt,
    contraction_vector,
    perron_frobenius,
    spectral,
)


def dense_radius(A: np.ndarray) -> float:
    return float(np.abs(np.linalg.eigvals(np.abs(A))).max(initial=0.0))


@given(
    n=st.integers(1, 25),
    density=st.floats(0.0, 1.0),
    exponent=st.integers(-120, 120),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_matrices_of_any_scale(n: int, density: float, exponent: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n)) * (rng.random((n, n)) < density)
    found = perron_frobenius(A * 2.0**exponent)
    # Defective eigenvalues of reducible matrices are known to LAPACK only to a root of its precision.
    expected = dense_radius(A)
    assert found.lower <= found.value <= found.upper
    assert float(found) == found.value
    np.testing.assert_allclose(found.value, expected * 2.0**exponent, rtol=1e-8, atol=1e-3 * 2.0**exponent)
    if density > 0.9:
        np.testing.assert_allclose(found.value, expected * 2.0**exponent, rtol=1e-11)
    assert found.upper - found.lower <= 1e-10 * found.upper


@given(n=st.integers(1, 25), seed=st.integers(0, 2**32 - 1))
def test_triangular_matrices_have_their_diagonal(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    A = np.triu(rng.normal(size=(n, n)))
    found = perron_frobenius(A[order][:, order])
    assert found.lower == found.value == found.upper == np.abs(np.diag(A)).max()


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_reducible_matrices_have_the_largest_of_their_classes(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    stops = np.cumsum([0, *sizes])
    A = np.triu(rng.random((stops[-1], stops[-1])), 1)
    largest = 0.0
    for start, stop in pairwise(stops):
        A[start:stop, start:stop] = rng.random((stop - start, stop - start)) + 0.01
        largest = max(largest, dense_radius(A[start:stop, start:stop]))
    order = rng.permutation(stops[-1])
    found = perron_frobenius(sp.csr_array(A[order][:, order]))
    assert found.lower <= largest * (1 + 1e-12)
    assert found.upper >= largest * (1 - 1e-12)
    assert found.value == pytest.approx(largest, rel=1e-11)


@pytest.mark.parametrize(
    ("A", "value"),
    [
        (np.zeros((0, 0)), 0.0),
        (np.zeros((1, 1)), 0.0),
        ([[-3.0]], 3.0),
        (np.zeros((4, 4)), 0.0),
        ([[0.0, 1e300], [0.0, 0.0]], 0.0),
        ([[0, 1], [1, 0]], 1.0),
        ([[1.0, 1.0], [0.0, 1.0]], 1.0),
        (1e-300 * np.array([[1.0, 2.0], [3.0, 2.0]]), 4e-300),
        (1e300 * np.array([[1.0, 2.0], [3.0, 2.0]]), 4e300),
        ([[0.0, 1e60], [1e-60, 0.0]], 1.0),
    ],
)
def test_known_values(A: object, value: float) -> None:
    found = perron_frobenius(A)
    assert found.value == pytest.approx(value, rel=1e-11, abs=0.0)
    assert found.lower <= value <= found.upper


@pytest.mark.parametrize("n", [2, 3, 17, 400])
def test_periodic(n: int) -> None:
    rng = np.random.default_rng(n)
    weights = rng.uniform(0.5, 2.0, n)
    cycle = sp.csr_array((weights, (np.arange(n), np.roll(np.arange(n), 1))), shape=(n, n))
    expected = np.exp(np.log(weights).mean())
    found = perron_frobenius(cycle)
    assert found.lower <= expected * (1 + 1e-14)
    assert found.upper >= expected * (1 - 1e-14)
    assert found.value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kind", ["random", "periodic"])
def test_large_classes_take_the_other_road_to_the_same_bounds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    if kind == "random":
        A = sp.csr_array(sp.random_array((300, 300), density=0.05, rng=rng))
    else:
        A = sp.csr_array((rng.uniform(0.5, 2.0, 60), (np.arange(60), np.roll(np.arange(60), 1))), shape=(60, 60))
    dense = perron_frobenius(A)
    monkeypatch.setattr(spectral, "_DENSE_SIZE", 1)
    sparse = perron_frobenius(A)
    assert sparse.value == pytest.approx(dense.value, rel=1e-9)
    assert max(sparse.lower, dense.lower) <= min(sparse.upper, dense.upper)
    scaled = A * (0.95 / dense.value)
    s, rho = contraction_vector(scaled)
    assert (abs(scaled) @ s <= rho * s).all()
    assert rho < 1.0


def test_entries_of_extreme_range_keep_valid_bounds() -> None:
    found = perron_frobenius([[0.0, 1e200], [1e-200, 0.0]])
    assert found.lower <= 1.0 <= found.upper


def test_a_class_whose_row_sum_is_rounded_down_counts() -> None:
    small = 2.0**-55
    found = perron_frobenius([[0.5, 0.0, 0.0], [0.0, 0.5, small], [0.0, small, 0.5]])
    assert Fraction(found.lower) <= Fraction(1, 2) + Fraction(small) <= Fraction(found.upper)


def cycle(n: int, weak: float) -> sp.csr_array:
    weights = np.ones(n)
    weights[7] = weak
    return sp.csr_array((weights, (np.arange(n), np.roll(np.arange(n), 1))), shape=(n, n))


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (
            lambda: sp.diags_array([np.full(4999, 49.0), np.full(4999, 0.0049)], offsets=[1, -1]),
            0.98 * np.cos(np.pi / 5001),
        ),
        (lambda: cycle(5000, 0.5), 0.5 ** (1 / 5000)),
        (lambda: cycle(2000, 1e-30), 1e-30 ** (1 / 2000)),
        (lambda: sp.eye_array(5000, format="csr")[np.random.default_rng(0).permutation(5000)], 1.0),
    ],
)
def test_large_and_far_from_symmetric(make: Callable[[], sp.csr_array], value: float) -> None:
    found = perron_frobenius(make())
    assert found.value == pytest.approx(value, rel=1e-11)
    assert found.upper - found.lower <= 1e-11


@pytest.mark.parametrize("radius", [0.9, 1 - 1e-5])
def test_large_classes_without_a_narrow_band_contract(radius: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "_DENSE_SIZE", 200)
    A = sp.csr_array(sp.random_array((300, 300), density=0.05, rng=np.random.default_rng(0)))
    A *= radius / perron_frobenius(A).value
    s, rho = contraction_vector(A)
    assert rho < 1.0
    assert (A @ s <= rho * s).all()


def test_well_posed_without_a_contraction_in_floating_point() -> None:
    A = sp.diags_array([np.full(1999, 49.0), np.full(1999, 0.0049)], offsets=[1, -1])
    with pytest.raises(ConvergenceError, match=r"is well-posed, .* no s > 0 .* measure the states in comparable units"):
        contraction_vector(A)


def test_a_model_counts_the_slopes() -> None:
    A = np.array([[0.0, 0.5], [0.5, 0.0]])
    leaky = Activation.of("leaky_relu", negative_slope=-1.5)
    model = ImplicitModel.from_matrices(A, np.zeros((2, 1)), np.zeros((1, 2)), [[1.0]], activation=leaky)
    assert perron_frobenius(model).value == pytest.approx(0.75)
    assert perron_frobenius(CsrMap(A)).value == pytest.approx(0.5)


@given(n=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_collatz_wielandt_encloses(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n))
    lower, upper = collatz_wielandt(A, rng.uniform(0.1, 1.0, n))
    assert lower <= dense_radius(A) * (1 + 1e-12)
    assert upper >= dense_radius(A) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("A", "v"), [([[1e-10]], [1e-320]), ([[1e-300]], [1e-20]), ([[1e200]], [1e200]), ([[1e-310]], [1.0])]
)
def test_collatz_wielandt_claims_nothing_beyond_the_range(A: object, v: object) -> None:
    bounds = collatz_wielandt(A, v)
    assert bounds == (0.0, np.inf)
    assert all(type(bound) is float for bound in (*bounds, *collatz_wielandt([[1.0]], [1.0])))


def test_collatz_wielandt_by_hand() -> None:
    lower, upper = collatz_wielandt([[0.0, -2.0], [3.0, 1.0]], [1.0, 2.0])
    assert lower == pytest.approx(2.5)
    assert upper == pytest.approx(4.0)
    assert lower <= 2.5
    assert upper >= 4.0


@given(n=st.integers(1, 20), radius=st.floats(0.01, 0.999), density=st.floats(0.05, 1), seed=st.integers(0, 2**32 - 1))
def test_contraction_vector_contracts(n: int, radius: float, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, n)) * (rng.random((n, n)) < density)
    A *= radius / max(dense_radius(A), 1e-3)
    s, rho = contraction_vector(A)
    assert (s > 0).all()
    assert s.max() == 1.0
    assert rho < 1.0
    assert (np.abs(A) @ s <= rho * s).all()


@pytest.mark.parametrize("A", [np.eye(3), 2.0 * np.ones((2, 2)), [[0.0, 1.0], [1.0, 0.0]]])
def test_no_contraction_without_well_posedness(A: object) -> None:
    expected = dense_radius(np.asarray(A))
    with pytest.raises(NotWellPosedError, match=r"λ_pf.*scale A down") as raised:
        contraction_vector(A)
    assert raised.value.lower <= expected <= raised.value.upper
    assert raised.value.upper - raised.value.lower <= 1e-10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: perron_frobenius(np.ones((2, 3))), r"A must be square, got shape \(2, 3\)"),
        (lambda: perron_frobenius(np.ones(3)), "two dimensions"),
        (lambda: perron_frobenius([[np.nan]]), "A must be finite, got nan"),
        (lambda: collatz_wielandt(np.eye(2), [1.0]), r"v must have shape \(2,\)"),
        (lambda: collatz_wielandt(np.eye(2), "abcd"), "v must hold real numbers"),
        (lambda: perron_frobenius([[1.0], [1.0, 2.0]]), "A must be an array with rows of equal length"),
        (lambda: perron_frobenius(np.ma.masked_array(np.eye(2), np.eye(2))), "A must not be a masked array"),
        (lambda: perron_frobenius(torch.nn.Linear(2, 2)), r"got the network Linear; see simplicit\.from_torch"),
        (lambda: perron_frobenius(torch.eye(2).to_sparse()), "A must be a dense tensor, got a sparse one"),
        (lambda: collatz_wielandt(np.eye(2), [1.0, 0.0]), "positive and finite, got 0.0 at position 1"),
        (lambda: collatz_wielandt(np.eye(2), [1.0, np.inf]), "positive and finite, got inf"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
