r"""Linear layers and convolutions that multiply in the format that their number of samples asks for.

A convolution is a product with patches, W (out, in·k·k) times (in·k·k, positions), which are views of the padded input
until torch copies them together; of a 1 x 1 convolution they are the input itself.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from simplicit.errors import InputError
from simplicit.runtime.formats.base import DENSE, FORMATS

#: What a layer has at some numbers of samples: (samples, format).
Formats = Sequence[tuple[int, str]]
#: The kinds of layers.
LINEAR, CONVOLUTION = "linear", "convolution"


def plain_kind(module: nn.Module) -> str | None:
    """The kind of a layer that may get a format: torch's own classes alone, since others may read the weights."""
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if type(module) is nn.Linear:
        return LINEAR
    if type(module) is not nn.Conv2d:
        return None
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return CONVOLUTION if plain and not isinstance(module.padding, str) else None


def formatted(module: nn.Linear | nn.Conv2d, choices: Formats, *, as_given: bool = False) -> FormattedLayer:
    """The layer of these choices that computes what a module does which :func:`plain_kind` knows."""
    if isinstance(module, nn.Linear):
        return FormattedLinear(module, choices, as_given=as_given)
    return FormattedConvolution(module, choices, as_given=as_given)


class FormattedLayer(nn.Module):
    """A layer with its weights in one format or several; they are buffers, without gradients.

    Parameters
    ----------
    module : nn.Linear or nn.Conv2d
        Its weight W, as a matrix (out, in), is copied.
    choices : sequence of (samples, format)
        The format at so many samples (rows of X, for a convolution images), at least one; in between the nearer one.
    as_given : bool
        Whether outputs lie in memory as those of the module, which costs a copy; by default samples lie last.
    """

    def __init__(self, module: nn.Linear | nn.Conv2d, choices: Formats, *, as_given: bool = False) -> None:
        super().__init__()
        self.weight_shape, self.as_given = tuple(module.weight.shape), as_given
        self.shape = (self.weight_shape[0], module.weight[0].numel())
        self.in_features, self.out_features = self.weight_shape[1], self.weight_shape[0]
        self.choices = tuple(sorted(choices))
        self._bounds = [sqrt(a * b) for (a, _), (b, _) in pairwise(self.choices)]
        # With the buffers that they were made of, so that others in their place are seen.
        self._matrices: dict[str, tuple[dict[str, Tensor], Tensor]] = {}
        weight = module.weight.detach().reshape(self.shape)
        for name in dict.fromkeys(name for _, name in self.choices):
            parts = {"weight": weight.clone()} if name == DENSE else FORMATS[name].keep(weight)
            for part, tensor in parts.items():
                self.register_buffer(_key(name, part), tensor)
        self.register_buffer("bias", None if module.bias is None else module.bias.detach().clone())
        self.bias: Tensor | None

    def extra_repr(self) -> str:
        """Return the size and the formats, for ``repr``."""
        formats = ", ".join(f"{name} at {samples}" for samples, name in self.choices)
        return f"{self.shape[1]}, {self.shape[0]}, {formats}"

    @property
    def weight(self) -> Tensor:
        """The weight of the layer that it was made of, written out at every call unless it is kept so."""
        names = [name for _, name in self.choices]
        if DENSE in names:
            return self._part(DENSE, "weight").reshape(self.weight_shape)
        return FORMATS[names[0]].dense(self._parts(names[0]), self.shape).reshape(self.weight_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer that it was made of does."""
        name = self.choices[bisect(self._bounds, self._samples(x))][1]
        if name == DENSE or not (self._fits(x) and self._has_product(name, x)):
            return self._densely(x)
        found = self._by(name, x)
        return found.contiguous() if self.as_given else found

    def _has_product(self, name: str, x: Tensor) -> bool:
        """Whether a format has what is asked for: a gradient, or the product in the precision of the weights."""
        differentiated = torch.is_grad_enabled() and x.requires_grad
        return (FORMATS[name].has_gradients or not differentiated) and FORMATS[name].multiplies(self._dtype(name))

    def _dtype(self, name: str) -> torch.dtype:
        return self._part(name, FORMATS[name].parts[-1]).dtype

    @abstractmethod
    def _fits(self, x: Tensor) -> bool:
        """Whether inputs have the size that the layer takes; of others torch's own layer says what is wrong."""

    @abstractmethod
    def _samples(self, x: Tensor) -> int:
        """What choices count."""

    @abstractmethod
    def _densely(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _by(self, name: str, x: Tensor) -> Tensor: ...

    def product(self, name: str, x: Tensor) -> Tensor:
        """Y = X Wᵀ + b, (m, out), in a format, for X (m, in)."""
        if x.dtype != (dtype := self._dtype(name)):
            raise InputError(f"inputs must be {dtype}, as the weights, got {x.dtype}", argument="inputs")
        return FORMATS[name].product(self._matrix(name), x, self.bias)

    def _matrix(self, name: str) -> Tensor:
        known = self._matrices.get(name)
        if known is not None and all(self._buffers[key] is tensor for key, tensor in known[0].items()):
            return known[1]
        parts = self._parts(name)
        matrix = FORMATS[name].matrix(parts, self.shape)
        self._matrices[name] = ({_key(name, part): tensor for part, tensor in parts.items()}, matrix)
        return matrix

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        errors: list[str] = rest[-1]
        for name in dict.fromkeys(name for _, name in self.choices if name != DENSE):
            given = {part: state_dict.get(f"{prefix}{_key(name, part)}") for part in FORMATS[name].parts}
            parts = {part: tensor for part, tensor in given.items() if isinstance(tensor, Tensor)}
            if len(parts) == len(given) and (what := FORMATS[name].defect(parts, self.shape)) is not None:
                errors.append(f"{prefix}{name} is damaged: {what}; nothing of this layer was loaded")
                return
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._matrices.clear()

    def _parts(self, name: str) -> dict[str, Tensor]:
        return {part: self._part(name, part) for part in FORMATS[name].parts}

    def _part(self, name: str, part: str) -> Tensor:
        found = self._buffers[_key(name, part)]  # torch's get_buffer takes as long as a small product
        assert found is not None
        return found

    def __getstate__(self) -> dict[str, Any]:
        # The matrices share the memory of the buffers, which a file or a copy has on its own.
        return {**self.__dict__, "_matrices": {}}


class FormattedLinear(FormattedLayer):
    """A linear layer in one format or several."""

    def _fits(self, x: Tensor) -> bool:
        return x.ndim > 0 and x.shape[-1] == self.shape[1]

    def _samples(self, x: Tensor) -> int:
        return x.numel() // max(1, self.shape[1])

    def _densely(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def _by(self, name: str, x: Tensor) -> Tensor:
        y = self.product(name, x.reshape(-1, self.shape[1]))
        return y.reshape(*x.shape[:-1], self.shape[0])


class FormattedConvolution(FormattedLayer):
    """A two-dimensional convolution, without groups and dilation, in one format or several."""

    def __init__(self, module: nn.Conv2d, choices: Formats, *, as_given: bool = False) -> None:
        super().__init__(module, choices, as_given=as_given)
        assert not isinstance(module.padding, str)
        self.kernel, self.stride = module.kernel_size, module.stride
        self.padding: tuple[int, ...] = module.padding

    def _fits(self, x: Tensor) -> bool:
        return x.ndim in (3, 4) and x.shape[-3] == self.weight_shape[1]

    def _samples(self, x: Tensor) -> int:
        return len(x)

    def _densely(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def _by(self, name: str, x: Tensor) -> Tensor:
        if x.ndim == 3:  # an image alone
            return self._by(name, x[None])[0]
        down, across = self.padding
        if down or across:
            x = functional.pad(x, (across, across, down, down))
        patches = x.unfold(2, self.kernel[0], self.stride[0]).unfold(3, self.kernel[1], self.stride[1])
        samples, _, height, width = patches.shape[:4]
        # (in, k, k, samples, height, width), of which the first three are rows and the others columns.
        X = patches.permute(1, 4, 5, 0, 2, 3).reshape(self.shape[1], -1)
        Y = self.product(name, X.T)
        return Y.T.reshape(self.shape[0], samples, height, width).transpose(0, 1)


def _key(name: str, part: str) -> str:
    """A part's name in a ``state_dict``: without dots, which torch splits names at."""
    return f"{name.replace(':', '_of_')}_{part}"
