r"""The graph of a network: captured by ``torch.export``, with in-place operations made functional.

torch.export traces the network with a symbolic number of samples and knows about aliasing, so that a view of a tensor
that is changed in place reads the changed values here as it does in torch. What is left is a list of calls of pure
operations, of which only those that reach the output are kept.
"""

from __future__ import annotations

import copy
import inspect
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.parameter import UninitializedParameter

from simplicit.baseline.rewrites import REWRITES
from simplicit.errors import InputError, UnsupportedOperationError
from simplicit.implicit.batch import Batch, as_batch

__all__ = [
    "NetworkGraph",
    "TrainingModeWarning",
    "capture_graph",
    "evaluation_copy",
    "first_line",
    "location",
    "module_path",
]

_FLOATS: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


class TrainingModeWarning(UserWarning):
    """A network was given in training mode; it is read as it behaves in evaluation mode."""


@dataclass(frozen=True, eq=False)
class NetworkGraph:
    """A network in evaluation mode as a graph of pure operations, independent of the network it came from.

    Parameters
    ----------
    network : nn.Module
        The copy that was traced.
    module : GraphModule
        The graph; parameters, buffers and constants are inputs of it.
    constants : mapping from the names of these inputs to their values, in order
    parameters : frozenset of str
        The parameters (by their names in the network) on which the output depends.
    input_shape : tuple of int
        Of one sample.
    dtype : float32 or float64
        Of the network.
    """

    network: nn.Module
    module: GraphModule
    constants: Mapping[str, Tensor]
    parameters: frozenset[str]
    input_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def output(self) -> Node:
        """The node whose value is the network's output."""
        (last,) = self.module.graph.find_nodes(op="output")
        result: Node = last.args[0]
        return result


def capture_graph(net: nn.Module, example_input: Batch, argument: str = "example_input") -> NetworkGraph:
    """The graph of ``net`` in evaluation mode.

    Parameters
    ----------
    net : nn.Module
        Takes one tensor (m, ...) and returns one tensor (m, ...); left as it is.
    example_input : NumPy array or torch tensor, shape (m, ...), m >= 1
        Gives the shape of an input.
    argument : str
        What the caller calls ``example_input``, for errors.

    Raises
    ------
    InputError
        ``net`` or ``example_input`` is not of this form, or not finite.
    UnsupportedOperationError
        The network cannot be traced, for instance because its control flow depends on the input.
    """
    network = evaluation_copy(net)
    _check_shape(example_input, argument)
    dtype = _dtype(network, example_input)
    example = _two_samples(example_input, dtype, argument)
    _check_call(network, example, argument)
    program = _exported(network, example)
    signature = program.graph_signature
    (output_name,) = signature.user_outputs
    _prune(program.graph_module, output_name)
    used = {node.name for node in program.graph.find_nodes(op="placeholder") if node.users}
    return NetworkGraph(
        network=network,
        module=program.graph_module,
        constants=_constants(program),
        parameters=frozenset(target for name, target in signature.inputs_to_parameters.items() if name in used),
        input_shape=tuple(example.shape[1:]),
        dtype=dtype,
    )


def evaluation_copy(net: nn.Module) -> nn.Module:
    """A copy of ``net`` in evaluation mode on the CPU, its weights checked."""
    if not isinstance(net, nn.Module):
        raise InputError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    for name, parameter in net.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise InputError(f"net: parameter {name!r} has no shape yet; run the network once before")
    _check_weights(net)
    if any(module.training for module in net.modules()):
        warnings.warn(
            "net is in training mode; it is read in evaluation mode (no dropout, stored batch statistics), and left as "
            "it is. Call net.eval() first to say that this is meant.",
            TrainingModeWarning,
            stacklevel=_frames_inside_simplicit(),
        )
    try:
        network = copy.deepcopy(net)
    except RuntimeError as error:
        raise InputError(f"net cannot be copied: {first_line(error)}") from error
    return network.eval().to("cpu")


