r"""The graph of a network: captured by ``torch.export``, with in-place operations made functional.

torch.export traces the network with a symbolic number of samples and knows about aliasing, so that a view of a tensor
that is changed in place reads the changed values here as it does in torch. What is left is a list of calls of pure
operations, of which only those that reach the output are kept.

Its input is U. Where the network takes several arrays, or integers, the graph begins with operations that unpack them
(:mod:`simplicit.implicit.inputs`), so that whoever runs, differentiates or reads it has one input of one dtype.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.graph_signature import OutputKind
from torch.fx import Graph, GraphModule, Node

from simplicit.implicit.batch import TORCH_DTYPES
from simplicit.implicit.inputs import InputLayout, first_array, is_several
from simplicit.network.batches import first_batch
from simplicit.network.calls import Call, check_kind
from simplicit.network.choices import write_choices
from simplicit.network.exporting import exported
from simplicit.network.folds import Fold
from simplicit.network.outputs import Choice
from simplicit.network.prepare import evaluation_copy, in_single_precision, read_call
from simplicit.network.unrolling import unroll

_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


@dataclass(frozen=True, eq=False)
class NetworkGraph:
    """A network in evaluation mode as a graph of pure operations, independent of the network it came from.

    Attributes
    ----------
    network : nn.Module
        The copy that was traced.
    module : GraphModule
        The graph, whose inputs are parameters, buffers and constants before U, the one input, which it unpacks itself.
    constants : mapping of str to tensor
        The values of these inputs by their names, in order.
    parameters : frozenset of str
        The parameters, by their names in the network, on which the output depends.
    dtype : float32 or float64
        The dtype of the network.
    call : Call
        How the network is called; ``call.layout`` says what lies where in U.
    choice : Choice
        Which of its outputs the graph computes.
    example : tensor (2, *input_shape)
        Two samples.
    samples : int
        How many there were.
    halves : mapping of str to dtype
        The parameters and buffers that were in half precision, by name, with the dtype that they had.
    folds : mapping of str to Fold
        How those of the constants that are computed of a parameter depend on it.
    """

    network: nn.Module
    module: GraphModule
    constants: dict[str, Tensor]
    parameters: frozenset[str]
    dtype: np.dtype[Any]
    call: Call
    choice: Choice
    example: Tensor
    samples: int
    halves: Mapping[str, torch.dtype]
    folds: Mapping[str, Fold] = field(default_factory=dict)

    def __repr__(self) -> str:
        what = f"{len(self.parameters)} parameters of {type(self.network).__name__}, {self.dtype}"
        return f"NetworkGraph({what}, {len(self.module.graph.nodes)} nodes, output {self.output_name!r})"

    @property
    def layout(self) -> InputLayout:
        """What lies where in U, (m, p)."""
        return self.call.layout

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample as the graph takes it: of the input where there is one, else (p,)."""
        return self.layout.shape

    @property
    def output_name(self) -> str:
        """The output that the graph computes, by which :func:`capture_graph` takes it again."""
        return self.choice.name

    @property
    def output(self) -> Node:
        """The node whose value is the network's output."""
        (last,) = self.module.graph.find_nodes(op="output")
        return last.args[0]  # type: ignore[no-any-return]

    def taken(self) -> dict[str, Tensor]:
        """The constants, which nobody else has afterwards: not the graph, which cannot be run, and not the network."""
        taken = dict(self.constants)
        self.constants.clear()
        for module in self.network.modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    tensor.data = torch.empty(0, dtype=tensor.dtype)
        return taken

    def batch(self, inputs: Any, argument: str = "inputs") -> Tensor:
        """U (m, p) for inputs in the form of the example, or for U itself, (m, p) or (m, *input_shape).

        InputError is raised where they do not fit, as :meth:`~simplicit.implicit.inputs.InputLayout.pack` says.
        """
        if not is_several(inputs):
            check_kind(inputs, argument)
        return self.layout.pack(inputs, self.dtype, argument)

    def given(self, dtype: np.dtype[Any] | None = None) -> Any:
        """Two samples in the form in which the network takes them, floating-point numbers in ``dtype``."""
        U = self.example if dtype is None else self.example.to(TORCH_DTYPES[dtype])
        return self.call.given(U)


def capture_graph(
    net: nn.Module, example: Any, argument: str = "example", output: str | int | None = None
) -> NetworkGraph:
    """Capture the graph of ``net`` in evaluation mode; arguments are those of :func:`simplicit.from_torch`.

    ``argument`` is what the caller calls ``example``, for errors.

    Raises
    ------
    InputError
        ``net`` or ``example`` is not of this form, or not finite; there is no such ``output``.
    UnsupportedOperationError
        The network cannot be traced, for instance because its control flow depends on the input; the message names the
        line of its code.
    """
    network = evaluation_copy(net)
    halves = in_single_precision(network)
    example = first_batch(network, example, argument)
    call, U, choice, dtype = read_call(network, example, output, argument)
    program, parameters = exported(network, call, choice, U)
    _prune(program)
    unroll(program.graph_module)
    _reshape(program.graph_module)
    used = {node.name for node in program.graph.find_nodes(op="placeholder") if node.users}
    return NetworkGraph(
        network=network,
        module=program.graph_module,
        constants=_constants(program),
        parameters=frozenset(name for placeholder, name in parameters.items() if placeholder in used),
        dtype=dtype,
        call=call,
        choice=choice,
        example=U,
        samples=len(first_array(example)),
        halves=halves,
    )


def _reshape(module: GraphModule) -> None:
    """Write views as reshapes, in place: where a program is run with gradients, or on other values of torch's choosing,
    results may lie in memory in another way than when it was exported, and a view of them is an error."""
    for node in module.graph.nodes:
        if node.target in _VIEWS:
            node.args, node.kwargs = (node.args[0], node.kwargs.get("size", node.args[-1])), {}
            node.target = torch.ops.aten.reshape.default
    module.recompile()


def _prune(program: Any) -> None:
    """Keep only what the user's output depends on."""
    graph, specs = program.graph, program.graph_signature.output_specs
    (place,) = (k for k, spec in enumerate(specs) if spec.kind is OutputKind.USER_OUTPUT)
    (output,) = graph.find_nodes(op="output")
    output.args = (output.args[0][place],)
    _erase_unused(graph)
    write_choices(graph)
    _erase_unused(graph)


def _erase_unused(graph: Graph) -> None:
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
    others = str(Path(torch.__file__).parent), str(Path(__file__).parent)  # ours unpacks inputs
    frames = re.findall(r'File "(.+)", line (\d+), in .*\n\s*(.*)', node.meta.get("stack_trace") or "")
    for file, line, code in reversed(frames):
        if not file.startswith(others):
            return f"{place}, at `{code.strip()}` ({Path(file).name}, line {line})"
    return place
