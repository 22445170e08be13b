"""Small networks: every activation of torch.nn between linear layers, in modules and functions, and chains by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everyone calls it)
from torch import Tensor, nn

from networks.entry import SAMPLES, Inputs, Maker, of

MODULES: dict[str, Callable[[], nn.Module]] = {
    "elu": lambda: nn.ELU(0.7),
    "hardshrink": lambda: nn.Hardshrink(0.3),
    "hardsigmoid": nn.Hardsigmoid,
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.7),
    "hardswish": nn.Hardswish,
    "leaky-relu": lambda: nn.LeakyReLU(0.1),
    "log-sigmoid": nn.LogSigmoid,
    "prelu": nn.PReLU,
    "prelu-channels": lambda: nn.PReLU(6, init=0.1),
    "relu": nn.ReLU,
    "relu-inplace": lambda: nn.ReLU(inplace=True),
    "relu6": nn.ReLU6,
    "rrelu": nn.RReLU,
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(0.5),
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU(approximate="tanh"),
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": lambda: nn.Softplus(beta=2.0),
    "softshrink": lambda: nn.Softshrink(0.2),
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
    "tanhshrink": nn.Tanhshrink,
    "threshold": lambda: nn.Threshold(0.1, -0.2),
    "glu": lambda: nn.GLU(dim=1),
    "softmin": lambda: nn.Softmin(dim=1),
    "softmax": lambda: nn.Softmax(dim=1),
    "log-softmax": lambda: nn.LogSoftmax(dim=1),
}

CHAINS: dict[str, Callable[[Any], Any]] = {
    "chain-swish": lambda z: z * torch.sigmoid(z),
    "chain-quick-gelu": lambda z: z * torch.sigmoid(1.702 * z),
    "chain-gelu-erf": lambda z: 0.5 * z * (1 + torch.erf(z / 2**0.5)),
    "chain-gelu-new": lambda z: 0.5 * z * (1 + torch.tanh(0.7978845608 * (z + 0.044715 * z**3))),
    "chain-where": lambda z: torch.where(z > 0, z, 0.1 * z),
    "chain-sin-cos": lambda z: torch.cat([torch.sin(3 * z), torch.cos(3 * z)], dim=1),
    "chain-exp-log": lambda z: torch.log1p(torch.exp(-z.abs())) + z.clamp(min=0),
    "chain-gaussian": lambda z: torch.exp(-z.square()),
    "chain-sqrt": lambda z: torch.sqrt(z * z + 1),
    "chain-reciprocal": lambda z: 1 / (1 + z.abs()),
    "chain-maximum": lambda z: torch.maximum(z, 0.2 * z) - torch.minimum(z, torch.zeros_like(z)),
    "chain-sign-round": lambda z: torch.sign(z) * torch.floor(z.abs() * 4) / 4,
    "chain-squared-relu": lambda z: F.relu(z).square(),
    "chain-atan": lambda z: torch.atan(z) + torch.erf(z) + torch.sinh(z / 3),
}


def _module(make: Callable[[], nn.Module]) -> Maker:
    def made() -> tuple[nn.Module, Inputs]:
        layer = make()
        width = 3 if isinstance(layer, nn.GLU) else 6
        return nn.Sequential(nn.Linear(8, 6), layer, nn.Linear(width, 3)), torch.randn(SAMPLES, 8)

    return made


def _chain(name: str, function: Callable[[Any], Any]) -> Maker:
    width = 12 if name == "chain-sin-cos" else 6

    def forward(net: Any, x: Tensor) -> Any:
        return net.after(function(net.before(x)))

    return lambda: (of(forward, before=nn.Linear(8, 6), after=nn.Linear(width, 3)), torch.randn(SAMPLES, 8))


def _softmax2d() -> tuple[nn.Module, Inputs]:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax2d(), nn.Conv2d(4, 2, 3), nn.Flatten())
    return net, torch.randn(SAMPLES, 3, 8, 8)


def _prelu_images() -> tuple[nn.Module, Inputs]:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Conv2d(4, 2, 3), nn.Flatten())
    return net, torch.randn(SAMPLES, 3, 8, 8)


def _attention(batch_first: bool, masked: bool = False) -> Maker:
    def forward(net: Any, x: Tensor) -> Any:
        tokens = torch.tanh(net.before(x))
        tokens = tokens if batch_first else tokens.transpose(0, 1)
        mask = nn.Transformer.generate_square_subsequent_mask(5).to(x) if masked else None
        mixed = net.attention(tokens, tokens, tokens, need_weights=False, attn_mask=mask)[0]
        return net.after((mixed if batch_first else mixed.transpose(0, 1)).flatten(1))

    def made() -> tuple[nn.Module, Inputs]:
        attention = nn.MultiheadAttention(16, 2, batch_first=batch_first)
        net = of(forward, before=nn.Linear(8, 16), attention=attention, after=nn.Linear(80, 3))
        return net, torch.randn(SAMPLES, 5, 8)

    return made


def _attention_weights() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, x: Tensor) -> Any:
        mixed, weights = net.attention(x, x, x)
        return torch.cat([mixed.flatten(1), weights.flatten(1)], dim=1)

    return of(forward, attention=nn.MultiheadAttention(16, 4, batch_first=True)), torch.randn(SAMPLES, 5, 16)


def _padded_attention() -> tuple[nn.Module, Inputs]:
    def forward(net: Any, x: Tensor, padding: Tensor) -> Any:
        return net.attention(x, x, x, key_padding_mask=padding, need_weights=False)[0]

    padding = torch.arange(5) >= torch.randint(2, 6, (SAMPLES, 1))
    net = of(forward, attention=nn.MultiheadAttention(16, 4, batch_first=True, add_bias_kv=True))
    return net, {"x": torch.randn(SAMPLES, 5, 16), "padding": padding}


ACTIVATIONS: dict[str, Maker] = {
    **{name: _module(make) for name, make in MODULES.items()},
    **{name: _chain(name, function) for name, function in CHAINS.items()},
    "softmax2d": _softmax2d,
    "prelu-images": _prelu_images,
    "multihead-attention": _attention(batch_first=True),
    "multihead-attention-sequence-first": _attention(batch_first=False),
    "multihead-attention-causal": _attention(batch_first=True, masked=True),
    "multihead-attention-weights": _attention_weights,
    "multihead-attention-padded": _padded_attention,
}
