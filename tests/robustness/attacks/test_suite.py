"""``attack``: what it returns, and that its checks find what they are there for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

import simplicit as sp
from simplicit.errors import InputError, NotWellPosedError
from simplicit.implicit import ImplicitModel, adjoint
from simplicit.robustness import ATTACKS, Attack, SelfChecks
from simplicit.robustness.attacks.checks import GradientAgreement, gradient_agreement, unrolled_gradient
from victims import ACTIVATIONS, N, P, Q, data, layered, model_of


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["triangular", "full"])
def test_what_comes_back(kind: str) -> None:
    model, source = model_of(kind), model_of("triangular", seed=5)
    U, labels = data(model, 80)
    labels[:4] = (labels[:4] + 1) % Q
    found = sp.attack(model, U, labels, [0.1, 0.01, 0.1], sources={"other": source}, steps=10, restarts=2, keep=True)
    assert found.eps == (0.01, 0.1)
    assert list(found.held) == list(found.seconds) == ["fgsm", "pgd", "square", "transfer from other"]
    assert_array_equal(found.correct, np.arange(80) >= 4)
    for held in found.held.values():
        assert held.shape == (2, 80)
        assert not held[:, :4].any()
    assert (found.accuracy("pgd") <= found.accuracy("fgsm")).all()
    assert (found.accuracy() <= np.minimum.reduce([found.accuracy(name) for name in found.held])).all()
    assert found.accuracy()[1] <= found.accuracy()[0] < 76 / 80
    assert found.adversarial.shape == (2, 80, P)
    for points, eps, row in zip(found.adversarial, found.eps, range(2), strict=True):
        assert np.abs(points - U).max() <= eps
        broken = model.predict(points).argmax(axis=1) != labels
        assert_array_equal(
            broken, ~np.logical_and.reduce([found.correct, *(held[row] for held in found.held.values())])
        )
    with pytest.raises(InputError, match="attack: 'autoattack' was not run; 'fgsm', 'pgd'"):
        found.accuracy("autoattack")


@pytest.mark.slow
def test_honest_models_pass_their_checks() -> None:
    for kind in ("triangular", "full"):
        model = model_of(kind, "tanh")
        U, labels = data(model, 100)
        checks = sp.attack(model, U, labels, [0.01, 0.05], steps=20, restarts=2, queries=50).checks
        assert checks.findings == ()
        assert checks.zero_gradients == 0.0
        assert checks.gradients.samples == 64
        assert checks.gradients.largest_difference < 1e-6
        assert checks.gradients.signs_that_differ == 0.0
        assert set(checks.better_than_white_box) == {"square"}
        assert max(checks.better_than_white_box["square"]) <= 0
        assert max(max(rises) for rises in checks.rises.values()) <= 0


class Masked(torch.nn.Module):
    """Gradients vanish, because the inputs are rounded; the classes are those of an honest model."""

    def __init__(self, inner: ImplicitModel) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        rounded = (points * 40).round() / 40
        return torch.as_tensor(self.inner.predict(rounded))


def test_masked_gradients_are_found() -> None:
    inner = layered((P, 8, 4), seed=2)
    net, U = Masked(inner), torch.rand(200, P, dtype=torch.float64)
    labels = net(U).argmax(dim=1)
    found = sp.attack(net, U, labels, 0.15, sources={"inner": inner}, steps=10, restarts=2, queries=100)
    assert found.checks.zero_gradients == 1.0
    assert found.checks.gradients is None
    findings = " ".join(map(str, found.checks.findings))
    assert "100.00 % of the samples have no gradient" in findings
    assert "square is stronger than the white-box PGD" in findings
    assert "transfer from inner is stronger" in findings


def test_each_finding_has_its_sentence() -> None:
    good = GradientAgreement(10, 5, 1e-9, 0.0)
    assert SelfChecks(0.0, good, {"square": (-0.1, 0.0)}, {"pgd": (-0.2,)}).findings == ()
    bad = SelfChecks(0.25, GradientAgreement(10, 5, 0.5, 0.1), {"square": (-0.1, 0.02)}, {"fgsm": (0.01,), "pgd": ()})
    found = [(one.check, one.attack, one.size) for one in bad.findings]
    assert found == [
        ("zero_gradients", None, 0.25),
        ("gradients", None, 0.5),
        ("better_than_white_box", "square", 0.02),
        ("rises", "fgsm", 0.01),
    ]
    told = [str(one) for one in bad.findings]
    assert "25.00 % of the samples" in told[0]
    assert "differ by up to 50 % of" in told[1]
    assert "by 2.00 points" in told[2]
    assert "under fgsm a larger radius helps the model, by 1.00 points" in told[3]


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("kind", ["triangular", "full"])
def test_unrolled_and_implicit_gradients_agree(kind: str, phi: object) -> None:
    model = model_of(kind, phi)
    U, labels = data(model, 10)
    Y_bar = np.random.default_rng(0).normal(size=(10, Q))
    unrolled, steps = unrolled_gradient(model, torch.from_numpy(U), torch.from_numpy(Y_bar))
    np.testing.assert_allclose(unrolled, adjoint(model, U, Y_bar), atol=1e-7, rtol=1e-6)
    assert steps > (1 if kind == "triangular" else 20)
    assert gradient_agreement(model, torch.from_numpy(U), torch.from_numpy(labels)).largest_difference < 1e-6


def test_a_wrong_gradient_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("full")
    U, labels = data(model, 20)
    true = unrolled_gradient

    def wrong(*arguments: object) -> tuple[torch.Tensor, int]:
        gradient, steps = true(*arguments)
        return -gradient, steps

    monkeypatch.setattr("simplicit.robustness.attacks.checks.unrolled_gradient", wrong)
    checks = sp.attack(model, U, labels, 0.01, attacks=["fgsm"]).checks
    assert checks.gradients.signs_that_differ == 1.0
    assert any("implicit and unrolled gradients differ by up to 2e+02 %" in str(line) for line in checks.findings)


@pytest.mark.slow
def test_progress_and_names() -> None:
    model = layered((P, 6, 3))
    U, labels = data(model, 12)
    states: list[sp.progress.Progress] = []
    found = sp.attack(model, U, labels, 0.4, attacks=("autoattack", "fgsm", "fgsm"), progress=states.append)
    assert list(found.held) == ["autoattack", "fgsm"]
    assert (states[-1].stage, states[-1].done, states[-1].total) == ("checks", 2, 2)
    whole = [state.done for state in states if state.of is None]
    assert whole == sorted(whole)
    assert {state.stage for state in states if state.of is not None} == {"gradient steps"}
    assert found.checks.better_than_white_box == {}
    only = sp.attack(model, U, labels, 0.1, attacks=(), sources={"itself": model}, steps=5, restarts=1)
    assert list(only.held) == ["transfer from itself"]
    assert sp.attack(model, U, labels, 0.1, attacks="fgsm").held["fgsm"].shape == (1, 12)


def test_an_attack_that_is_registered_runs_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("full")
    U, labels = data(model, 30)
    given: dict[str, object] = {}

    def toy(model: object, U: np.ndarray, labels: object, eps: float, *, clip: object, seed: int) -> np.ndarray:
        given.update(clip=clip, seed=seed)
        return 1.0 - U  # far outside the box: only its nearest points count

    monkeypatch.setitem(ATTACKS, "toy", Attack(toy, sees_gradients=False))
    found = sp.attack(model, U, labels, 0.1, attacks=["pgd", "toy"], steps=2, restarts=1, seed=3, keep=True)
    assert list(found.held) == ["pgd", "toy"]
    assert given == {"clip": (0.0, 1.0), "seed": 3}
    assert np.abs(found.adversarial - U).max() <= 0.1
    assert set(found.checks.better_than_white_box) == {"toy"}
    with pytest.raises(InputError, match="'autoattack', 'toy'"):
        sp.attack(model, U, labels, 0.1, attacks=["deepfool"])


def test_all_wrong_from_the_start() -> None:
    model = model_of("full")
    U, labels = data(model, 5)
    found = sp.attack(model, U, (labels + 1) % Q, [0.01, 0.1], steps=2, restarts=1, queries=3)
    assert found.accuracy().tolist() == [0.0, 0.0]
    assert found.checks.findings == ()
    assert found.checks.gradients is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attacks": ("fgsm", "deepfool")}, "attacks: 'deepfool' is unknown; choose one of 'fgsm', 'pgd'"),
        ({"attacks": ()}, "attacks: none given, and no sources"),
        ({"eps": []}, "got an empty one"),
        ({"eps": [0.1, -0.1]}, "eps must be a finite number of at least 0"),
        ({"eps": 1.5}, "wider than the range"),
        ({"labels": [0, 9]}, "labels must lie in"),
        ({"seed": 2**63}, "seed must be"),
        ({"steps": 0}, "steps must be"),
        ({"restarts": 0}, "restarts must be"),
        ({"queries": 0}, "queries must be"),
        ({"image_shape": (2, 2)}, "has 4 entries, a sample has 12"),
        ({"sources": {"small": layered((3, 4, 2))}}, "U must have shape"),
        ({"sources": {"none": None}}, "model must be an ImplicitModel or"),
    ],
)
def test_bad_input(changes: dict[str, object], message: str) -> None:
    arguments = {"U": np.full((2, P), 0.5), "labels": [0, 1], "eps": 0.1, "steps": 1, "restarts": 1} | changes
    with pytest.raises(InputError, match=message):
        sp.attack(model_of("triangular"), **arguments)


def test_ill_posed_models_are_refused() -> None:
    model = ImplicitModel.from_matrices(2.0 * np.eye(N), np.eye(N, P), np.eye(Q, N), np.zeros((Q, P)))
    with pytest.raises(NotWellPosedError, match="λ_pf"):
        sp.attack(model, np.full((2, P), 0.5), [0, 1], 0.1)
