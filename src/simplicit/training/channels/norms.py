r"""The constants of a layer with new weights: its bias, or the statistics of the batch norm behind it.

Fitted rows vary less than their targets, and layer after layer a sparse network fades. So a batch norm, which is
y = γ(z − μ)/√(v + ε) + β, gets the μ' and v' with which the new z has the mean m and the standard deviation s that the
target has (m⁰, s⁰), both over positions as the rows count them:

    √(v' + ε) = √(v + ε)·s/s⁰,        μ' = m − (m⁰ − μ)·s/s⁰

γ and β stay, so that a norm without them is no special case. A bias takes up the mean alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.batch import Array
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.moments import Moments
from simplicit.training.channels.parts import changed_in, part_of

#: Bounds on s/s⁰: a channel that lost all its weights must not be blown up.
LEAST_RATIO, MOST_RATIO = 0.2, 5.0


def constants_of(constants: Mapping[str, Tensor], layer: ChannelLayer, moments: Moments) -> dict[str, Tensor]:
    """What replaces the layer's bias or the statistics of its norm among ``constants``, by placeholder."""
    if layer.norm is None:
        if layer.bias is None or not layer.free_bias:
            return {}
        whole, part = constants[layer.bias], layer.last.bias_part
        moved = part_of(part, whole) + torch.from_numpy(moments.target_mean - moments.mean).to(whole.dtype)
        return {layer.bias: changed_in(part, whole, moved)}
    mean, variance = (constants[name].double().numpy() for name in (layer.norm.mean, layer.norm.variance))
    bias = None if layer.bias is None else part_of(layer.last.bias_part, constants[layer.bias])
    offset = 0.0 if bias is None else bias.double().numpy()
    ratio = _ratio(moments)
    new_variance = np.maximum((variance + layer.norm.eps) * ratio**2 - layer.norm.eps, 0.0)
    new_mean = moments.mean + offset - (moments.target_mean + offset - mean) * ratio
    dtype = constants[layer.norm.mean].dtype
    return {
        layer.norm.mean: torch.from_numpy(new_mean).to(dtype),
        layer.norm.variance: torch.from_numpy(new_variance).to(dtype),
    }


def _ratio(moments: Moments) -> Array:
    """s/s⁰; 1 where either does not vary."""
    varies = (moments.variance > 0) & (moments.target_variance > 0)
    ratio = np.ones_like(moments.variance)
    ratio[varies] = np.sqrt(moments.variance[varies] / moments.target_variance[varies])
    return np.asarray(np.clip(ratio, LEAST_RATIO, MOST_RATIO))
