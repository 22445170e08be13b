"""Two trained networks of images by the names of their stored weights: a vision transformer, and another ResNet-20."""

from __future__ import annotations

from torch import Tensor, cat, nn, relu, zeros
from torch.nn.functional import avg_pool2d, gelu, scaled_dot_product_attention

WIDTH, HEADS, BLOCKS, PATCH, TOKENS = 64, 4, 4, 7, 16


class _TransformerBlock(nn.Module):
    """x + attention(n1(x)), then x + mlp(n2(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        m, t, _ = x.shape
        q, k, v = self.qkv(self.n1(x)).reshape(m, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(m, t, WIDTH)
        x = x + self.proj(mixed)
        return x + self.fc2(gelu(self.fc1(self.n2(x))))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """Of Fashion-MNIST images (m, 1, 28, 28) in [0, 1], logits (m, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.cls, self.pos = nn.Parameter(zeros(1, 1, WIDTH)), nn.Parameter(zeros(1, TOKENS + 1, WIDTH))
        self.blocks = nn.ModuleList(_TransformerBlock() for _ in range(BLOCKS))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])  # type: ignore[no-any-return]


class _ResidualBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), with a convolution where the shape changes."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if before != channels:
            shortcut = nn.Conv2d(before, channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.downsample(x))


class WoodFisherResNet20(nn.Module):
    """ResNet-20 with the names and shortcuts of ``resnet20_cifar10.pth.tar``, which WoodFisher, CBS and CHITA prune.

    Of images (m, 3, 32, 32) in [0, 1], scaled to [−1, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_ResidualBlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(_ResidualBlock(16, 32, 2), *(_ResidualBlock(32, 32, 1) for _ in range(2)))
        self.layer3 = nn.Sequential(_ResidualBlock(32, 64, 2), *(_ResidualBlock(64, 64, 1) for _ in range(2)))
        self.fc = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.bn1(self.conv1((images - 0.5) / 0.5)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(avg_pool2d(x, 8).flatten(1))  # type: ignore[no-any-return]
