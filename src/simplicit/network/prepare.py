"""The network that comes in, copied in evaluation mode; its weights, its example and its call are checked."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parameter import UninitializedParameter

from simplicit.checks import refused
from simplicit.errors import InputError, first_line
from simplicit.implicit.batch import Batch, as_batch

_FLOATS: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


class TrainingModeWarning(UserWarning):
    """A network was given in training mode; it is read as it behaves in evaluation mode."""


def evaluation_copy(net: nn.Module) -> nn.Module:
    """A copy of ``net`` in evaluation mode on the CPU, its weights checked; InputError for what is none."""
    if not isinstance(net, nn.Module):
        raise refused_network(f"must be a torch.nn.Module, got {type(net).__name__}")
    if isinstance(net, torch.jit.ScriptModule):
        raise refused_network("is a TorchScript module; give the nn.Module that it was made from")
    _check_weights(net)
    network = _copied(net)
    if _in_training(net):
        warnings.warn(
            "net is in training mode; it is read in evaluation mode (no dropout, stored batch statistics), and left as "
            "it is. Call net.eval() first to say that this is meant.",
            TrainingModeWarning,
            stacklevel=_frames_inside_simplicit(),
        )
    return network.eval()


def _in_training(module: nn.Module) -> bool:
    # The module of a torch.export program has no modes (what it does was fixed when it was exported), and torch gives
    # it an eval() of its own that refuses.
    if isinstance(module, GraphModule) and "eval" in vars(module):
        return False
    return module.training or any(_in_training(child) for child in module.children())


def _copied(net: nn.Module) -> nn.Module:
    try:
        # Of torch's own internals, about gradients and tree specifications that are copied too.
        with warnings.catch_warnings(action="ignore"):
            return copy.deepcopy(net).to("cpu")
    except Exception as error:  # a copy runs code of every attribute's class
        raise refused_network(
            f"cannot be copied ({first_line(error)}); remove attributes such as locks, generators, open files and "
            "tensors that belong to a graph of gradients"
        ) from error


def _frames_inside_simplicit() -> int:
    """The ``stacklevel`` that shows a warning at the caller's line, whichever public function was called."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("simplicit."):
        frame, level = frame.f_back, level + 1
    return level


def _check_weights(net: nn.Module) -> None:
    dtypes = {}
    for name, parameter in net.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise refused("net", f"parameter {name!r} has no shape yet; run the network once before")
        if parameter.dtype not in _FLOATS:
            raise refused(
                "net",
                f"parameter {name!r} has dtype {parameter.dtype}; float32 and float64 are supported. Convert half "
                "precision with net.float(); complex weights have no implicit form",
            )
        dtypes[parameter.dtype] = name
    if len(dtypes) > 1:
        mixed = " and ".join(f"{name!r} has {dtype}" for dtype, name in dtypes.items())
        raise refused_network(f"mixes dtypes: parameter {mixed}; convert it with net.float() or net.double()")
    for kind, named in (("parameter", net.named_parameters()), ("buffer", net.named_buffers())):
        for name, tensor in named:
            if tensor.is_meta:
                raise refused("net", f"{kind} {name!r} has no values (device meta); load its weights first")
            if not torch.isfinite(tensor).all():
                raise refused("net", f"{kind} {name!r} holds NaN or infinite values")


def network_dtype(network: nn.Module, example_input: Batch) -> np.dtype[Any]:
    """The dtype of the parameters; without any, that of the example if it is float64, else float32."""
    first = next(network.parameters(), None)
    if first is not None:
        return _FLOATS[first.dtype]
    dtype = example_input.dtype
    wide = dtype == torch.float64 if isinstance(dtype, torch.dtype) else dtype.kind == "f" and dtype.itemsize >= 8
    return np.dtype(np.float64 if wide else np.float32)


def check_kind(batch: Any, argument: str) -> None:
    """Refuse what is no array with values of its own."""
    if not isinstance(batch, np.ndarray | Tensor):
        defect = f"must be a NumPy array or a tensor, got {type(batch).__name__}"
    elif isinstance(batch, Tensor) and (batch.layout != torch.strided or batch.is_quantized):
        layout = "quantised" if batch.is_quantized else batch.layout
        defect = f"must be a dense tensor, got a {layout} one; convert it before"
    elif isinstance(batch, Tensor) and batch.is_meta:
        defect = "must have values, got a tensor on the device meta"
    else:
        return
    raise InputError(f"{argument} {defect}", argument=argument)


def two_samples(example_input: Batch, dtype: np.dtype[Any], argument: str) -> Tensor:
    """Two samples of an input: a single one would be taken for a fixed size, since torch.export treats 1 as special."""
    shape = tuple(example_input.shape)
    if len(shape) < 2 or 0 in shape:
        raise InputError(
            f"{argument} must have shape (m, ...), samples first and m >= 1, got {shape}", argument=argument
        )
    width = math.prod(shape[1:])
    samples = as_batch(example_input[:2].reshape(-1, width), width, None, dtype, argument)
    return samples.expand(2, width).reshape(2, *shape[1:]).clone()


def check_call(network: nn.Module, example: Tensor, argument: str) -> None:
    """Run the network, so that what is wrong with the call is not mistaken for a fault of tracing."""
    try:
        inspect.signature(network.forward).bind(example)
    except TypeError as error:
        raise refused_network(f"must take one input, samples first; its forward does not: {error}") from None
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    result = _called(network, example, argument)
    if not isinstance(result, Tensor):
        raise refused_network(f"must return one tensor, samples first; it returns a {type(result).__name__}")
    if result.ndim == 0 or result.shape[0] != example.shape[0]:
        raise refused_network(
            f"must return one output per sample, samples first; for {example.shape[0]} samples it returns shape "
            f"{tuple(result.shape)}"
        )
    result = result.clone()
    for name, buffer in network.named_buffers():
        if not torch.equal(buffer, buffers.get(name, buffer)):
            raise refused_network(f"changes its own buffer {name!r} in evaluation mode, so it is not a function")
    again = _called(network, example, argument)
    if again.shape != result.shape or not torch.allclose(again, result, rtol=1e-4, equal_nan=True):
        raise refused_network(
            "gives another output when it is called again with the same input: its forward changes an attribute "
            "that it reads, so it is not a function"
        )


def refused_network(defect: str) -> InputError:
    """The error that says what is wrong with ``net``."""
    return InputError(f"net {defect}", argument="net")


def _called(network: nn.Module, example: Tensor, argument: str) -> Any:
    # Always the same random numbers: what is random is refused by its name later.
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        try:
            # Some networks change their input in place.
            return network(example.clone())
        except Exception as error:  # the user's own code can raise anything
            shape = ", ".join(map(str, ("m", *example.shape[1:])))
            raise refused_network(
                f"does not accept {argument} of shape ({shape}): {type(error).__name__}: {first_line(error)}"
                f"{_other_layout(network, example, argument)}"
            ) from error


def _other_layout(network: nn.Module, example: Tensor, argument: str) -> str:
    """Say what to do where the network takes the same numbers with channels first."""
    if example.ndim < 3:
        return ""
    try:
        network(example.movedim(-1, 1).contiguous())
    except Exception:  # as before, the user's own code
        return ""
    return f"; it takes them with channels first: give np.moveaxis({argument}, -1, 1)"
