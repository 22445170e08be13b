"""The figures of an evaluation, against what can be worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from simplicit.data import Dataset
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel
from simplicit.progress import Progress
from simplicit.runs.evaluate import Evaluation, EvaluationSettings, evaluate, parse_eps

RNG = np.random.default_rng(0)


def linear(scale: float = 1.0) -> ImplicitModel:
    """y = (u₁, u₂) through two states of ReLU: the class is the larger input."""
    identity, zero = np.eye(2), np.zeros((2, 2))
    return ImplicitModel.from_matrices(zero, scale * identity, identity, zero)


def inputs(gaps: list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Samples around 1/2 whose first input exceeds the second by the given gap."""
    half = np.asarray(gaps) / 2
    return np.stack([0.5 + half, 0.5 - half], axis=1).astype(np.float32)


GAPS = [0.5, 0.2, 0.1, -0.3]
DATA = Dataset("toy", inputs([0.1]), np.array([0]), inputs(GAPS), np.array([0, 0, 0, 0]), (2,), 2)


def figures(eps: tuple[str, ...] = (), *, attack_samples: int | None = None, **options: Any) -> Evaluation:
    settings = EvaluationSettings(eps, attack_samples=attack_samples)
    return evaluate(linear(), linear(2.0), 8, DATA, settings, **options)


def test_clean_figures() -> None:
    found = figures()
    assert (found.samples, found.accuracy, found.baseline_accuracy, found.agreement) == (4, 0.75, 0.75, 1.0)
    assert (found.nnz, found.size, found.baseline_weights) == (4, 16, 8)
    assert (found.sparsity, found.sparsity_of_size) == (50.0, 75.0)
    assert (found.norm_inf, found.perron_frobenius.upper) == (0.0, 0.0)
    assert (found.equilibrium_method, found.equilibrium_iterations) == ("substitution", 0)
    assert found.equilibrium_error_bound < 1e-12
    assert (found.output_range, found.unbounded) == (float(np.ptp(linear().predict(DATA.test_inputs))), ())
    assert found.attacks == ()
    assert found.baseline_dense_weight_bits == 8 * 8 * linear().dtype.itemsize
    assert found.storage_bits == linear().storage_bits().total
    assert found.storage_ratio == found.baseline_dense_weight_bits / found.storage_bits


def test_tied_weights_count_once() -> None:
    found = figures(nnz=2)
    assert (found.nnz, found.sparsity, found.sparsity_of_size) == (2, 75.0, 75.0)
    assert (found.storage_bits, found.storage_ratio) == (None, None)


@pytest.mark.parametrize(("eps", "accuracy"), [("0", 0.75), ("0.04", 0.75), ("0.07", 0.5), ("1/8", 0.25), ("0.3", 0.0)])
def test_attacks_close_gaps_of_twice_the_radius(eps: str, accuracy: float) -> None:
    (attack,) = figures((eps,)).attacks
    assert attack.eps == eps
    assert attack.radius == pytest.approx(parse_eps(eps))
    assert (attack.fgsm, attack.pgd, attack.baseline_fgsm, attack.baseline_pgd) == (accuracy,) * 4


def test_attacks_on_the_first_samples_only() -> None:
    found = figures(("0.07",), attack_samples=2)
    assert (found.attacked_samples, found.samples, found.attacks[0].pgd) == (2, 4, 1.0)
    assert (found.clean_accuracy_of_attacked, found.baseline_clean_accuracy_of_attacked) == (1.0, 1.0)
    assert figures(("0.07",), attack_samples=100).attacked_samples == 4


def test_progress_reaches_its_end() -> None:
    states: list[Progress] = []
    figures(("0.1", "0.2"), progress=states.append)
    done = [state.done for state in states if state.of is None]
    assert done == sorted(done)
    assert (states[-1].done, states[-1].total) == (9, 9)


def test_picard_is_reported() -> None:
    full = ImplicitModel.from_matrices(0.2 * np.ones((2, 2)), np.eye(2), np.eye(2), np.zeros((2, 2)))
    found = evaluate(full, linear(), 8, DATA, EvaluationSettings(()))
    assert found.equilibrium_method == "picard"
    assert found.equilibrium_iterations > 1
    assert found.perron_frobenius.value == pytest.approx(0.4)
    assert found.norm_inf == pytest.approx(0.4)


def test_eps() -> None:
    assert parse_eps("8/255") == 8 / 255
    assert parse_eps(" 8 / 255 ") == 8 / 255
    assert parse_eps("4e-3") == 0.004
    for text in ("", "x", "-0.1", "1/0", "nan", "inf", "1e999", "8//255"):
        with pytest.raises(InputError, match="expected a radius"):
            parse_eps(text)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"classes": 3}, "labels of toy do not fit: they go up to 2, the model has 2 outputs"),
        (
            {"test_inputs": np.zeros((4, 3)), "train_inputs": np.zeros((1, 3))},
            "takes 2 inputs, a sample of toy has 3",
        ),
        ({"input_range": (0.0, 0.05)}, "wider than the range"),
    ],
)
def test_what_does_not_fit(data: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        evaluate(linear(), linear(), 8, dataclasses.replace(DATA, **data), EvaluationSettings(("0.1",)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pgd_steps": 0}, "pgd_steps must be an integer of at least 1"),
        ({"attack_samples": 0}, "attack_samples must be an integer of at least 1"),
        ({"seed": -3}, "seed must be an integer"),
        ({"eps": ("0.1", "wide")}, "eps 'wide': expected a radius"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        EvaluationSettings(**options)


def test_own_input_range_is_the_clip() -> None:
    wide = dataclasses.replace(DATA, test_inputs=DATA.test_inputs * 100, input_range=(0.0, 100.0))
    (attack,) = evaluate(linear(), linear(), 8, wide, EvaluationSettings(("12",))).attacks
    assert attack.pgd == 0.25
    assert math.isclose(attack.radius, 12.0)
