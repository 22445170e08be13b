"""What an entry of the census is: how its network and its inputs are made, called, cut and compared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

#: One tensor, several positional ones, or keyword arguments; what is no tensor among these is constant.
Inputs: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]
Maker: TypeAlias = Callable[[], tuple[nn.Module, Inputs]]

#: So many samples each entry brings: exactness is taken on the first 1, 2 and 7, a fit on all.
SAMPLES = 12


def of(function: Callable[..., Any], **modules: nn.Module | nn.Parameter) -> nn.Module:
    """A network whose forward is a function of itself and its inputs, with the modules that it uses."""
    net: nn.Module = type("Of", (nn.Module,), {"forward": function})()
    for name, module in modules.items():
        setattr(net, name, module)
    return net


def stub_torchvision() -> None:
    """Let the names that packages import from torchvision be found, where it is not installed.

    transformers would take it for the real one, so it is not there for all.
    """
    if find_spec("torchvision") is None:
        sys.path.append(str(Path(__file__).parent / "stub"))


def enlivened(net: nn.Module) -> nn.Module:
    """``net`` in evaluation mode, where nothing is at its first value of one or zero as it never is after training."""
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.is_floating_point() and parameter.numel() and parameter.min() == parameter.max():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return net.eval()


def mapped(inputs: Inputs, function: Callable[[Tensor], Tensor]) -> Any:
    """The inputs with a function applied to their tensors."""

    def one(value: Any) -> Any:
        return function(value) if isinstance(value, Tensor) else value

    if isinstance(inputs, Mapping):
        return {name: one(value) for name, value in inputs.items()}
    return tuple(map(one, inputs)) if isinstance(inputs, tuple) else one(inputs)


def first(inputs: Inputs, samples: int) -> Inputs:
    """The first ``samples``."""
    return mapped(inputs, lambda tensor: tensor[:samples].clone())  # type: ignore[no-any-return]


def doubled(inputs: Inputs) -> Inputs:
    """The inputs with their real numbers in float64."""
    return mapped(inputs, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)  # type: ignore[no-any-return]


def call(net: nn.Module, inputs: Inputs) -> Any:
    """What the network says, without gradients."""
    with torch.no_grad():
        if isinstance(inputs, Mapping):
            return net(**inputs)
        return net(*inputs) if isinstance(inputs, tuple) else net(inputs)


def first_output(outputs: Any) -> Tensor:
    """The first floating-point tensor of what a network returned, which is what is compared."""
    found = _first_float(outputs)
    if found is None:
        raise TypeError(f"no floating-point tensor in {type(outputs).__name__}")
    return found


def _first_float(outputs: Any) -> Tensor | None:
    if isinstance(outputs, Tensor):
        return outputs if outputs.is_floating_point() else None
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    if isinstance(parts, str) or not hasattr(parts, "__iter__"):
        return None
    return next((found for part in parts if (found := _first_float(part)) is not None), None)
