"""Small networks: what people write by hand around layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (as everyone calls it)
from torch import Tensor, nn

from networks.entry import SAMPLES, Inputs, Maker, of


def vectors(forward: Any, width: int = 8, **modules: nn.Module) -> tuple[nn.Module, Inputs]:
    """A network on vectors."""
    return of(forward, **modules), torch.randn(SAMPLES, width)


def images(forward: Any, **modules: nn.Module) -> tuple[nn.Module, Inputs]:
    """A network on images of 3 x 8 x 8."""
    return of(forward, **modules), torch.randn(SAMPLES, 3, 8, 8)


def tokens(forward: Any, **modules: nn.Module | nn.Parameter) -> tuple[nn.Module, Inputs]:
    """A network on five tokens of 8 numbers."""
    return of(forward, **modules), torch.randn(SAMPLES, 5, 8)


def _stem() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())


def _squeeze_excite() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = s.stem(x)
        x = x * torch.sigmoid(s.up(torch.relu(s.down(x.mean((2, 3), keepdim=True)))))
        return s.head(x.flatten(1))

    return images(forward, stem=_stem(), down=nn.Conv2d(8, 2, 1), up=nn.Conv2d(2, 8, 1), head=nn.Linear(512, 3))


def _spatial_attention() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = s.stem(x)
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return s.head((x * torch.sigmoid(s.mix(both))).flatten(1))

    return images(forward, stem=_stem(), mix=nn.Conv2d(2, 1, 3, padding=1), head=nn.Linear(512, 3))


def _highway() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        gate = torch.sigmoid(s.gate(x))
        return s.head(gate * torch.relu(s.change(x)) + (1 - gate) * x)

    return vectors(forward, gate=nn.Linear(8, 8), change=nn.Linear(8, 8), head=nn.Linear(8, 3))


def _swiglu() -> tuple[nn.Module, Inputs]:
    return vectors(
        lambda s, x: s.down(F.silu(s.gate(x)) * s.up(x)),
        gate=nn.Linear(8, 12),
        up=nn.Linear(8, 12),
        down=nn.Linear(12, 3),
    )


def _residual() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = s.stem(x)
        return s.head(F.relu(x + s.norm(s.b(F.relu(s.a(x))))).flatten(1))

    layers = {"a": nn.Conv2d(8, 8, 3, padding=1), "b": nn.Conv2d(8, 8, 3, padding=1), "norm": nn.BatchNorm2d(8)}
    return images(forward, stem=_stem(), head=nn.Linear(512, 3), **layers)


def _dense_concat() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = s.stem(x)
        x = torch.cat([x, F.relu(s.a(x))], 1)
        x = torch.concat([x, F.relu(s.b(x))], dim=1)
        return s.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    return images(forward, stem=_stem(), a=nn.Conv2d(8, 4, 3, padding=1), b=nn.Conv2d(12, 4, 1), head=nn.Linear(16, 3))


def _unet() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        wide = s.stem(x)
        deep = F.relu(s.down(F.max_pool2d(wide, 2)))
        deep = F.interpolate(deep, size=wide.shape[-2:], mode="bilinear", align_corners=False)
        return s.head(torch.cat([wide, deep], 1))

    return images(forward, stem=_stem(), down=nn.Conv2d(8, 8, 3, padding=1), head=nn.Conv2d(16, 2, 1))


def _layer_norm_by_hand() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = s.a(x)
        mean, var = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return s.b((x - mean) / torch.sqrt(var + 1e-5))

    return vectors(forward, a=nn.Linear(8, 12), b=nn.Linear(12, 3))


def _rms_norm_by_hand() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        x = s.a(x)
        return s.b(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    return vectors(forward, a=nn.Linear(8, 12), b=nn.Linear(12, 3))


def _unit_vectors() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        return F.linear(F.normalize(torch.relu(s.a(x)), dim=1), F.normalize(s.b.weight, dim=1)) * 4.0

    return vectors(forward, a=nn.Linear(8, 12), b=nn.Linear(12, 3, bias=False))


def _input_norm() -> tuple[nn.Module, Inputs]:
    return vectors(lambda s, x: s.a((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-3)), a=nn.Linear(8, 3))


def _mixture(top: int | None) -> Maker:
    def forward(s: Any, x: Tensor) -> Any:
        scores = s.router(x)
        if top is not None:
            values, places = scores.topk(top, dim=-1)
            scores = torch.full_like(scores, float("-inf")).scatter(-1, places, values)
        weights = scores.softmax(-1)
        experts = torch.stack([torch.relu(expert(x)) for expert in s.experts], dim=1)
        return (weights.unsqueeze(-1) * experts).sum(1)

    return lambda: vectors(forward, router=nn.Linear(8, 4), experts=nn.ModuleList(nn.Linear(8, 5) for _ in range(4)))


def _ensemble() -> tuple[nn.Module, Inputs]:
    return vectors(
        lambda s, x: torch.stack([s.a(x), F.relu(s.b(x)), torch.tanh(s.a(x))]).mean(0),
        a=nn.Linear(8, 3),
        b=nn.Linear(8, 3),
    )


def _folded() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        frames = s.cnn(x.reshape(-1, 3, 8, 8)).reshape(x.shape[0], 4, -1)
        return s.head(frames.flatten(1))

    cnn = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten())
    return of(forward, cnn=cnn, head=nn.Linear(144, 3)), torch.randn(SAMPLES, 4, 3, 8, 8)


def _shared() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        for _ in range(3):
            x = torch.tanh(s.a(x)) + x
        return F.linear(x, s.a.weight.t())

    return vectors(forward, a=nn.Linear(8, 8))


def _siamese() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, a: Tensor, b: Tensor) -> Any:
        a, b = torch.relu(s.a(a)), torch.relu(s.a(b))
        return s.head(torch.cat([a, b, (a - b).abs(), a * b], dim=1))

    return of(forward, a=nn.Linear(8, 6), head=nn.Linear(24, 1)), (torch.randn(SAMPLES, 8), torch.randn(SAMPLES, 8))


def _several_outputs() -> tuple[nn.Module, Inputs]:
    return vectors(lambda s, x: (s.a(F.relu(x)), {"logits": s.b(x)}), a=nn.Linear(8, 3), b=nn.Linear(8, 2))


def _integer_first() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        logits = s.b(torch.relu(s.a(x)))
        return {"label": logits.argmax(1), "logits": logits}

    return vectors(forward, a=nn.Linear(8, 6), b=nn.Linear(6, 3))


def _constant_beside() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor, scale: float = 1.0, hidden: bool = False) -> Any:
        h = torch.relu(s.a(x)) * scale
        return (s.b(h), h) if hidden else s.b(h)

    net = of(forward, a=nn.Linear(8, 6), b=nn.Linear(6, 3))
    return net, {"x": torch.randn(SAMPLES, 8), "scale": 2.0, "hidden": True}


def _autoencoder() -> tuple[nn.Module, Inputs]:
    sampled = {"code": nn.Sequential(nn.Linear(8, 6), nn.ReLU()), "mean": nn.Linear(6, 2), "spread": nn.Linear(6, 2)}

    def forward(s: Any, x: Tensor) -> Any:
        h = s.code(x)
        mean, spread = s.mean(h), torch.exp(0.5 * s.spread(h).clamp(-5, 5))
        return torch.sigmoid(s.back(mean)), mean, spread

    return vectors(forward, 8, back=nn.Linear(2, 8), **sampled)


def _fourier_features() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        turns = x.unsqueeze(-1) * (2.0 ** torch.arange(4, dtype=x.dtype))
        features = torch.cat([x, turns.sin().flatten(1), turns.cos().flatten(1)], dim=1)
        return s.b(F.softplus(s.a(features)))

    return vectors(forward, a=nn.Linear(72, 10), b=nn.Linear(10, 3))


def _siren() -> tuple[nn.Module, Inputs]:
    return vectors(lambda s, x: s.b(torch.sin(5 * s.a(x))), 2, a=nn.Linear(2, 16), b=nn.Linear(16, 3))


def _cross_features() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        y = x
        for layer in s.layers:
            y = x * layer(y) + y
        pairs = 0.5 * (s.factors(x).square() - F.linear(x.square(), s.factors.weight.square())).sum(1, keepdim=True)
        return s.head(y) + pairs

    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
    return vectors(forward, layers=layers, factors=nn.Linear(8, 4, bias=False), head=nn.Linear(8, 1))


def _graph_convolution() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor, edges: Tensor) -> Any:
        mean = edges / edges.sum(-1, keepdim=True)
        return s.b(mean @ torch.relu(s.a(mean @ x))).mean(1)

    edges = ((torch.rand(SAMPLES, 5, 5) < 0.5) | torch.eye(5, dtype=torch.bool)).float()
    return of(forward, a=nn.Linear(8, 6), b=nn.Linear(6, 3)), (torch.randn(SAMPLES, 5, 8), edges)


def _deep_sets() -> tuple[nn.Module, Inputs]:
    return tokens(
        lambda s, x: s.b(torch.cat([(h := torch.relu(s.a(x))).sum(1), h.max(dim=1).values], 1)),
        a=nn.Linear(8, 6),
        b=nn.Linear(12, 3),
    )


def _generated_weights() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor, condition: Tensor) -> Any:
        scale, shift = s.film(condition).chunk(2, dim=1)
        return s.b(torch.relu((1 + scale) * s.a(x) + shift))

    net = of(forward, a=nn.Linear(8, 6), b=nn.Linear(6, 3), film=nn.Linear(4, 12))
    return net, (torch.randn(SAMPLES, 8), torch.randn(SAMPLES, 4))


def _sorted_heads() -> tuple[nn.Module, Inputs]:
    return vectors(
        lambda s, x: s.b(torch.sort(s.a(x), dim=1, descending=True).values[:, :4]), a=nn.Linear(8, 6), b=nn.Linear(4, 3)
    )


def _maxout() -> tuple[nn.Module, Inputs]:
    return vectors(lambda s, x: s.b(s.a(x).view(x.shape[0], 6, 2).amax(2)), a=nn.Linear(8, 12), b=nn.Linear(6, 3))


def _cumulative() -> tuple[nn.Module, Inputs]:
    return tokens(
        lambda s, x: torch.cumsum(torch.relu(s.a(x)), dim=1) / torch.arange(1, 6).view(1, 5, 1), a=nn.Linear(8, 3)
    )


def _soft_tree() -> tuple[nn.Module, Inputs]:
    def forward(s: Any, x: Tensor) -> Any:
        p = torch.sigmoid(s.splits(x))
        left, right = p[:, :1], 1 - p[:, :1]
        leaves = torch.cat([left * p[:, 1:2], left * (1 - p[:, 1:2]), right * p[:, 2:], right * (1 - p[:, 2:])], dim=1)
        return leaves @ s.leaves.weight.t()

    return vectors(forward, splits=nn.Linear(8, 3), leaves=nn.Linear(4, 2, bias=False))


def _prototypes() -> tuple[nn.Module, Inputs]:
    return vectors(
        lambda s, x: -torch.cdist(torch.tanh(s.a(x)), s.points.weight), a=nn.Linear(8, 4), points=nn.Linear(4, 5)
    )


class _Star(nn.Module):
    """A wrapper, as frameworks put around networks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Pass everything on."""
        return self.net(*inputs, **named)


def _wrapped() -> tuple[nn.Module, Inputs]:
    return _Star(), torch.randn(SAMPLES, 8)


IDIOMS: dict[str, Maker] = {
    "forward-star": _wrapped,
    "squeeze-excite": _squeeze_excite,
    "spatial-attention": _spatial_attention,
    "highway": _highway,
    "swiglu": _swiglu,
    "residual-block": _residual,
    "dense-concat": _dense_concat,
    "u-net": _unet,
    "layer-norm-by-hand": _layer_norm_by_hand,
    "rms-norm-by-hand": _rms_norm_by_hand,
    "unit-vectors": _unit_vectors,
    "normalised-input": _input_norm,
    "mixture-soft": _mixture(None),
    "mixture-top-2": _mixture(2),
    "ensemble-stack-mean": _ensemble,
    "frames-folded-into-batch": _folded,
    "shared-weights": _shared,
    "siamese": _siamese,
    "several-outputs": _several_outputs,
    "label-before-logits": _integer_first,
    "constants-beside": _constant_beside,
    "variational-autoencoder": _autoencoder,
    "fourier-features": _fourier_features,
    "siren": _siren,
    "cross-features": _cross_features,
    "graph-convolution": _graph_convolution,
    "deep-sets": _deep_sets,
    "film": _generated_weights,
    "sorted-states": _sorted_heads,
    "maxout": _maxout,
    "cumulative-sum": _cumulative,
    "soft-tree": _soft_tree,
    "prototypes": _prototypes,
}
