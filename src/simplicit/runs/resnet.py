"""ResNet-20 for CIFAR-10, in the layout of the weights that akamaster/pytorch_resnet_cifar10 publishes.

He, Zhang, Ren and Sun, *Deep residual learning for image recognition*, 2016, §4.2: three stages of residual blocks at
16, 32 and 64 channels; shortcuts that change the shape take every second pixel and pad channels with zeros (option A),
so that they have no weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

#: ImageNet's mean and standard deviation of the three colours in [0, 1], with which the published weights were trained.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Normalize(nn.Module):
    """(x − mean)/std, channel by channel. Constants, not weights: they are not in the state_dict."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        normalized: Tensor = (images - self.mean) / self.std
        return normalized


class _Block(nn.Module):
    """y = relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.added = (channels - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))
        return functional.relu(branch + x)


class ResNet(nn.Module):
    """6n + 2 layers for images (m, 3, 32, 32) in [0, 1]; logits (m, classes).

    Parameters
    ----------
    blocks : int
        n, residual blocks of each stage.
    classes : int
    """

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.normalize = _Normalize()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(self.normalize(images))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(functional.avg_pool2d(x, x.shape[3]).flatten(1))
        return logits


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(channels_in, channels, stride)
    return nn.Sequential(first, *(_Block(channels, channels, 1) for _ in range(blocks - 1)))


def resnet20() -> ResNet:
    """The 20-layer network with 268,336 weights (0.27 million parameters), untrained."""
    return ResNet(3)
