"""Patches against torch's own convolution and unfold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from simplicit.training.channels.patches import Geometry, channels_first, patches


@pytest.mark.parametrize("stride", [1, (2, 3)])
@pytest.mark.parametrize("padding", [0, (1, 2), "same", "valid"])
@pytest.mark.parametrize("dilation", [1, (2, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_is_its_kernel_times_the_patches(
    stride: object, padding: object, dilation: object, groups: int
) -> None:
    if padding == "same" and stride != 1:
        pytest.skip("torch has no such convolution")
    kernel = (3, 5) if padding == "same" else (3, 2)  # torch warns of even sizes
    conv = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups, bias=False).double()
    x = torch.rand(3, 4, 9, 8, dtype=torch.float64)
    geometry = Geometry.of(kernel, stride, padding, dilation, groups)
    R = patches(x, geometry)
    with torch.no_grad():
        z = conv(x)
    assert z.shape[2:] == geometry.positions(x.shape[2:])
    torch.testing.assert_close(conv.weight.detach().reshape(groups, 8 // groups, -1) @ R, channels_first(z, geometry))


def test_patches_are_those_of_unfold() -> None:
    x = torch.rand(3, 4, 9, 8, dtype=torch.float64)
    R = patches(x, Geometry.of((3, 2), (2, 1), (1, 0), (1, 3), 1))
    expected = functional.unfold(x, (3, 2), dilation=(1, 3), padding=(1, 0), stride=(2, 1))
    torch.testing.assert_close(R[0], expected.transpose(0, 1).reshape(24, -1), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 5, 11), (2, 5, 6, 5, 7)])
def test_one_and_three_dimensions(shape: tuple[int, ...]) -> None:
    k = len(shape) - 2
    conv = {1: nn.Conv1d, 3: nn.Conv3d}[k](5, 3, 3, stride=2, padding=1).double()
    x = torch.rand(shape, dtype=torch.float64)
    geometry = Geometry.of((3,) * k, 2, 1, 1, 1)
    with torch.no_grad():
        z = channels_first(conv(x), geometry)
        torch.testing.assert_close(conv.weight.reshape(1, 3, -1) @ patches(x, geometry) + conv.bias[:, None], z)
