"""Small models of every kind and activation that attacks and certificates are tried on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from simplicit.implicit import Activation, ImplicitModel, StateGroup

P, N, Q = 12, 10, 4
ACTIVATIONS = [
    Activation("relu"),
    Activation("leaky_relu"),
    Activation.of("leaky_relu", negative_slope=-0.6),
    Activation.of("leaky_relu", negative_slope=1.5),
    Activation("abs"),
    Activation("identity"),
    Activation("tanh"),
    Activation("sigmoid"),
    Activation("hardtanh"),
    Activation.of("hardtanh", min_val=0.0, max_val=6.0),
    Activation("softplus"),
    Activation("elu"),
    Activation.of("elu", alpha=1.6),
    Activation.of("elu", alpha=-0.7),
    Activation("gelu"),
    Activation("gelu_tanh"),
    Activation("silu"),
]


def model_of(
    kind: str, activation: str | Activation = "relu", dtype: type = np.float64, seed: int = 0
) -> ImplicitModel:
    """Well-posed models with biases and D; ``kind`` is "triangular" (states shuffled) or "full"."""
    rng = np.random.default_rng(seed)
    phi = Activation(activation) if isinstance(activation, str) else activation
    A = rng.normal(size=(N, N))
    if kind == "triangular":
        order = rng.permutation(N)
        A = np.triu(A, 1)[order][:, order]
    else:
        A *= 0.8 / (phi.slope * np.abs(np.linalg.eigvals(np.abs(A))).max())
    groups = [StateGroup("one", 4, phi), StateGroup("two", N - 4, phi)]
    # Outputs of order one: of a confident sample differences of the loss are all rounding.
    matrices = (A, rng.normal(size=(N, P)), 0.3 * rng.normal(size=(Q, N)), 0.3 * rng.normal(size=(Q, P)))
    biases = {"state_bias": rng.normal(size=N), "output_bias": 0.3 * rng.normal(size=Q)}
    model = ImplicitModel.from_matrices(*matrices, activation=groups, input_shape=(3, 4), **biases)
    return model.astype(dtype)


def layered(widths: tuple[int, ...], activation: str | Activation = "relu", seed: int = 0) -> ImplicitModel:
    """A multilayer perceptron with biases: inputs, hidden layers, outputs."""
    rng = np.random.default_rng(seed)
    phi = Activation(activation) if isinstance(activation, str) else activation
    hidden = widths[1:-1]
    stops = np.cumsum([0, *hidden])
    n = int(stops[-1])
    places = [slice(stops[i], stops[i + 1]) for i in range(len(hidden))]
    A, B = np.zeros((n, n)), np.zeros((n, widths[0]))
    C, D = np.zeros((widths[-1], n)), np.zeros((widths[-1], widths[0]))
    B[places[0]] = rng.normal(size=(hidden[0], widths[0]))
    for before, after in pairwise(places):
        A[after, before] = rng.normal(size=(after.stop - after.start, before.stop - before.start))
    C[:, places[-1]] = rng.normal(size=(widths[-1], hidden[-1]))
    groups = [StateGroup(f"layer {i}", size, phi) for i, size in enumerate(hidden)]
    biases = {"state_bias": 0.3 * rng.normal(size=n), "output_bias": 0.3 * rng.normal(size=widths[-1])}
    return ImplicitModel.from_matrices(A, B, C, D, activation=groups, **biases)


def data(model: ImplicitModel, m: int = 60, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Inputs in [0, 1] with the model's own classes as labels."""
    U = np.random.default_rng(seed).uniform(size=(m, model.n_inputs)).astype(model.dtype)
    return U, model.predict(U).argmax(axis=1)


def corners(U: np.ndarray, eps: float, count: int, seed: int = 2) -> np.ndarray:
    """Random corners and random points of the ε-boxes within [0, 1], (count, m, p), the samples themselves first."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], size=(count, *U.shape))
    signs[count // 2 :] *= rng.uniform(size=signs[count // 2 :].shape)
    signs[0] = 0.0
    lower, upper = np.maximum(U.astype(np.float64) - eps, 0.0), np.minimum(U.astype(np.float64) + eps, 1.0)
    return np.clip(U + eps * signs, lower, upper)
