"""Networks for images and series, as users write them: each with the shape of a sample."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["IMAGE_NETWORKS", "randomised"]


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5)):
                if tensor is not None:
                    tensor.data.copy_(low + torch.rand(tensor.shape, generator=generator))
    return net.eval()


def conv_bn(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


def vgg() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 6), nn.MaxPool2d(2), conv_bn(6, 8), conv_bn(8, 8), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 4, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5),
    )  # fmt: skip


class LeNet(nn.Module):
    """Functional forms throughout, with max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.fc1, self.fc2 = nn.Linear(6 * 2 * 2, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.relu_(functional.max_pool2d(self.conv2(x), 2, ceil_mode=True))
        return self.fc2(torch.tanh(self.fc1(torch.flatten(x, 1))))


class Block(nn.Module):
    """A residual block: activation after or before the addition, and a shortcut of one of several kinds."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str, pre: bool = False) -> None:
        super().__init__()
        self.inputs, self.outputs, self.stride, self.kind, self.pre = inputs, outputs, stride, shortcut, pre
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs if pre else outputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        if shortcut == "projection":
            self.projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def shortcut(self, x: Tensor) -> Tensor:
        if self.kind == "projection":
            return self.projection(x)
        if self.kind == "pooled":
            x = functional.avg_pool2d(x, self.stride)
        elif self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        before = (self.outputs - self.inputs) // 2
        return functional.pad(x, (0, 0, 0, 0, before, self.outputs - self.inputs - before))

    def forward(self, x: Tensor) -> Tensor:
        if self.pre:
            y = self.conv1(functional.relu(self.bn1(x)))
            return self.conv2(functional.relu(self.bn2(y))) + self.shortcut(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


def resnet(shortcut: str, pre: bool = False) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        body = [Block(4, 4, 1, shortcut, pre), Block(4, 8, 2, shortcut, pre), Block(8, 8, 1, shortcut, pre)]
        head = [nn.BatchNorm2d(8), nn.ReLU()] if pre else []
        return nn.Sequential(
            conv_bn(3, 4, act=not pre), *body, *head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        )

    return make


class Inverted(nn.Module):
    """MobileNetV2's block: wide by a 1 x 1, by channel, and narrow again without an activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: type[nn.Module] = nn.ReLU6) -> None:
        super().__init__()
        wide = 2 * inputs
        self.same = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), activation(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation(),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.same else self.layers(x)


def mobile() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 4, stride=2), Inverted(4, 4, 1), Inverted(4, 6, 2), Inverted(6, 6, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


def mobile_v1() -> nn.Module:
    layers = [conv_bn(3, 4), conv_bn(4, 4, groups=4), conv_bn(4, 8, 1), conv_bn(8, 8, stride=2, groups=8)]
    return nn.Sequential(*layers, conv_bn(8, 8, 1), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, 5))


