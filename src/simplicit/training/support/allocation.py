r"""How many weights each row and layer gets: one price for a weight, everywhere.

Every row has a path of prices (:mod:`~simplicit.training.support.elimination`): what its own error ‖z − Φw‖² rises by
when it gives up one weight more. Errors of different rows are not worth the same. To first order, an error e in
pre-activation i of a sample moves the outputs by e·∂y/∂zᵢ, so that the outputs' squared error is the rows' errors
weighted by

    sᵢ = mean over samples of ‖∂y/∂zᵢ‖²   (1 for an output row)

A weight is kept where its price times s is above one threshold for the whole model. The threshold is the one that
leaves the wanted number of weights, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from simplicit.errors import InputError
from simplicit.training.states.statedata import StateData
from simplicit.training.support.elimination import Path

__all__ = ["count_of", "importance", "spread"]

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

#: Samples behind the importance; more change its mean by little.
SAMPLES = 500
#: With more outputs than this their squared norm is estimated from so many random signs.
PROBES = 32
#: A state that no output sees is worth this share of the most important one, so that its weights have an order too.
FLOOR = 1e-9


def importance(data: StateData) -> Array:
    """sᵢ of every row of M on the baseline, (n + q,).

    The baseline is feed-forward, so that ∂y/∂z follows from the last group to the first by the chain rule.
    """
    model, n, q = data.model, data.model.n_states, data.model.n_outputs
    result = np.ones(n + q)
    if not n:
        return result
    step = -(-len(data.features) // SAMPLES)
    slopes = _slopes(data, step)
    probes = np.eye(q) if q <= PROBES else np.random.default_rng(0).choice([-1.0, 1.0], (PROBES, q)) / np.sqrt(PROBES)
    direct, A = probes @ model.C, model.A.tocsc()
    # J[k, s, i] = ∂(probe k · y)/∂zᵢ at sample s; groups later in the baseline stand earlier in x.
    J = np.zeros((len(probes), len(slopes), n))
    for columns in model.slices.values():
        later = A[: columns.start, columns]
        through = J[:, :, : columns.start].reshape(len(probes) * len(slopes), columns.start) @ later
        seen = direct[:, None, columns] + np.asarray(through).reshape(len(probes), len(slopes), -1)
        J[:, :, columns] = seen * slopes[None, :, columns]
    result[:n] = np.square(J).sum(axis=0).mean(axis=0)
    result[:n] = np.maximum(result[:n], FLOOR * max(float(result[:n].max()), np.finfo(float).tiny))
    return result


def _slopes(data: StateData, step: int) -> Array:
    """φ'(z) of every state at every step-th sample, (samples, n)."""
    Z = torch.from_numpy(data.targets[::step, : data.n_states].copy())
    parts = [
        group.activation.derivative(Z[:, columns])
        for group, columns in zip(data.model.groups, data.model.slices.values(), strict=True)
    ]
    return torch.cat(parts, dim=1).numpy()


def spread(paths: Sequence[Path], scales: Array, count: int) -> Index:
    """How many weights each row keeps, (r,), ``count`` in all.

    Parameters
    ----------
    paths : sequence of r Path
    scales : (r,) array
        What a unit of each row's error is worth.
    count : int
        At most the number of weights in the paths.
    """
    prices = [path.price * scale for path, scale in zip(paths, scales, strict=True)]
    rows = np.repeat(np.arange(len(paths)), [len(price) for price in prices])
    flat = np.concatenate(prices) if prices else np.zeros(0)
    # Stable, so that of equal prices in a row the later ones, which its elimination keeps longer, stay.
    kept = np.argsort(flat, kind="stable")[len(flat) - count :]
    return np.bincount(rows[kept], minlength=len(paths))


def count_of(total: int, sparsity: float | None, available: int) -> int:
    """How many of ``total`` weights stay at a wanted sparsity in per cent; all that are ``available`` if None.

    Raises
    ------
    InputError
        That is more than are available.
    """
    if sparsity is None:
        return available
    count = int(total * (1 - sparsity / 100) + 1e-9)
    if count > available:
        raise InputError(
            f"sparsity: {sparsity:g} % cannot be reached with these settings; the nearest is "
            f"{100 * (1 - available / total):.2f} %, for the penalty leaves {available:,} candidates to refine, of "
            f"the {count:,} weights wanted: take a weaker one, or simplicit.NoPenalty() for all columns"
        )
    return count
