"""Small networks: every layer of torch.nn that has parameters or moves numbers, between linear ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from networks.entry import SAMPLES, Inputs, Maker, of


def between(layer: Callable[[], nn.Module], *shape: int, before: Callable[[], nn.Module] | None = None) -> Maker:
    """A network of ``before``, the layer, and a head of three outputs on images, sequences or vectors of a shape."""

    def make() -> tuple[nn.Module, Inputs]:
        body = nn.Sequential(*([before()] if before else []), layer(), nn.Flatten())
        inputs = torch.randn(SAMPLES, *shape)
        with torch.no_grad():
            width = body.eval()(inputs[:2]).shape[1]
        return nn.Sequential(*body, nn.Linear(width, 3)), inputs

    return make


def conv1d() -> nn.Module:
    """A convolution before a layer on sequences, (4, 12) to (6, 12)."""
    return nn.Sequential(nn.Conv1d(4, 6, 3, padding=1), nn.ReLU())


def conv2d() -> nn.Module:
    """A convolution before a layer on images, (3, 8, 8) to (8, 8, 8)."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())


def conv3d() -> nn.Module:
    """A convolution before a layer on volumes, (2, 6, 6, 6) to (4, 6, 6, 6)."""
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU())


def dense() -> nn.Module:
    """A linear layer before a layer on vectors, 8 to 16."""
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh())


on_lines = partial(between, before=conv1d)
on_images = partial(between, before=conv2d)
on_volumes = partial(between, before=conv3d)
on_vectors = partial(between, before=dense)

LINE, IMAGE, VOLUME = (4, 12), (3, 8, 8), (2, 6, 6, 6)

CONVOLUTIONS: dict[str, Maker] = {
    "linear": on_vectors(lambda: nn.Linear(16, 5), 8),
    "linear-tokens": between(lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU()), 5, 8),
    "identity-dropout": on_vectors(lambda: nn.Sequential(nn.Identity(), nn.Dropout(0.5), nn.AlphaDropout(0.2)), 8),
    "conv1d": on_lines(lambda: nn.Conv1d(6, 5, 3, stride=2, dilation=2, padding=2), *LINE),
    "conv1d-circular": on_lines(lambda: nn.Conv1d(6, 5, 3, padding=2, padding_mode="circular"), *LINE),
    "conv2d-grouped": on_images(lambda: nn.Conv2d(8, 12, (3, 5), groups=4, padding=(1, 2)), *IMAGE),
    "conv2d-depthwise-same": on_images(lambda: nn.Conv2d(8, 8, 4, groups=8, padding="same"), *IMAGE),
    "conv2d-reflect": on_images(lambda: nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect", bias=False), *IMAGE),
    "conv3d": on_volumes(lambda: nn.Conv3d(4, 3, 3, stride=2, padding=1), *VOLUME),
    "conv-transpose1d": on_lines(lambda: nn.ConvTranspose1d(6, 4, 3, stride=2, output_padding=1), *LINE),
    "conv-transpose2d": on_images(lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, groups=2, padding=1), *IMAGE),
    "conv-transpose3d": on_volumes(lambda: nn.ConvTranspose3d(4, 2, 3, stride=2), *VOLUME),
    "fold-unfold": on_images(lambda: nn.Sequential(nn.Unfold(2, stride=2), nn.Fold((8, 8), 2, stride=2)), *IMAGE),
    "unfold-overlapping": on_images(lambda: nn.Unfold(3, padding=1), *IMAGE),
    "bilinear": lambda: (
        of(lambda s, a, b: s.head(torch.relu(s.mix(a, b))), mix=nn.Bilinear(8, 6, 5), head=nn.Linear(5, 3)),
        (torch.randn(SAMPLES, 8), torch.randn(SAMPLES, 6)),
    ),
    "pixel-shuffle": on_images(lambda: nn.PixelShuffle(2), *IMAGE),
    "pixel-unshuffle": on_images(lambda: nn.PixelUnshuffle(2), *IMAGE),
    "channel-shuffle": on_images(lambda: nn.ChannelShuffle(4), *IMAGE),
    "upsample-nearest": on_images(lambda: nn.Upsample(scale_factor=2), *IMAGE),
    "upsample-bilinear": on_images(lambda: nn.Upsample(size=(11, 13), mode="bilinear"), *IMAGE),
    "upsample-bicubic": on_images(lambda: nn.Upsample(scale_factor=2, mode="bicubic", align_corners=True), *IMAGE),
    "upsample-linear": on_lines(lambda: nn.Upsample(scale_factor=2, mode="linear"), *LINE),
    "upsample-trilinear": on_volumes(lambda: nn.Upsample(scale_factor=2, mode="trilinear"), *VOLUME),
    "pad-reflection": on_images(lambda: nn.ReflectionPad2d(2), *IMAGE),
    "pad-replication": on_lines(lambda: nn.ReplicationPad1d(3), *LINE),
    "pad-zero-constant": on_images(lambda: nn.Sequential(nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.7)), *IMAGE),
    "pad-circular": on_volumes(lambda: nn.CircularPad3d(1), *VOLUME),
    "flatten-unflatten": on_images(
        lambda: nn.Sequential(nn.Flatten(1, 2), nn.Unflatten(1, (4, 16)), nn.ReLU()), *IMAGE
    ),
}