class Mixer(nn.Module):
    """MLP-Mixer without its norms: tokens mixed by transposing."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.tokens = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 4))
        self.channels = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(x)
        return self.head(x.mean(dim=1))


class Dense(nn.Module):
    """DenseNet: every layer sees all before it, side by side; a transition with pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 3 * k) for k in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(4 + 3 * k, 3, 3, padding=1, bias=False) for k in range(3))
        self.norm, self.transition = nn.BatchNorm2d(13), nn.Conv2d(13, 6, 1, bias=False)
        self.last_norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.first(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            seen.append(conv(functional.relu(norm(torch.cat(seen, 1)))))
        x = functional.avg_pool2d(self.transition(functional.relu(self.norm(torch.cat(seen, 1)))), 2)
        return self.head(functional.relu(self.last_norm(x)).mean((2, 3)))


class Inception(nn.Module):
    """Branches of different kernels, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = (
            nn.Conv2d(3, 2, 1),
            nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 3, 3, padding=1)),
        )
        self.five, self.pooled = nn.Conv2d(3, 2, 5, padding=2), nn.Conv2d(3, 2, 1)
        self.head = nn.Conv2d(9, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooled(functional.max_pool2d(x, 3, 1, 1))
        x = functional.relu(torch.cat([self.one(x), self.three(x), self.five(x), pooled], 1))
        return functional.adaptive_avg_pool2d(self.head(x), 1).flatten(1)


class Shuffle(nn.Module):
    """ShuffleNet: grouped 1 x 1 convolutions, channels shuffled between them; half of the channels pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv_bn(3, 8)
        self.into, self.by_channel = conv_bn(4, 4, 1, groups=2), conv_bn(4, 4, groups=4, act=False)
        self.out, self.head = conv_bn(4, 4, 1, groups=2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        right = self.out(functional.channel_shuffle(self.by_channel(self.into(right)), 2))
        x = torch.cat([left, right], 1)
        m, _, height, width = x.shape
        x = x.view(m, 2, 4, height, width).transpose(1, 2).reshape(m, 8, height, width)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Down and up again, with connections across; an image comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.up = conv_bn(2, 4), conv_bn(4, 6), nn.ConvTranspose2d(6, 4, 2, 2)
        self.last = nn.Conv2d(8, 2, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        first = self.down(x)
        return self.last(
            torch.cat([first, functional.leaky_relu(self.up(self.deep(functional.max_pool2d(first, 2))))], 1)
        )


class Temporal(nn.Module):
    """A causal convolution over time with dilation and residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 4, 1)
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 3, dilation=2**k) for k in range(3))
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + functional.relu(layer(functional.pad(x, (2 * layer.dilation[0], 0))))
        return self.head(self.norm(x)[..., -1])


class Recurrent(nn.Module):
    """One convolution used again and again, like a recurrent network's."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(3 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        drive = self.into(x)
        state = self.act(drive.clone())
        for _ in range(3):
            state = self.act(drive + self.again(state))
        return self.head(state.flatten(1))


class Squeeze(nn.Module):
    """SqueezeNet's fire modules, ceil-mode pooling, and a convolution for a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.squeeze, self.one, self.three = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.act, self.pool, self.head = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(self.pool(self.act(self.first(x))))
        x = self.act(x)
        x = torch.cat([self.act(self.one(x)), self.act(self.three(x))], 1)
        return functional.avg_pool2d(self.head(x), 3).flatten(1)


def normalised() -> nn.Module:
    """Normalisation inside, and padding of every mode."""

    class Normalise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6])[:, None, None])
            self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25])[:, None, None])

        def forward(self, x: Tensor) -> Tensor:
            return (x - self.mean) / self.std

    modes: Sequence[str] = ("zeros", "reflect", "replicate", "circular")
    convolutions = [nn.Conv2d(3, 3, 3, padding=1, padding_mode=mode) for mode in modes]
    return nn.Sequential(Normalise(), *(layer for conv in convolutions for layer in (conv, nn.ReLU())), nn.Flatten())


def allconv() -> nn.Module:
    """Convolutions only, among them some with an even kernel, dilation and groups."""
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(2, 4, 2, stride=2), act1=nn.LeakyReLU(0.1),
            second=nn.Conv2d(4, 6, 3, dilation=2, padding=2, groups=2),
            act2=nn.SiLU(), third=nn.ConvTranspose2d(6, 3, 3, stride=2, padding=1, output_padding=1), act3=nn.Tanh(),
            last=nn.Conv2d(3, 2, 1), out=nn.AdaptiveMaxPool2d(2),
        )
    )  # fmt: skip


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(3, 2, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(2, 3),
    )  # fmt: skip


def series() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 5, 4, stride=2, padding=1), nn.BatchNorm1d(5), nn.ReLU(), nn.MaxPool1d(3, 2, 1),
        nn.Conv1d(5, 5, 3, groups=5), nn.ELU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip


def upsampling() -> nn.Module:
    """A decoder: from a vector to an image."""
    return nn.Sequential(
        nn.Linear(5, 12), nn.ReLU(), nn.Unflatten(1, (3, 2, 2)), nn.Upsample(scale_factor=2),
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.PixelShuffle(2), nn.Sigmoid(),
    )  # fmt: skip


class Highway(nn.Module):
    """Maxout and clamped sums, over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 6, 3, padding=1), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        pieces = self.conv(x).unflatten(1, (3, 2)).amax(2)
        return self.head(pieces.clamp(-0.5, 1.5).amax((2, 3)))


IMAGE_NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vgg": (vgg, (3, 8, 8)),
    "lenet": (LeNet, (1, 13, 13)),
    "resnet, option A": (resnet("padded"), (3, 8, 8)),
    "resnet, 1 x 1 shortcuts": (resnet("projection"), (3, 8, 8)),
    "resnet, pooled shortcuts": (resnet("pooled"), (3, 8, 8)),
    "resnet, activation before": (resnet("projection", pre=True), (3, 8, 8)),
    "resnet, activation before, option A": (resnet("padded", pre=True), (3, 8, 8)),
    "mobilenet": (mobile_v1, (3, 8, 8)),
    "mobilenet, inverted": (mobile, (3, 12, 12)),
    "mixer": (Mixer, (3, 8, 8)),
    "densenet": (Dense, (3, 6, 6)),
    "inception": (Inception, (3, 6, 6)),
    "shufflenet": (Shuffle, (3, 6, 6)),
    "squeezenet": (Squeeze, (3, 15, 15)),
    "u-net": (UNet, (2, 6, 8)),
    "temporal": (Temporal, (2, 12)),
    "recurrent": (Recurrent, (1, 4, 4)),
    "normalised": (normalised, (3, 6, 5)),
    "all convolutions": (allconv, (2, 8, 8)),
    "volumes": (volumes, (1, 4, 4, 4)),
    "series": (series, (3, 17)),
    "decoder": (upsampling, (5,)),
    "maxout": (Highway, (2, 5, 5)),
}
