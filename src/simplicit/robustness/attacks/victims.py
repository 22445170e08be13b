"""What is attacked: an implicit model or a torch network, seen as outputs and their derivative on flat samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from simplicit.checks import as_array
from simplicit.errors import InputError
from simplicit.implicit import ImplicitModel, linearise
from simplicit.implicit.batch import Batch

#: What can be attacked.
AttackedModel: TypeAlias = ImplicitModel | nn.Module

#: From gradients by the outputs, (m, q), to gradients by the inputs, (m, p).
PullBack: TypeAlias = Callable[[Tensor], Tensor]


class Victim(Protocol):
    """A victim classifies flat samples (m, p) in ``dtype`` on the CPU, with ``n_outputs`` classes."""

    @property
    def n_inputs(self) -> int: ...

    @property
    def n_outputs(self) -> int: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Form in which samples may come besides the flat one."""
        ...

    def outputs(self, points: Tensor) -> Tensor:
        """Return Y (m, q)."""
        ...

    def linearise(self, points: Tensor) -> tuple[Tensor, PullBack]:
        """Return Y (m, q), and the map from gradients by Y to gradients by the points."""
        ...


class ImplicitVictim:
    """An implicit model is differentiated through its equilibrium."""

    def __init__(self, model: ImplicitModel) -> None:
        self.model = model
        self.n_inputs, self.n_outputs = model.n_inputs, model.n_outputs
        self.dtype, self.input_shape = model.dtype, model.input_shape

    def outputs(self, points: Tensor) -> Tensor:
        """Return Y (m, q)."""
        Y: Tensor = self.model.predict(points)
        return Y

    def linearise(self, points: Tensor) -> tuple[Tensor, PullBack]:
        """Return Y (m, q), and Ȳ ↦ Jᵀ Ȳ."""
        at_points = linearise(self.model, points)
        return at_points.outputs, at_points.vjp


class NetworkVictim:
    """A torch network is differentiated by autograd, used in evaluation mode, and otherwise left as it is.

    Parameters
    ----------
    net : nn.Module
        From samples (m, *input_shape) to logits (m, q).
    input_shape : tuple of int
        Of one sample.

    Raises
    ------
    InputError
        The network fails on such samples, or does not return one row of outputs for each.
    """

    def __init__(self, net: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.net, self.input_shape, self.n_inputs = net, input_shape, math.prod(input_shape)
        values = next((p for p in (*net.parameters(), *net.buffers()) if p.is_floating_point()), torch.zeros(0))
        self._device, self._dtype = values.device, values.dtype
        self.dtype = np.dtype(np.float64 if values.dtype == torch.float64 else np.float32)
        self.n_outputs = int(self._probed().shape[1])

    def _probed(self) -> Tensor:
        """Return outputs for two samples of zeros."""
        zeros = torch.zeros(2, self.n_inputs, dtype=torch.float64 if self.dtype == np.float64 else torch.float32)
        try:
            Y = self.outputs(zeros)
        except Exception as error:  # the user's own forward may raise anything
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"model: {type(self.net).__name__} fails on samples of shape {self.input_shape} ({reason}); pass U in "
                "the form that it takes",
                argument="model",
            ) from error
        if not isinstance(Y, Tensor) or Y.ndim != 2 or Y.shape[0] != 2:
            got = tuple(Y.shape) if isinstance(Y, Tensor) else type(Y).__name__
            raise InputError(
                f"model: {type(self.net).__name__} must return logits of shape (m, q), got {got} for m = 2",
                argument="model",
            )
        return Y

    def outputs(self, points: Tensor) -> Tensor:
        """Return Y (m, q)."""
        with torch.no_grad(), _evaluation(self.net):
            Y: Tensor = self._back(self.net(self._shaped(points)), points)
            return Y

    def linearise(self, points: Tensor) -> tuple[Tensor, PullBack]:
        """Return Y (m, q), and Ȳ ↦ Jᵀ Ȳ."""
        with torch.enable_grad(), _evaluation(self.net):
            leaf = points.detach().clone().requires_grad_()
            Y = self.net(self._shaped(leaf))

        def pull_back(Y_bar: Tensor) -> Tensor:
            if not Y.requires_grad:  # whatever the network does, autograd sees no way to the samples
                return torch.zeros_like(points)
            Y_bar = Y_bar.to(device=Y.device, dtype=Y.dtype)
            (gradient,) = torch.autograd.grad(Y, leaf, Y_bar, allow_unused=True)
            return torch.zeros_like(points) if gradient is None else gradient.contiguous()

        return self._back(Y.detach(), points), pull_back

    def _shaped(self, points: Tensor) -> Tensor:
        return points.reshape(len(points), *self.input_shape).to(device=self._device, dtype=self._dtype)

    def _back(self, Y: Any, points: Tensor) -> Any:
        return Y.to(device="cpu", dtype=points.dtype) if isinstance(Y, Tensor) else Y


@contextmanager
def _evaluation(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def as_victim(model: object, U: Batch) -> Victim:
    """Return the victim that ``model`` is on samples like U.

    Raises
    ------
    InputError
        It is neither an ImplicitModel nor a torch network, or a network that does not take such samples.
    """
    if isinstance(model, ImplicitModel):
        return ImplicitVictim(model)
    if isinstance(model, nn.Module):
        shape = tuple(U.shape if isinstance(U, Tensor) else as_array("U", U).shape)
        if len(shape) < 2 or 0 in shape:
            raise InputError(f"U must hold at least one sample, samples first, got shape {shape}", argument="U")
        return NetworkVictim(model, shape[1:])
    raise InputError(
        f"model must be an ImplicitModel or a torch.nn.Module, got {type(model).__name__}", argument="model"
    )


class _Outputs(torch.autograd.Function):
    """Outputs of a victim on flat points, differentiable once."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, victim: Victim) -> Tensor:
        if not ctx.needs_input_grad[0]:
            return victim.outputs(points)
        Y, ctx.pull_back = victim.linearise(points)
        return Y

    @staticmethod
    def backward(ctx: Any, Y_bar: Tensor) -> tuple[Tensor, None]:
        return ctx.pull_back(Y_bar), None


class _Module(nn.Module):
    def __init__(self, victim: Victim, low: float, width: float) -> None:
        super().__init__()
        self._victim, self._low, self._width = victim, low, width

    def forward(self, points: Tensor) -> Tensor:
        dtype = torch.float64 if self._victim.dtype == np.float64 else torch.float32
        flat = points.reshape(len(points), -1)[:, : self._victim.n_inputs].to(dtype) * self._width + self._low
        Y: Tensor = _Outputs.apply(flat, self._victim)  # type: ignore[no-untyped-call]
        return Y.to(points.dtype)


def as_module(victim: Victim, *, low: float = 0.0, width: float = 1.0) -> nn.Module:
    """Return a differentiable module from points v, (m, …) with p numbers each or more, to Y at u = low + width · v."""
    return _Module(victim, low, width)