NORMS: dict[str, Maker] = {
    "batch-norm1d": on_vectors(lambda: nn.BatchNorm1d(16), 8),
    "batch-norm1d-lines": on_lines(lambda: nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()), *LINE),
    "batch-norm2d": on_images(lambda: nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()), *IMAGE),
    "batch-norm3d": on_volumes(lambda: nn.BatchNorm3d(4, affine=False), *VOLUME),
    "sync-batch-norm": on_images(lambda: nn.SyncBatchNorm(8), *IMAGE),
    "layer-norm": on_vectors(lambda: nn.LayerNorm(16), 8),
    "layer-norm-on-input": between(lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 6), nn.GELU()), 5, 8),
    "layer-norm-images": on_images(lambda: nn.LayerNorm([8, 8, 8], bias=False), *IMAGE),
    "group-norm": on_images(lambda: nn.Sequential(nn.GroupNorm(4, 8), nn.ReLU()), *IMAGE),
    "instance-norm1d": on_lines(lambda: nn.InstanceNorm1d(6, affine=True), *LINE),
    "instance-norm2d": on_images(lambda: nn.InstanceNorm2d(8), *IMAGE),
    "instance-norm2d-statistics": on_images(
        lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), *IMAGE
    ),
    "instance-norm3d": on_volumes(lambda: nn.InstanceNorm3d(4, affine=True), *VOLUME),
    "rms-norm": on_vectors(lambda: nn.RMSNorm(16), 8),
    "local-response-norm": on_images(lambda: nn.LocalResponseNorm(3), *IMAGE),
    "cross-map-lrn": on_images(lambda: nn.CrossMapLRN2d(3), *IMAGE),
    "weight-norm": on_vectors(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 6)), 8),
    "spectral-norm": on_images(lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 4, 3)), *IMAGE),
}

POOLS: dict[str, Maker] = {
    "max-pool1d": on_lines(lambda: nn.MaxPool1d(2), *LINE),
    "max-pool2d": on_images(lambda: nn.MaxPool2d(3, 2, padding=1), *IMAGE),
    "max-pool2d-ceil": on_images(lambda: nn.MaxPool2d(3, 2, ceil_mode=True), *IMAGE),
    "max-pool2d-signed": on_images(lambda: nn.Sequential(nn.Conv2d(8, 6, 3), nn.MaxPool2d(2)), *IMAGE),
    "max-pool3d": on_volumes(lambda: nn.MaxPool3d(2), *VOLUME),
    "avg-pool1d": on_lines(lambda: nn.AvgPool1d(3, 2, padding=1, count_include_pad=False), *LINE),
    "avg-pool2d": on_images(lambda: nn.AvgPool2d(2), *IMAGE),
    "avg-pool3d": on_volumes(lambda: nn.AvgPool3d(2), *VOLUME),
    "lp-pool1d": on_lines(lambda: nn.LPPool1d(2, 2), *LINE),
    "lp-pool2d": on_images(lambda: nn.LPPool2d(3, 2), *IMAGE),
    "adaptive-avg-pool1d": on_lines(lambda: nn.AdaptiveAvgPool1d(5), *LINE),
    "adaptive-avg-pool2d": on_images(lambda: nn.AdaptiveAvgPool2d((3, 1)), *IMAGE),
    "adaptive-avg-pool3d": on_volumes(lambda: nn.AdaptiveAvgPool3d(4), *VOLUME),
    "adaptive-max-pool1d": on_lines(lambda: nn.AdaptiveMaxPool1d(4), *LINE),
    "adaptive-max-pool2d": on_images(lambda: nn.AdaptiveMaxPool2d((3, 2)), *IMAGE),
    "adaptive-max-pool3d": on_volumes(lambda: nn.AdaptiveMaxPool3d(2), *VOLUME),
    "max-unpool2d": on_images(lambda: of(lambda s, x: s.up(*s.down(x)), down=_indexed(), up=nn.MaxUnpool2d(2)), *IMAGE),
}


def _indexed() -> nn.Module:
    return nn.MaxPool2d(2, return_indices=True)


def _pair(measure: Callable[[], nn.Module]) -> Maker:
    """Two vectors through one layer, and how near they are."""

    def forward(net: Any, a: Tensor, b: Tensor) -> Any:
        return net.measure(torch.relu(net.layer(a)), torch.relu(net.layer(b)))

    return lambda: (
        of(forward, layer=nn.Linear(8, 6), measure=measure()),
        (torch.randn(SAMPLES, 8), torch.randn(SAMPLES, 8)),
    )


DISTANCES: dict[str, Maker] = {
    "cosine-similarity": _pair(nn.CosineSimilarity),
    "pairwise-distance": _pair(nn.PairwiseDistance),
    "pairwise-distance-l1": _pair(lambda: nn.PairwiseDistance(p=1, keepdim=True)),
}

LAYERS = CONVOLUTIONS | NORMS | POOLS | DISTANCES
