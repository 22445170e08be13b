"""What is attacked: an implicit model or a torch network, seen as outputs and their derivative on flat samples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from simplicit.checks import as_array, refused
from simplicit.errors import InputError, first_line
from simplicit.implicit import ImplicitModel, InputLayout, linearise
from simplicit.implicit.batch import as_batch
from simplicit.implicit.inputs import is_several
from simplicit.network.calls import Call, network_dtype
from simplicit.network.outputs import chosen

#: What can be attacked.
AttackedModel: TypeAlias = ImplicitModel | nn.Module

#: From gradients by the outputs, (m, q), to gradients by the inputs, (m, p).
PullBack: TypeAlias = Callable[[Tensor], Tensor]


class Victim(ABC):
    """A victim classifies flat samples (m, p) in ``dtype`` on the CPU, with ``n_outputs`` classes.

    ``input_shape`` is the form in which samples may come besides the flat one; ``layout`` says what lies where in them,
    where they are several inputs or integers.
    """

    n_inputs: int
    n_outputs: int
    dtype: np.dtype[Any]
    input_shape: tuple[int, ...]
    layout: InputLayout | None = None

    def batch(self, U: Any) -> Tensor:
        """Return samples in any form that the victim takes as one tensor (m, p); InputError where it does not."""
        if self.layout is not None:
            return self.layout.pack(U, self.dtype, "U")
        return as_batch(U, self.n_inputs, self.input_shape, self.dtype)

    @abstractmethod
    def outputs(self, points: Tensor) -> Tensor:
        """Return Y (m, q)."""

    @abstractmethod
    def linearise(self, points: Tensor) -> tuple[Tensor, PullBack]:
        """Return Y (m, q), and Ȳ ↦ Jᵀ Ȳ."""


class ImplicitVictim(Victim):
    """An implicit model is differentiated through its equilibrium."""

    def __init__(self, model: ImplicitModel) -> None:
        self.model = model
        self.n_inputs, self.n_outputs = model.n_inputs, model.n_outputs
        self.dtype, self.input_shape, self.layout = model.dtype, model.input_shape, model.inputs

    def outputs(self, points: Tensor) -> Tensor:
        Y: Tensor = self.model.predict(points)
        return Y

    def linearise(self, points: Tensor) -> tuple[Tensor, PullBack]:
        at_points = linearise(self.model, points)
        return at_points.outputs, at_points.vjp


class NetworkVictim(Victim):
    """A torch network is differentiated by autograd, used in evaluation mode, and otherwise left as it is.

    With a ``call`` it takes several inputs, or integers, and the first of its outputs that has logits. It is tried on
    two samples of zeros, (2, *input_shape), or on ``tried``; InputError is raised where it fails on them, or does not
    return a row of logits for each.
    """

    def __init__(
        self, net: nn.Module, input_shape: tuple[int, ...], call: Call | None = None, tried: Tensor | None = None
    ) -> None:
        self.net, self.input_shape, self.n_inputs = net, input_shape, math.prod(input_shape)
        self._call, self.layout = call, None if call is None else call.layout
        self._tried = torch.zeros(2, self.n_inputs) if tried is None else tried.reshape(2, self.n_inputs)
        values = next((p for p in (*net.parameters(), *net.buffers()) if p.is_floating_point()), torch.zeros(0))
        self._device, self._dtype = values.device, values.dtype
        self.dtype = np.dtype(np.float64 if values.dtype == torch.float64 else np.float32)
        self.n_outputs = self._count_outputs()

    @torch.no_grad()
    def _count_outputs(self) -> int:
        name = type(self.net).__name__
        try:
            Y = self._evaluated(self._tried)
        except Exception as error:  # the user's own forward may raise anything
            given = f"samples of shape {self.input_shape}" if self._call is None else self._call.said("U")
            defect = f"{name} fails on {given} ({first_line(error)})"
            raise refused("model", f"{defect}; pass U in the form that it takes") from error
        if not isinstance(Y, Tensor) or Y.ndim != 2 or Y.shape[0] != 2:
            got = tuple(Y.shape) if isinstance(Y, Tensor) else type(Y).__name__
            raise refused("model", f"{name} must return logits of shape (m, q), got {got} for m = 2")
        return Y.shape[1]

    def _evaluated(self, points: Tensor) -> Any:
        """Return what the network makes of flat samples; its parameters and buffers decide where and in which dtype."""
        with _evaluation(self.net):
            U = points.reshape(len(points), *self.input_shape).to(device=self._device, dtype=self._dtype)
            if self._call is None:
                return self.net(U)
            in_order, by_name = self._call.arguments(U)
            result = self.net(*in_order, **by_name)
            return chosen(result, None, len(U)).of(result)

    @torch.no_grad()
    def outputs(self, points: Tensor) -> Tensor:
        Y: Tensor = self._evaluated(points)
        return Y.to(device="cpu", dtype=points.dtype)

    def linearise(self, points: Tensor) -> tuple[Tensor, PullBack]:
        with torch.enable_grad():
            leaf = points.detach().clone().requires_grad_()
            Y: Tensor = self._evaluated(leaf)

        def pull_back(Y_bar: Tensor) -> Tensor:
            if not Y.requires_grad:  # whatever the network does, autograd sees no way to the samples
                return torch.zeros_like(points)
            Y_bar = Y_bar.to(device=Y.device, dtype=Y.dtype)
            (gradient,) = torch.autograd.grad(Y, leaf, Y_bar, allow_unused=True, materialize_grads=True)
            return gradient.contiguous()

        return Y.detach().to(device="cpu", dtype=points.dtype), pull_back


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


def as_victim(model: object, U: Any) -> Victim:
    """Return the victim that ``model`` is on samples like U.

    InputError is raised for anything but an ImplicitModel or a torch network that takes such samples.
    """
    if isinstance(model, ImplicitModel):
        return ImplicitVictim(model)
    if isinstance(model, nn.Module) and is_several(U):
        return _called(model, U)
    if isinstance(model, nn.Module):
        shape = tuple(U.shape if isinstance(U, Tensor) else as_array("U", U).shape)
        if len(shape) < 2 or 0 in shape:
            raise InputError(f"U must hold at least one sample, samples first, got shape {shape}", argument="U")
        try:
            return NetworkVictim(model, shape[1:])
        except InputError:
            if not _are_integers(U):
                raise
        return _called(model, U)
    remedy = "; of a fit, give result.model or result.network()" if type(model).__name__ == "FitResult" else ""
    message = f"model must be an ImplicitModel or a torch.nn.Module, got {type(model).__name__}{remedy}"
    raise InputError(message, argument="model")


def _called(net: nn.Module, U: Any) -> NetworkVictim:
    """Return a network as a victim on inputs like U, several or integers."""
    weight = next((p for p in net.parameters() if p.is_floating_point()), None)
    dtype = network_dtype(weight, U)
    call = Call.of(net, U, dtype, "U")
    return NetworkVictim(net, call.layout.shape, call, call.two_samples(U, dtype, "U"))


def _are_integers(U: Any) -> bool:
    """Whether an array holds integers, such as token ids."""
    if isinstance(U, Tensor):
        return not (U.is_floating_point() or U.is_complex())
    return bool(as_array("U", U).dtype.kind in "iub")


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


class VictimModule(nn.Module):
    """A victim is a differentiable module of points v, (m, …) with p numbers each or more, at u = low + width · v."""

    def __init__(self, victim: Victim, *, low: float = 0.0, width: float = 1.0) -> None:
        super().__init__()
        self._victim, self._low, self._width = victim, low, width

    def forward(self, points: Tensor) -> Tensor:
        dtype = torch.float64 if self._victim.dtype == np.float64 else torch.float32
        flat = points.reshape(len(points), -1)[:, : self._victim.n_inputs].to(dtype) * self._width + self._low
        Y: Tensor = _Outputs.apply(flat, self._victim)  # type: ignore[no-untyped-call]
        return Y.to(points.dtype)
