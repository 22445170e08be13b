"""The network that comes in, copied in evaluation mode; its weights and its call are checked."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parameter import UninitializedParameter

from simplicit.checks import as_network, refused
from simplicit.errors import InputError, first_line
from simplicit.implicit.batch import is_finite
from simplicit.network.calls import Call, network_dtype
from simplicit.network.outputs import Choice, chosen
from simplicit.network.wrappers import bake, copied, unwrapped
from simplicit.network.zeros import forget_zeros

_HALVES = (torch.float16, torch.bfloat16)
_FLOATS = (torch.float32, torch.float64, *_HALVES)


class TrainingModeWarning(UserWarning):
    """A network was given in training mode; it is read as it behaves in evaluation mode."""


def evaluation_copy(net: nn.Module) -> nn.Module:
    """A copy of ``net`` in evaluation mode on the CPU, its weights checked; InputError for what is none.

    It is that of the network inside of wrappers, and computed weights are plain in it, as
    :mod:`~simplicit.network.wrappers` says.
    """
    net = unwrapped(as_network("net", net))
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
    network.eval()
    bake(network)
    forget_zeros(network)  # of the copy, which goes its own way
    return network


def _in_training(module: nn.Module) -> bool:
    # The module of a torch.export program has no modes (what it does was fixed when it was exported), and torch gives
    # it an eval() of its own that refuses.
    if isinstance(module, GraphModule) and "eval" in vars(module):
        return False
    return module.training or any(_in_training(child) for child in module.children())


def _copied(net: nn.Module) -> nn.Module:
    try:
        return copied(net)
    except Exception as error:  # a copy runs code of every attribute's class
        raise refused_network(
            f"cannot be copied ({first_line(error)}); remove attributes such as locks, generators, open files and "
            "lists of tensors that belong to a graph of gradients"
        ) from error


def in_single_precision(network: nn.Module) -> dict[str, torch.dtype]:
    """Make float32 of the weights of a network in half precision; the dtypes that they had, by name.

    They are the same numbers. What is computed with them is not rounded to half precision any more.
    """
    if not any(parameter.dtype in _HALVES for parameter in network.parameters()):
        return {}
    tensors = [*network.named_parameters(), *network.named_buffers()]
    halves = {name: tensor.dtype for name, tensor in tensors if tensor.dtype in _HALVES}
    network.float()
    return halves


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
                f"parameter {name!r} has dtype {parameter.dtype}; float32, float64, float16 and bfloat16 are "
                "supported. Complex weights have no implicit form, those of 8 bits and integers go in as net.float()",
            )
        dtypes[parameter.dtype] = name
    if len(dtypes) > 1:
        mixed = " and ".join(f"{name!r} has {dtype}" for dtype, name in dtypes.items())
        raise refused_network(f"mixes dtypes: parameter {mixed}; convert it with net.float() or net.double()")
    for kind, named in (("parameter", net.named_parameters()), ("buffer", net.named_buffers())):
        for name, tensor in named:
            if tensor.is_meta:
                raise refused("net", f"{kind} {name!r} has no values (device meta); load its weights first")
            if not is_finite(tensor):
                raise refused("net", f"{kind} {name!r} holds NaN or infinite values")


def read_call(
    network: nn.Module, example: Any, output: str | int | None, argument: str
) -> tuple[Call, Tensor, Choice, np.dtype[Any]]:
    """How a network is called by an example, two samples of it, which output is taken, and the network's dtype.

    Integers alone are handed over as they are where the network takes them (token ids), else as numbers of its own
    dtype (the bytes of an image).
    """
    dtype = network_dtype(next(network.parameters(), None), example)
    call = Call.of(network, example, dtype, argument)
    U = call.two_samples(example, dtype, argument)
    try:
        return call, U, check_call(network, call, U, output, argument), dtype
    except InputError as error:
        shape = getattr(example, "shape", None)  # an array alone may be laid out in another way
        unfit = call.plain and "does not accept" in str(error)
        if unfit and shape is not None and (remedy := _other_axes(network, U, tuple(shape), argument)):
            raise refused_network(str(error).removeprefix("net ") + remedy) from error
        if not call.alone or call.plain:
            raise
        as_numbers = call.with_floats(dtype)
        try:
            return as_numbers, U, check_call(network, as_numbers, U, output, argument), dtype
        except InputError as other:
            raise (error if _wants_integers(other) else other) from None


def check_call(network: nn.Module, call: Call, U: Tensor, output: str | int | None, argument: str) -> Choice:
    """Run the network, so that what is wrong with the call is not mistaken for a fault of tracing."""
    _check_arguments(network, call, U, argument)
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    choice = chosen(returned := _called(network, call, U, argument), output, len(U))
    result = choice.of(returned).clone()
    for name, buffer in network.named_buffers():
        if not torch.equal(buffer, buffers.get(name, buffer)):
            raise refused_network(f"changes its own buffer {name!r} in evaluation mode, so it is not a function")
    again = choice.of(_called(network, call, U, argument))
    if again.shape != result.shape or not torch.allclose(again, result, rtol=1e-4, equal_nan=True):
        raise refused_network(
            "gives another output when it is called again with the same input: its forward changes an attribute "
            "that it reads, or is random by other means than torch's, so it is not a function"
        )
    return choice


def _check_arguments(network: nn.Module, call: Call, U: Tensor, argument: str) -> None:
    """Refuse a call that ``forward`` does not have, and say what it takes."""
    in_order, by_name = call.arguments(U)
    signature = inspect.signature(network.forward)
    try:
        signature.bind(*in_order, **by_name)
    except TypeError as error:
        takes = ", ".join(map(str, signature.parameters.values()))
        remedy = f"its forward takes ({takes}): give a tuple, or a mapping by name"
        if "too many positional" in str(error):
            remedy += "; labels are left out, no fit uses them"
        raise refused_network(f"does not take {argument} as its inputs, {error}; {remedy}") from None


def refused_network(defect: str) -> InputError:
    """The error that says what is wrong with ``net``."""
    return InputError(f"net {defect}", argument="net")


def _called(network: nn.Module, call: Call, U: Tensor, argument: str) -> Any:
    # Always the same random numbers: what is random is refused by its name later.
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        try:
            # Some networks change their input in place.
            in_order, by_name = call.arguments(U.clone())
            return network(*in_order, **by_name)
        except Exception as error:  # the user's own code can raise anything
            if _wants_integers(error):
                raise refused_network(f"does not accept {call.said(argument)}: {_INTEGERS}") from error
            hint = _other_layout(network, call, U, argument)
            raise refused_network(
                f"does not accept {call.said(argument)}: {type(error).__name__}: {first_line(error)}{hint}"
            ) from error


_INTEGERS = "it looks numbers up by one of its inputs, such as token ids: give those as integers (int64)"


def _wants_integers(error: Exception) -> bool:
    """Whether torch, or this module, says that indices are needed where floating-point numbers are."""
    text = str(error)
    return _INTEGERS in text or ("scalar types: Long" in text and "'indices'" in text) or "must be long, int" in text


def _other_layout(network: nn.Module, call: Call, U: Tensor, argument: str) -> str:
    """Say what to do where the network takes the same numbers with channels first."""
    if not call.plain or U.ndim < 3:
        return ""
    try:
        network(U.movedim(-1, 1).contiguous())
    except Exception:  # as before, the user's own code
        return ""
    return f"; it takes them with channels first: give np.moveaxis({argument}, -1, 1)"


def _other_axes(network: nn.Module, U: Tensor, shape: tuple[int, ...], argument: str) -> str:
    """Say what to do where an array of this shape has its samples in columns, or is a single sample."""
    remedy, sample = f"one sample alone is {argument}[None]", tuple(shape)
    if len(shape) == 2:
        remedy, sample = f"samples come first: give {argument}.T", sample[:1]
    try:
        with torch.no_grad():
            network(U.new_zeros(2, *sample))
    except Exception:  # the user's own code
        return ""
    return f"; {remedy}"
