"""``certify`` as it is called: what it returns, what it refuses, and that no attack succeeds where it says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

import simplicit as sp
from simplicit.errors import InputError, NotWellPosedError
from simplicit.implicit import ImplicitModel
from simplicit.robustness import METHODS
from simplicit.robustness.certificates.methods import Method
from victims import N, P, Q, data, layered, model_of

#: Either dtype with every kind of model; the other half is slow.
PAIRS = [("triangular", np.float32), ("full", np.float64), ("layered", np.float64)]
OTHERS = [("triangular", np.float64), ("full", np.float32), ("layered", np.float32)]


@pytest.mark.parametrize(
    ("kind", "dtype", "seed"),
    [*((*pair, 0) for pair in PAIRS), *(pytest.param(*pair, 1, marks=pytest.mark.slow) for pair in OTHERS)],
)
def test_no_attack_succeeds_on_a_certified_sample(kind: str, dtype: type, seed: int) -> None:
    model = (
        layered((P, 16, 12, 4), seed=seed + 1).astype(dtype)
        if kind == "layered"
        else model_of(kind, dtype=dtype, seed=seed)
    )
    U, labels = data(model, 15 if kind == "full" else 50)
    radii = (0.003, 0.03, 0.15)
    found = sp.certify(model, U, labels, radii)
    broken = 0
    for eps, certified in zip(radii, found.certified["linear"], strict=True):
        attacked = sp.pgd(model, U, labels, eps, steps=20, restarts=1 if kind == "full" else 3)
        held = model.predict(attacked).argmax(axis=1) == labels
        assert held[certified].all()
        broken += int((~held).sum())
    assert found.certified["linear"].any()
    assert broken  # the attack does attack


def test_what_comes_back() -> None:
    model = model_of("triangular")
    U, labels = data(model, 30)
    labels[:5] = (labels[:5] + 1) % Q
    found = sp.certify(model, torch.from_numpy(U), labels.tolist(), [0.01, 0.0])
    assert found.eps == (0.01, 0.0)
    assert_array_equal(found.labels, labels)
    assert_array_equal(found.correct, np.arange(30) >= 5)
    assert list(found.margins) == list(found.certified) == list(found.seconds) == ["global", "interval", "linear"]
    assert all(margins.shape == (2, 30) for margins in found.margins.values())
    assert not found.certified["linear"][:, :5].any()
    assert found.certified["linear"][1, 5:].all()
    assert found.accuracy()[1] == pytest.approx(25 / 30)
    assert found.accuracy("global")[0] <= found.accuracy("interval")[0] <= found.accuracy()[0]
    with pytest.raises(InputError, match="'interval' is not among those computed, 'global'"):
        sp.certify(model, U, None, 0.01, method="global").accuracy("interval")


def test_without_labels_the_models_own_choice_is_held() -> None:
    model = model_of("full")
    U, labels = data(model, 5)
    found = sp.certify(model, U, None, 0.001)
    assert_array_equal(found.labels, labels)
    assert found.correct.all()
    assert_array_equal(found.margins["linear"], sp.certify(model, U, labels, 0.001).margins["linear"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["triangular", "full"])
def test_samples_do_not_depend_on_their_company(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind)
    U, labels = data(model, 23)
    whole = sp.certify(model, U, labels, 0.02, steps=2).margins["linear"]
    monkeypatch.setattr("simplicit.robustness.certificates.proofs._NUMBERS", 5000)
    parts = sp.certify(model, U, labels, 0.02, steps=2).margins["linear"]
    np.testing.assert_allclose(whole, parts, atol=1e-9 if kind == "triangular" else 1e-3)


def test_steps_help_and_only_where_they_are_needed() -> None:
    model = layered((P, 20, 15, 10, 4), seed=2)
    U, labels = data(model, 40)
    plain, climbed = (sp.certify(model, U, labels, 0.01, steps=steps).margins["linear"] for steps in (0, 10))
    assert (climbed >= plain).all()
    assert (climbed > plain + 1e-4).any()
    assert_array_equal(climbed[plain > 0], plain[plain > 0])


def test_progress_reaches_its_end() -> None:
    model = model_of("triangular")
    U, labels = data(model, 10)
    states: list[sp.progress.Progress] = []
    sp.certify(model, U, labels, [0.1, 0.01], progress=states.append)
    assert (states[-1].done, states[-1].total) == (20, 20)
    assert list(dict.fromkeys(state.stage for state in states)) == ["bounds, ε = 0.1", "bounds, ε = 0.01"]


def test_models_without_states_or_with_a_direct_path() -> None:
    W = np.array([[1.0, -1.0], [-1.0, 1.0]])
    model = ImplicitModel.from_matrices(np.zeros((0, 0)), np.zeros((0, 2)), np.zeros((2, 0)), W)
    found = sp.certify(model, [[0.8, 0.2], [0.55, 0.45]], None, 0.1)
    for method in found.margins:
        np.testing.assert_allclose(found.margins[method], [[0.8, -0.2]], atol=1e-12)


def test_inputs_at_the_ends_of_their_range_cannot_leave_it() -> None:
    W = np.array([[1.0], [-1.0]])
    model = ImplicitModel.from_matrices(
        np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((2, 0)), W, output_bias=[0.05, 0.0]
    )
    clipped, free = (sp.certify(model, [[0.0]], None, 0.1, clip=clip).certified["interval"] for clip in ((0, 1), None))
    assert clipped.all()
    assert not free.any()


U_GOOD = np.full((2, P), 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": torch.nn.Linear(2, 2)}, "model must be an ImplicitModel, got Linear"),
        ({"U": np.full((2, P - 1), 0.5)}, "U must have shape"),
        ({"U": np.full((2, P), np.nan)}, "U must be finite"),
        ({"U": np.full((2, P), 255.0)}, r"U must lie in clip = \(0.0, 1.0\)"),
        ({"labels": [0, 4]}, r"labels must lie in \[0, 4\)"),
        ({"labels": [0]}, "labels must have shape"),
        ({"eps": -0.1}, "eps must be a finite number of at least 0, got -0.1"),
        ({"eps": [0.1, float("nan")]}, "eps must be a finite number"),
        ({"eps": []}, "eps must be a radius or a sequence of them, got an empty one"),
        ({"eps": "0.1"}, "eps must be a finite number"),
        ({"eps": [0.1, 1.5]}, r"eps = 1.5 is wider than the range of inputs"),
        ({"clip": (1, 0)}, "low < high"),
        ({"method": "crown"}, "'crown' is unknown; choose one of 'global', 'interval', 'linear'"),
        ({"method": None}, "None is unknown"),
        ({"steps": -1}, "steps must be an integer of at least 0"),
    ],
)
def test_bad_input(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sp.certify(**({"model": model_of("triangular"), "U": U_GOOD, "labels": None, "eps": 0.1} | changes))


def test_a_method_that_is_registered_runs_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("triangular")
    U, labels = data(model, 10)
    plain = sp.certify(model, U, labels, 0.01)
    toy = Method(lambda evidence: evidence.take(torch.full_like(evidence.margins, 5.0)))
    monkeypatch.setitem(METHODS, "toy", toy)
    found = sp.certify(model, U, labels, 0.01, method="toy")
    assert list(found.margins) == ["global", "interval", "linear", "toy"]
    assert_array_equal(found.margins["linear"], plain.margins["linear"])
    assert_array_equal(found.accuracy(), [1.0])
    with pytest.raises(InputError, match="choose one of 'global', 'interval', 'linear', 'toy'"):
        sp.certify(model, U, labels, 0.01, method="crown")


def test_one_output_has_no_margins() -> None:
    with pytest.raises(InputError, match="at least two outputs"):
        sp.certify(ImplicitModel.from_matrices([[0.0]], [[1.0]], [[1.0]], [[0.0]]), [[0.5]], None, 0.1)


def test_ill_posed_models_are_refused() -> None:
    model = ImplicitModel.from_matrices(2.0 * np.eye(3), np.eye(3), np.eye(3), np.zeros((3, 3)))
    with pytest.raises(NotWellPosedError, match="λ_pf"):
        sp.certify(model, np.full((1, 3), 0.5), None, 0.1)


def test_huge_radii_and_weights_certify_nothing() -> None:
    model = model_of("triangular")
    scaled = ImplicitModel.from_matrices(np.zeros((N, N)), 1e140 * model.B, 1e140 * model.C, model.D, activation="relu")
    assert not sp.certify(scaled, U_GOOD * 1e-9, None, 1e3, clip=None).certified["linear"].any()
    assert not sp.certify(model, U_GOOD, None, 1e300, clip=None, steps=1).certified["linear"].any()


def test_what_cannot_fit_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("triangular")
    U, labels = data(model, 2)
    monkeypatch.setattr("simplicit.machine.available_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"method: 'linear' .* take method='interval'"):
        sp.certify(model, U, labels, 0.01)
    assert set(sp.certify(model, U, labels, 0.01, method="interval").margins) == {"global", "interval"}
