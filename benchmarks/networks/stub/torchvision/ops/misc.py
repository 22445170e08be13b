"""The norm that timm turns others into, and asks modules whether they are."""

from torch import nn


class FrozenBatchNorm2d(nn.Module):
    """No module is one."""
