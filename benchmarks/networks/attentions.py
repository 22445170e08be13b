"""Small networks: attention, tokens and patches by hand."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everyone calls it)
from torch import Tensor, nn

from networks.entry import SAMPLES, Inputs, Maker, of


def tokens(forward: Any, **modules: nn.Module | nn.Parameter) -> tuple[nn.Module, Inputs]:
    """A network on five tokens of 8 numbers."""
    return of(forward, **modules), torch.randn(SAMPLES, 5, 8)


def _split_heads(x: Tensor) -> Tensor:
    return x.view(x.shape[0], x.shape[1], 2, -1).transpose(1, 2)


def _attention_by_hand() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        q, k, v = map(_split_heads, s.qkv(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
        mixed = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v
        return s.out(mixed.transpose(1, 2).reshape(x.shape[0], 5, -1))

    return tokens(forward, qkv=nn.Linear(8, 24), out=nn.Linear(8, 3))


def _attention_masked() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor, mask: Tensor) -> Any:
        q, k, v = map(_split_heads, (s.q(x), s.k(x), s.v(x)))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e4
        return s.out((F.softmax(q @ k.transpose(-2, -1) * 0.5 + bias, dim=-1) @ v).transpose(1, 2).flatten(1))

    net = of(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8), out=nn.Linear(40, 3))
    mask = (torch.arange(5) < torch.randint(2, 6, (SAMPLES, 1))).long()
    return net, {"x": torch.randn(SAMPLES, 5, 8), "mask": mask}


def _attention_einsum() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        q, k, v = s.q(x), s.k(x), s.v(x)
        weights = torch.softmax(torch.einsum("bid,bjd->bij", q, k) / 8**0.5, dim=-1)
        return torch.einsum("bij,bjd->bid", weights, v)

    return tokens(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8))


def _attention_sdpa() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        q, k, v = map(_split_heads, s.qkv(x).split(8, dim=-1))
        return s.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))

    return tokens(forward, qkv=nn.Linear(8, 24), out=nn.Linear(8, 3))


def _attention_pooling() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = torch.tanh(s.a(x))
        return s.head((torch.softmax(s.score(x), dim=1) * x).sum(1))

    return tokens(forward, a=nn.Linear(8, 6), score=nn.Linear(6, 1), head=nn.Linear(6, 3))


def _rotary() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        angles = torch.outer(torch.arange(5, dtype=x.dtype), 100.0 ** (-torch.arange(4, dtype=x.dtype) / 4))
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

        def turned(z: Tensor) -> Tensor:
            a, b = z.chunk(2, dim=-1)
            return z * cos + torch.cat([-b, a], dim=-1) * sin

        return F.scaled_dot_product_attention(turned(s.q(x)), turned(s.k(x)), x)

    return tokens(forward, q=nn.Linear(8, 8), k=nn.Linear(8, 8))


def _patches() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = s.cut(x).flatten(2).transpose(1, 2)
        x = torch.cat([s.token.expand(x.shape[0], -1, -1), x], dim=1) + s.places
        return s.head(s.layer(x)[:, 0])

    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, activation="gelu")
    net = of(
        forward,
        cut=nn.Conv2d(3, 16, 4, 4),
        token=nn.Parameter(torch.randn(1, 1, 16)),
        places=nn.Parameter(torch.randn(1, 5, 16)),
        layer=layer,
        head=nn.Linear(16, 3),
    )
    return net, torch.randn(SAMPLES, 3, 8, 8)


def _mixer() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = x + s.across(s.norm(x).transpose(1, 2)).transpose(1, 2)
        return s.head((x + s.within(s.norm(x))).mean(1))

    mlps = {
        "across": nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 5)),
        "within": nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)),
    }
    return tokens(forward, norm=nn.LayerNorm(8), head=nn.Linear(8, 3), **mlps)


def _shifted_windows() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = torch.roll(s.stem(x), shifts=(-2, -2), dims=(2, 3)).permute(0, 2, 3, 1)
        windows = x.view(-1, 2, 4, 2, 4, 8).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 8)
        mixed = s.mix(windows, windows, windows, need_weights=False)[0].view(-1, 2, 2, 4, 4, 8)
        return s.head(mixed.permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 8).mean((1, 2)))

    stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    return _images(forward, stem=stem, mix=nn.MultiheadAttention(8, 2, batch_first=True), head=nn.Linear(8, 3))


def _images(forward: Any, **modules: nn.Module) -> tuple[nn.Module, Inputs]:
    return of(forward, **modules), torch.randn(SAMPLES, 3, 8, 8)


ATTENTIONS: dict[str, Maker] = {
    "attention-by-hand-causal": _attention_by_hand,
    "attention-by-hand-padded": _attention_masked,
    "attention-einsum": _attention_einsum,
    "attention-sdpa": _attention_sdpa,
    "attention-pooling": _attention_pooling,
    "rotary-positions": _rotary,
    "vision-transformer": _patches,
    "mlp-mixer": _mixer,
    "shifted-windows": _shifted_windows,
}
