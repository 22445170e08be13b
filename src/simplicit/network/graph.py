r"""The graph of a network: captured by ``torch.export``, with in-place operations made functional.

torch.export traces the network with a symbolic number of samples and knows about aliasing, so that a view of a tensor
that is changed in place reads the changed values here as it does in torch. What is left is a list of calls of pure
operations, of which only those that reach the output are kept.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from simplicit.errors import UnsupportedOperationError, first_line
from simplicit.implicit.batch import Batch
from simplicit.network.prepare import (
    check_call,
    check_kind,
    evaluation_copy,
    network_dtype,
    refused_network,
    two_samples,
)
from simplicit.network.registry import REGISTRY, spelled
from simplicit.network.rewrites import REWRITES


@dataclass(frozen=True, eq=False)
class NetworkGraph:
    """A network in evaluation mode as a graph of pure operations, independent of the network it came from.

    Attributes
    ----------
    network : nn.Module
        The copy that was traced.
    module : GraphModule
        The graph, whose inputs are parameters, buffers and constants before the network's own input.
    constants : mapping of str to tensor
        The values of these inputs by their names, in order.
    parameters : frozenset of str
        The parameters, by their names in the network, on which the output depends.
    input_shape : tuple of int
        The shape of one sample.
    dtype : float32 or float64
        The dtype of the network.
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
        return last.args[0]  # type: ignore[no-any-return]


def capture_graph(net: nn.Module, example_input: Batch, argument: str = "example_input") -> NetworkGraph:
    """Capture the graph of ``net`` in evaluation mode; arguments are those of :func:`simplicit.from_torch`.

    ``argument`` is what the caller calls ``example_input``, for errors.

    Raises
    ------
    InputError
        ``net`` or ``example_input`` is not of this form, or not finite.
    UnsupportedOperationError
        The network cannot be traced, for instance because its control flow depends on the input.
    """
    network = evaluation_copy(net)
    check_kind(example_input, argument)
    dtype = network_dtype(network, example_input)
    example = two_samples(example_input, dtype, argument)
    check_call(network, example, argument)
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


def _exported(network: nn.Module, example: Tensor) -> Any:
    batch = {0: torch.export.Dim("batch")}
    try:
        with torch.no_grad(), _silence():
            program = torch.export.export(network, (example,), dynamic_shapes=(batch,), strict=False)
            if not all(_is_plain(node) for node in program.graph.nodes):
                # A quarter of a second, whatever the network: torch registers its 500 composite operations anew.
                program = program.run_decompositions(REWRITES)
    except Exception as error:  # torch.export raises errors of many unrelated classes
        raise UnsupportedOperationError(
            f"net cannot be captured as one graph for any number of samples: {_export_reason(error)}. torch.export "
            f"says: {first_line(error)}",
            operation="torch.export",
            where="net",
        ) from error
    if changed := [*program.graph_signature.buffers_to_mutate.values()]:
        raise refused_network(f"changes its own buffer {changed[0]!r} in evaluation mode, so it is not a function")
    return program


def _is_plain(node: Node) -> bool:
    """Whether the reader takes a node as it is: its operation is known, and changes nothing in place."""
    target: Any = node.target
    if node.op != "call_function":
        return True
    if not isinstance(target, OpOverload) or target in REWRITES or target._schema.is_mutable:
        return False
    return spelled(target.overloadpacket) in REGISTRY


@contextmanager
def _silence() -> Iterator[None]:
    """Silence torch's own warnings, log and dumps; what the network warns of was seen when it was run before."""
    before = logging.root.manager.disable
    # A graph that cannot be finished is printed to stderr, not logged.
    with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _export_reason(error: Exception) -> str:
    if "Constraints violated" in str(error):
        return (
            "it fixes the number of samples, as `len(x)` does (write x.shape[0]), a number in a view, or a module that "
            "was itself exported for one batch size (give torch.export a dynamic first dimension)"
        )
    return "a usual reason is control flow that depends on the input (`if x.sum() > 0`)"


def _prune(module: GraphModule, output_name: str) -> None:
    """Keep only what the user's output depends on."""
    graph = module.graph
    (output,) = graph.find_nodes(op="output")
    output.args = (next(node for node in graph.nodes if node.name == output_name),)
    for node in reversed(graph.nodes):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)


def _constants(program: Any) -> dict[str, Tensor]:
    names = program.graph_signature
    targets = names.inputs_to_parameters | names.inputs_to_buffers | names.inputs_to_lifted_tensor_constants
    stored = program.constants | program.state_dict
    return {name: stored[target].detach() for name, target in targets.items()}


def module_path(node: Node) -> tuple[str, str]:
    """Path and class of the module that calls the operation of ``node``; the network's own path is ""."""
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    path, kind = next(reversed(stack.values()))
    return path, str(kind).rsplit(".", 1)[-1]


def location(node: Node) -> str:
    """Where a node stands in the network, in words: the module's path, and the line of the user's code."""
    path, kind = module_path(node)
    place = f"in module {path!r}, a {kind}" if path else "in the network's own forward"
    torch_folder = str(Path(torch.__file__).parent)
    frames = re.findall(r'File "(.+)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or "")
    for file, line, code in reversed(frames):
        if not file.startswith(torch_folder):
            return f"{place}, at `{code.strip()}` ({Path(file).name}, line {line})"
    return place
