"""FGSM and PGD: true gradients, boxes kept to the last bit, and attacks that attack."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from simplicit.errors import InputError, NotWellPosedError
from simplicit.implicit import ImplicitModel
from simplicit.network import from_torch
from simplicit.robustness import accuracy, fgsm, pgd
from victims import P, Q, data, layered, model_of


def loss(model: ImplicitModel, U: np.ndarray, labels: np.ndarray) -> np.ndarray:
    Y = model.predict(U).astype(np.float64)
    top = Y.max(axis=1)
    return np.log(np.exp(Y - top[:, None]).sum(axis=1)) + top - Y[np.arange(len(Y)), labels]


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu", "softplus", "gelu", "abs"])
@pytest.mark.parametrize("kind", ["triangular", "full"])
def test_fgsm_follows_central_differences_of_the_loss(kind: str, activation: str) -> None:
    model = model_of(kind, activation)
    U, labels = data(model, 5)
    labels[0] = (labels[0] + 1) % Q
    h = 1e-6
    gradient = np.stack(
        [(loss(model, U + h * e, labels) - loss(model, U - h * e, labels)) / (2 * h) for e in np.eye(P)], axis=1
    )
    moved = fgsm(model, U, labels, 0.25, clip=None) - U
    clear = np.abs(gradient) > 1e-3 * np.abs(gradient).max(axis=1, keepdims=True)
    assert clear.mean() > 0.8
    assert_allclose(moved[clear], 0.25 * np.sign(gradient[clear]), rtol=1e-12)


def test_confident_samples_keep_their_gradient() -> None:
    scale = 1e4  # softmax is exactly one-hot in floating point here
    model = ImplicitModel.from_matrices(
        np.zeros((2, 2)), scale * np.eye(2), np.eye(2), np.zeros((2, 2)), activation="identity"
    ).astype(np.float32)
    U = np.array([[0.9, 0.1]], np.float32)
    assert_array_equal(np.sign(fgsm(model, U, [0], 0.05) - U), [[-1.0, 1.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip", [(0.0, 1.0), None, (-0.1, 1.1)])
@pytest.mark.parametrize("eps", [8 / 255, 0.1, 1e-9, 0.9])
def test_box_and_clip_hold_to_the_last_bit(eps: float, clip: tuple[float, float] | None, dtype: type) -> None:
    model = model_of("triangular", dtype=dtype)
    U, labels = data(model)
    U[0, :4] = 0.0, 1.0, 1e-8, 0.5
    for attacked in (
        fgsm(model, U, labels, eps, clip=clip),
        pgd(model, U, labels, eps, steps=5, clip=clip, step_size=0.7),
    ):
        assert attacked.dtype == dtype
        for u, moved in zip(U.ravel().tolist(), attacked.ravel().tolist(), strict=True):
            assert abs(Fraction(moved) - Fraction(u)) <= Fraction(eps)  # exact arithmetic
        if clip is not None:
            assert attacked.min() >= dtype(clip[0])
            assert attacked.max() <= dtype(clip[1])
        if eps > 1e-8:
            assert np.abs(attacked - U).max() >= 0.99 * eps


def test_the_ends_of_clip_are_rounded_inwards() -> None:
    model = model_of("triangular", dtype=np.float32)
    U = np.random.default_rng(0).uniform(0.0, 0.1, size=(20, P))
    U[0, :2] = 0.0, 0.1  # cast to float32, 0.1 is larger
    for clip in ((0.0, 0.1), (-0.1, 0.1), (-0.7, 0.1)):
        for attacked in (
            fgsm(model, U, np.zeros(20, int), 0.05, clip=clip),
            pgd(model, U, np.zeros(20, int), 0.05, steps=2, clip=clip),
        ):
            assert attacked.dtype == np.float32
            assert Fraction(clip[0]) <= Fraction(float(attacked.min()))
            assert Fraction(float(attacked.max())) <= Fraction(clip[1])


@pytest.mark.parametrize("kind", ["triangular", "full"])
def test_eps_zero_returns_the_input(kind: str) -> None:
    model = model_of(kind)
    U, labels = data(model)
    assert_array_equal(fgsm(model, U, labels, 0.0), U)
    assert_array_equal(pgd(model, U, labels, 0.0, steps=3, restarts=2), U)


@pytest.mark.parametrize("kind", ["triangular", "full"])
def test_larger_eps_never_helps(kind: str) -> None:
    model = model_of(kind)
    U, labels = data(model, 80)
    assert accuracy(model, U, labels) == 1.0
    attacked = [accuracy(model, pgd(model, U, labels, eps, steps=10), labels) for eps in (0.0, 0.005, 0.02, 0.08, 0.3)]
    assert attacked == sorted(attacked, reverse=True)
    assert attacked[0] == 1.0
    assert attacked[-1] < 0.5


@pytest.mark.slow
def test_pgd_beats_fgsm_and_random_points() -> None:
    model = model_of("full", "tanh")
    U, labels = data(model, 300)
    eps = 0.1
    noise = np.clip(U + eps * np.sign(np.random.default_rng(0).normal(size=U.shape)), 0, 1)
    by_pgd = accuracy(model, pgd(model, U, labels, eps, steps=20, restarts=3), labels)
    by_fgsm = accuracy(model, fgsm(model, U, labels, eps), labels)
    assert by_pgd <= by_fgsm < accuracy(model, noise, labels)


def test_pgd_finds_the_corner_of_a_linear_model() -> None:
    rng = np.random.default_rng(5)
    W = rng.normal(size=(2, P))
    model = ImplicitModel.from_matrices(np.zeros((0, 0)), np.zeros((0, P)), np.zeros((2, 0)), W)
    U = rng.uniform(0.3, 0.7, size=(20, P))
    labels = rng.integers(0, 2, size=20)
    direction = np.where(labels[:, None] == 0, W[1] - W[0], W[0] - W[1])
    assert_allclose(pgd(model, U, labels, 0.1, steps=10), U + 0.1 * np.sign(direction), rtol=1e-12)


def test_pgd_returns_the_worst_of_all_restarts() -> None:
    model = model_of("full", "tanh", seed=3)
    U, labels = data(model, 100)
    labels[:10] = (labels[:10] + 1) % Q  # misclassified from the start
    one = pgd(model, U, labels, 0.05, steps=4, batch_size=100)
    many = pgd(model, U, labels, 0.05, steps=4, restarts=5, batch_size=100)
    right = [model.predict(V).argmax(axis=1) == labels for V in (U, one, many)]
    assert not (right[2] & ~right[1]).any()
    assert not (right[1] & ~right[0]).any()
    both = right[1] == right[2]
    assert (loss(model, many, labels)[both] >= loss(model, one, labels)[both] - 1e-12).all()
    assert (loss(model, one, labels)[right[1]] >= loss(model, U, labels)[right[1]] - 1e-12).all()


def test_seeds_and_random_starts() -> None:
    model = model_of("triangular")
    U, labels = data(model)
    first = pgd(model, U, labels, 0.1, steps=1, seed=1)
    torch.manual_seed(99)
    assert_array_equal(first, pgd(model, U, labels, 0.1, steps=1, seed=1))
    assert (first != pgd(model, U, labels, 0.1, steps=1, seed=2)).any()
    fixed = pgd(model, U, labels, 0.1, steps=3, random_start=False, seed=1)
    assert_array_equal(fixed, pgd(model, U, labels, 0.1, steps=3, random_start=False, seed=2))


def test_one_step_from_the_sample_is_fgsm_where_it_pays() -> None:
    model = model_of("triangular")
    U, labels = data(model)
    by_fgsm = fgsm(model, U, labels, 0.01)
    by_pgd = pgd(model, U, labels, 0.01, steps=1, random_start=False, step_size=0.01)
    pays = loss(model, by_fgsm, labels) > loss(model, U, labels)
    assert pays.mean() > 0.9
    assert_array_equal(by_pgd[pays], by_fgsm[pays])


def test_kinds_shapes_and_batches() -> None:
    model = model_of("triangular", dtype=np.float32)
    U, labels = data(model)
    whole = fgsm(model, U, labels, 0.1)
    tensor = fgsm(model, torch.from_numpy(U).reshape(-1, 3, 4), torch.from_numpy(labels), 0.1, batch_size=7)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.shape == (60, 3, 4)
    assert_allclose(tensor.reshape(60, P).numpy(), whole)
    before = U.copy()
    pgd(model, U, labels, 0.1, steps=2)
    assert_array_equal(U, before)


def test_takes_what_predict_takes() -> None:
    model = model_of("triangular")
    U, labels = data(model, 5)
    expected = pgd(model, U, labels, 0.1, steps=2, restarts=2, seed=3)
    assert_array_equal(fgsm(model, U.tolist(), labels.tolist(), np.float32(0.125)), fgsm(model, U, labels, 0.125))
    again = pgd(model, U.tolist(), labels, 0.1, steps=np.int64(2), restarts=np.int32(2), seed=np.int64(3), clip=[0, 1])
    assert_array_equal(again, expected)
    nested = fgsm(model, U.reshape(5, 3, 4).tolist(), labels, 0.1)
    assert nested.shape == (5, 3, 4)


def test_steps_longer_than_the_box_end_at_its_edges() -> None:
    model = model_of("triangular", dtype=np.float32)
    U, labels = data(model, 5)
    long, longer = (pgd(model, U, labels, 0.1, steps=3, step_size=size) for size in (0.2, 1e300))
    assert_array_equal(long, longer)


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("triangular", 0),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("triangular", 1), ("triangular", 2), ("full", 0))),
    ],
)
def test_adaptive_steps_are_at_least_as_strong_as_plain_ones(kind: str, seed: int) -> None:
    model = model_of(kind, "relu", seed=seed)
    count, radii = (200, (0.02, 0.06)) if kind == "triangular" else (40, (0.06,))
    U, labels = data(model, count)
    for eps in radii:
        plain = accuracy(model, pgd(model, U, labels, eps, steps=40, step_size=2.5 * eps / 40), labels)
        plain_again = accuracy(
            model, pgd(model, U, labels, eps, steps=40, step_size=2.5 * eps / 40, restarts=5), labels
        )
        adaptive = accuracy(model, pgd(model, U, labels, eps, steps=40), labels)
        again = accuracy(model, pgd(model, U, labels, eps, steps=40, restarts=5), labels)
        assert adaptive <= plain + 0.0101  # two samples of two hundred, for the random start
        assert again <= plain_again
        assert again <= adaptive


def test_restarts_climb_margins_that_the_cross_entropy_misses() -> None:
    model = layered((12, 20, 15, 6), seed=2)
    U, labels = data(model, 400)
    one, many = (pgd(model, U, labels, 0.1, steps=30, restarts=restarts) for restarts in (1, 5))
    assert accuracy(model, many, labels) < accuracy(model, one, labels)


def test_an_implicit_model_and_its_network_are_attacked_alike() -> None:
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(12, 9), torch.nn.ReLU(), torch.nn.Linear(9, 4)).double().eval()
    U = torch.rand(50, 12, dtype=torch.float64)
    model, labels = from_torch(net, U), net(U).argmax(dim=1)
    assert_allclose(fgsm(net, U, labels, 0.1), fgsm(model, U, labels, 0.1))
    by_net, by_model = (accuracy(net, pgd(v, U, labels, 0.1, steps=20, restarts=3), labels) for v in (net, model))
    assert abs(by_net - by_model) <= 0.041


def test_accuracy_counts() -> None:
    model = model_of("full")
    U, labels = data(model, 10)
    labels[:3] = (labels[:3] + 1) % Q
    assert accuracy(model, U, labels) == pytest.approx(0.7)
    assert accuracy(model, torch.from_numpy(U), labels.tolist()) == pytest.approx(0.7)


U_GOOD, Y_GOOD = np.full((2, P), 0.5), np.array([0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0]}, r"labels must have shape \(2,\), one for each sample, got \(1,\)"),
        ({"labels": [[0, 1]]}, r"got \(1, 2\)"),
        ({"labels": [0.0, 1.0]}, "labels must be integers, got dtype float64"),
        ({"labels": [True, False]}, "got dtype bool"),
        ({"labels": [0, 4]}, r"labels must lie in \[0, 4\), the model's outputs; got 4 for sample 1"),
        ({"labels": [-1, 0]}, "got -1 for sample 0"),
        ({"U": np.full((2, P - 1), 0.5)}, "U must have shape"),
        ({"U": np.zeros((0, P)), "labels": np.zeros(0, int)}, "at least one sample"),
        ({"U": np.full((2, P), np.nan)}, "U must be finite"),
        ({"U": np.full((2, P), 255.0)}, r"U must lie in clip = \(0.0, 1.0\), got values from 255 to 255"),
        ({"U": np.full((2, P), -0.5)}, r"U must lie in clip"),
        ({"eps": -0.1}, "eps must be a finite number of at least 0, got -0.1"),
        ({"eps": float("nan")}, "eps must be a finite number"),
        ({"eps": float("inf"), "clip": None}, "eps must be a finite number"),
        ({"eps": 8.0}, r"eps = 8.0 is wider than the range of inputs, clip = \(0.0, 1.0\)"),
        ({"clip": (1.0, 0.0)}, "low < high"),
        ({"eps": "8/255"}, "eps must be a finite number of at least 0, got '8/255'; give a number, such as 8 / 255"),
        ({"eps": None}, "eps must be a finite number"),
        ({"eps": True}, "eps must be a finite number"),
        ({"eps": np.array([0.1])}, "eps must be a finite number"),
        ({"eps": torch.tensor(0.1)}, "eps must be a finite number"),
        ({"eps": 1e308, "clip": None}, r"eps = 1e\+308 is too large for inputs in float64"),
        ({"clip": (0,)}, r"clip must be \(low, high\) with low < high, both finite, got \(0,\)"),
        ({"clip": 5}, r"clip must be \(low, high\)"),
        ({"clip": "ab"}, r"clip must be \(low, high\)"),
        ({"clip": (0, 1, 2)}, r"clip must be \(low, high\)"),
        ({"clip": (None, 1)}, r"clip must be \(low, high\)"),
        ({"clip": (0.0, float("nan"))}, r"clip must be \(low, high\)"),
        ({"model": torch.nn.Linear(2, 2)}, r"model: Linear fails on samples of shape \(12,\) \(mat1 and mat2"),
        ({"model": torch.nn.Unflatten(1, (3, 4))}, r"must return logits of shape \(m, q\), got \(2, 3, 4\) for m = 2"),
        ({"model": None}, "model must be an ImplicitModel or a torch.nn.Module, got NoneType"),
        ({"batch_size": "2"}, "batch_size must be an integer of at least 1"),
        ({"labels": [[0], [1, 2]]}, "labels must be an array with rows of equal length"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input(changes: dict[str, object], message: str) -> None:
    arguments = {"model": model_of("triangular"), "U": U_GOOD, "labels": Y_GOOD, "eps": 0.1} | changes
    with pytest.raises(InputError, match=message):
        fgsm(**arguments)
    with pytest.raises(InputError, match=message):
        pgd(steps=2, **arguments)


def test_eps_beyond_float32() -> None:
    model = model_of("full", dtype=np.float32)
    with pytest.raises(InputError, match=r"eps = 1e\+39 is too large for inputs in float32"):
        pgd(model, U_GOOD, Y_GOOD, 1e39, steps=2, clip=None)


@pytest.mark.parametrize("seed", [None, "a", 1.5, True, -1, 2**70])
def test_bad_seeds(seed: object) -> None:
    with pytest.raises(InputError, match=r"seed must be an integer in \[0, 2\*\*64\), got"):
        pgd(model_of("triangular"), U_GOOD, Y_GOOD, 0.1, steps=2, seed=seed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"steps": 2.0}, "steps must be an integer"),
        ({"restarts": 0}, "restarts must be an integer of at least 1"),
        ({"steps": None}, "steps must be an integer"),
        ({"step_size": "a"}, "step_size must be positive and finite, got 'a'"),
        ({"step_size": 0.0}, "step_size must be positive and finite, got 0.0"),
        ({"step_size": float("nan")}, "step_size must be positive"),
    ],
)
def test_bad_input_to_pgd(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pgd(model_of("triangular"), **({"U": U_GOOD, "labels": Y_GOOD, "eps": 0.1, "steps": 2} | changes))


def test_one_output_has_no_classes_to_confuse() -> None:
    model = ImplicitModel.from_matrices([[0.0]], [[1.0]], [[1.0]], [[0.0]])
    with pytest.raises(InputError, match="at least two outputs"):
        fgsm(model, [[0.5]], [0], 0.1)


def test_labels_of_accuracy_are_checked() -> None:
    with pytest.raises(InputError, match="labels must have shape"):
        accuracy(model_of("full"), U_GOOD, [0, 1, 2])


def test_ill_posed_models_are_refused() -> None:
    model = ImplicitModel.from_matrices(2.0 * np.eye(3), np.eye(3), np.eye(3), np.zeros((3, 3)))
    with pytest.raises(NotWellPosedError, match="λ_pf"):
        pgd(model, np.full((1, 3), 0.5), [0], 0.1, steps=2)
