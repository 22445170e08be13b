r"""How far an error in a state, or in an output, moves the outputs, on the baseline: sᵢ of every row of M."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch

from simplicit.implicit import Activation
from simplicit.rows.batch import Array
from simplicit.training.states.data import StateData
from simplicit.training.support.allocation import least_sensitivity

#: Samples behind the mean; more change it by little.
SAMPLES = 500
#: With more outputs than this their squared norm is estimated from so many random signs; each costs one product of the
#: sparse A with these samples, far less than the backward pass that a probe of channels costs.
PROBES = 32


def state_sensitivities(data: StateData) -> Array:
    """sᵢ = mean over samples of ‖∂y/∂zᵢ‖² of every row of M, (n + q,); 1 for an output.

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
    result[:n] = np.maximum(result[:n], least_sensitivity(float(result[:n].max())))
    return result


def _slopes(data: StateData, step: int) -> Array:
    """φ'(z) of every state at every step-th sample, (samples, n)."""
    Z = torch.from_numpy(data.targets[::step, : data.n_states].copy())
    parts = [
        cast(Activation, group.activation).derivative(Z[:, columns])
        for group, columns in zip(data.model.groups, data.model.slices.values(), strict=True)
    ]
    return torch.cat(parts, dim=1).numpy()