def _frames_inside_simplicit() -> int:
    """The ``stacklevel`` that shows a warning at the caller's line, whichever public function was called."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("simplicit."):
        frame, level = frame.f_back, level + 1
    return level


def _check_weights(net: nn.Module) -> None:
    dtypes = {}
    for name, parameter in net.named_parameters():
        if parameter.dtype not in _FLOATS:
            raise InputError(f"net: parameter {name!r} has dtype {parameter.dtype}; float32 and float64 are supported")
        dtypes[parameter.dtype] = name
    if len(dtypes) > 1:
        mixed = " and ".join(f"{name!r} has {dtype}" for dtype, name in dtypes.items())
        raise InputError(f"net mixes dtypes: parameter {mixed}; convert it with net.float() or net.double()")
    for kind, named in (("parameter", net.named_parameters()), ("buffer", net.named_buffers())):
        for name, tensor in named:
            if not torch.isfinite(tensor).all():
                raise InputError(f"net: {kind} {name!r} holds NaN or infinite values")


def _dtype(network: nn.Module, example_input: Any) -> np.dtype[Any]:
    """Of the parameters; of the example where there are none."""
    kinds = [*(parameter.dtype for parameter in network.parameters()), torch.as_tensor(example_input[:0]).dtype]
    return _FLOATS.get(kinds[0], np.dtype(np.float32))


def _check_shape(example_input: Any, argument: str) -> None:
    if not isinstance(example_input, np.ndarray | Tensor):
        raise InputError(f"{argument} must be a NumPy array or a tensor, got {type(example_input).__name__}")
    shape = tuple(example_input.shape)
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"{argument} must have shape (m, ...), samples first and m >= 1, got {shape}")


def _two_samples(example_input: Batch, dtype: np.dtype[Any], argument: str) -> Tensor:
    # A single one would be taken for a fixed size, since torch.export treats 1 as special.
    shape = tuple(example_input.shape[1:])
    width = math.prod(shape)
    samples = as_batch(example_input[:2].reshape(-1, width), width, None, dtype, argument)
    return samples.expand(2, width).reshape(2, *shape).clone()


def _check_call(network: nn.Module, example: Tensor, argument: str) -> None:
    """Run the network once, so that what is wrong with the call is not mistaken for a fault of tracing."""
    try:
        inspect.signature(network.forward).bind(example)
    except TypeError as error:
        raise InputError(f"net must take one input, samples first; its forward does not: {error}") from None
    try:
        with torch.no_grad():
            # Some networks change their input in place.
            result = network(example.clone())
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shape = ("m", *example.shape[1:])
        raise InputError(
            f"net does not accept {argument} of shape ({', '.join(map(str, shape))}): {first_line(error)}"
        ) from error
    if not isinstance(result, Tensor):
        raise InputError(f"net must return one tensor, samples first; it returns a {type(result).__name__}")
    if result.ndim == 0 or result.shape[0] != example.shape[0]:
        raise InputError(
            f"net must return one output per sample, samples first; for {example.shape[0]} samples it returns shape "
            f"{tuple(result.shape)}"
        )


def _exported(network: nn.Module, example: Tensor) -> Any:
    batch = {0: torch.export.Dim("batch")}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Of torch's own internals; what the network itself warns of was seen when it was run before.
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (example,), dynamic_shapes=(batch,), strict=False)
            program = program.run_decompositions(REWRITES)
    except Exception as error:  # torch.export raises errors of many unrelated classes
        raise UnsupportedOperationError(
            "net cannot be captured as one graph for any number of samples; usual reasons are control flow that "
            f"depends on the input (`if x.sum() > 0`) and a fixed number of samples. torch.export says: "
            f"{first_line(error)}",
            operation="torch.export",
            where="net",
        ) from error
    changed = list(program.graph_signature.buffers_to_mutate.values())
    if changed:
        raise InputError(f"net changes its own buffer {changed[0]!r} in evaluation mode, so it is not a function")
    return program


def _prune(module: GraphModule, output_name: str) -> None:
    """Keep only what the user's output depends on."""
    graph = module.graph
    (output,) = graph.find_nodes(op="output")
    output.args = (next(node for node in graph.nodes if node.name == output_name),)
    for node in reversed(graph.nodes):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)


def _constants(program: Any) -> dict[str, Tensor]:
    signature = program.graph_signature
    targets = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    stored = {**program.constants, **program.state_dict}
    return {name: stored[target].detach() for name, target in targets.items()}


def first_line(error: BaseException) -> str:
    """The first line of an error's message, since some of torch's run over many."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def module_path(node: Node) -> tuple[str, str]:
    """The path and the class of the module that calls the operation of ``node``; the network itself is ""."""
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    path, kind = next(reversed(stack.values()))
    return path, str(kind).rsplit(".", 1)[-1]


def location(node: Node) -> str:
    """Where a node stands in the network: the module's path, and the line of the user's code."""
    path, kind = module_path(node)
    place = f"in module {path!r}, a {kind}" if path else "in the network's own forward"
    torch_folder = str(Path(torch.__file__).parent)
    frames = re.findall(r'File "(.+)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or "")
    for file, line, code in reversed(frames):
        if not file.startswith(torch_folder):
            return f"{place}, at `{code.strip()}` ({Path(file).name}, line {line})"
    return place
