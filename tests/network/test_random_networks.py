"""Random compositions of supported operations, as one network each."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from simplicit.network import capture

WIDTH = 6
ACTIVATIONS = (
    torch.relu,
    torch.tanh,
    torch.sigmoid,
    torch.abs,
    functional.elu,
    functional.gelu,
    functional.silu,
    functional.softplus,
    functional.leaky_relu,
    functional.hardtanh,
    functional.relu6,
)


class RandomNetwork(nn.Module):
    """A list of steps on (m, 6), each with its own seeded weights; earlier values can be taken up again."""

    def __init__(self, steps: list[tuple[str, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.linear = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=bool(choice % 2)) for _, choice in steps)
        self.factors = nn.ParameterList(nn.Parameter(torch.randn(WIDTH)) for _ in steps)

    def forward(self, u):
        values = [u]
        for (kind, choice), linear, factor in zip(self.steps, self.linear, self.factors, strict=True):
            values.append(self.step(kind, choice, linear, factor, values))
        return torch.cat([values[-1], values[len(values) // 2][:, :2]], dim=1)

    def step(self, kind, choice, linear, factor, values):
        x, earlier = values[-1], values[choice % len(values)]
        if kind == "linear":
            return linear(x)
        if kind == "activation":
            return ACTIVATIONS[choice % len(ACTIVATIONS)](x)
        if kind == "in place":
            y = linear(x)
            functional.relu_(y[:, : 1 + choice % WIDTH])
            return y
        if kind == "residual":
            return torch.add(x, earlier, alpha=0.5)
        if kind == "maximum":
            return torch.maximum(x, earlier)
        if kind == "scale":
            return (x - 0.3) * factor / (1.5 + choice)
        if kind == "concatenate":
            return torch.cat([x[:, choice % WIDTH :], earlier[:, : choice % WIDTH]], dim=1)
        if kind == "mix":
            return linear(x.reshape(-1, 2, 3).transpose(1, 2).flatten(1)).flip(1)
        return x.view(-1, 3, 2).mean(dim=2, keepdim=True).expand(-1, 3, 2).reshape(-1, WIDTH)


KINDS = ("linear", "activation", "in place", "residual", "maximum", "scale", "concatenate", "mix", "mean")
steps = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 30)), min_size=1, max_size=9)


@given(steps=steps, seed=st.integers(0, 2**16))
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_random_network(steps, seed):
    torch.manual_seed(seed)
    net = RandomNetwork(steps).double().eval()
    u = 2 * torch.randn(5, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        expected = net(u).numpy()
    captured = capture(net, u[:1])
    model, states = captured.model, captured.states(u, batch_size=2)
    large = max(1.0, np.abs(expected).max(), np.abs(states.Z).max(initial=0.0))
    assert np.abs(model.predict(u.numpy()) - expected).max() <= 1e-12 * large
    assert np.abs(states.Y - expected).max() <= 1e-12 * large
    Z = states.X @ model.A.T + states.U @ model.B.T + model.state_bias
    assert np.abs(Z - states.Z).max(initial=0.0) <= 1e-12 * large
