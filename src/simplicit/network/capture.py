"""The way in: a trained network is captured once, for its exact implicit model, its states and its weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from torch.fx import Node

from simplicit.implicit import Block, ImplicitModel, StateGroup
from simplicit.network.batches import gathered
from simplicit.network.behind import layers_behind
from simplicit.network.estimate import check_room
from simplicit.network.graph import NetworkGraph, capture_graph
from simplicit.network.prepare import evaluation_copy
from simplicit.network.probing import fixed_entries, holds_any
from simplicit.network.reader import read_model
from simplicit.network.reading import OpenedGroup
from simplicit.network.residual import last_of_blocks
from simplicit.network.states import States, record_states

# An output that is wired reads so many states or inputs on average at most.
_WIRES = 2


@dataclass(frozen=True, eq=False)
class Capture:
    """A network, captured once: its implicit model and all that is needed to record its states.

    Later changes of the network do not reach it.

    Attributes
    ----------
    model : ImplicitModel
        The exact implicit form.
    graph : NetworkGraph
        The graph it was read from.
    groups : mapping of Node to OpenedGroup
        The nodes of the graph that make states, with their groups, in the order of computation.
    """

    model: ImplicitModel
    graph: NetworkGraph
    groups: dict[Node, OpenedGroup]

    @classmethod
    def of(cls, graph: NetworkGraph, *, consumed: bool = False) -> Capture:
        """Read the implicit model of a graph; errors as :func:`~simplicit.network.reader.read_model` raises them.

        Where the graph is ``consumed``, the model is all that the capture is good for.
        """
        check_room(graph)
        model, groups = read_model(graph, consumed=consumed)
        return cls(model if graph.call.plain else model.with_inputs(graph.layout), graph, groups)

    @property
    def weight_count(self) -> int:
        """N₀, the entries of the weight matrices on which the output depends; see :func:`weight_count`."""
        return count_weights(self.graph.network, self.graph.parameters)

    @property
    def output_is_wired(self) -> bool:
        """Whether the output is states and inputs as they are, without weights and constants: an activation, mostly."""
        counts, q = self.model.part_nnz, self.model.n_outputs
        if self.model.output_bias.any() or counts["C"] + counts["D"] > _WIRES * q:
            return False
        fixed = fixed_entries(self.graph, lambda graph: read_model(graph)[0])
        return int(fixed[self.model.n_pre :].nnz) == counts["C"] + counts["D"]

    @property
    def layers_behind(self) -> dict[str, tuple[str, ...]]:
        """The network's own layers behind each group of states and the outputs; see :func:`layers_behind`."""
        return layers_behind(self.graph, self.groups)

    @cached_property
    def holds_any(self) -> bool:
        """Whether the network has a parameter of its own for every weight of M, and for every constant if for some.

        Rows of outputs that are wired do not count.
        """
        model = self.model
        rows = model.n_pre if self.output_is_wired else model.n_pre + model.n_outputs
        constants = bool(model.state_bias.any() or model.output_bias.any())
        return holds_any(self.graph, lambda graph: read_model(graph)[0], rows, constants=constants)

    def states(self, inputs: Any, *, batch_size: int = 1024, groups: tuple[StateGroup, ...] | None = None) -> States:
        """Record U, Z, X and Y of the network for ``inputs``, of all groups or of some; see :func:`extract_states`."""
        groups = self.model.groups if groups is None else groups
        return record_states(self.graph, self.groups, groups, self.model.n_outputs, inputs, batch_size)

    @property
    def block_groups(self) -> tuple[StateGroup, ...]:
        """The groups of the last activation of each residual block, in the order of the model.

        :mod:`simplicit.network.residual` says which they are.
        """
        elementwise = [node for node, one in self.groups.items() if _is_activation(one.group)]
        kept = {self.groups[node].group.name for node in last_of_blocks(self.graph, elementwise)}
        return tuple(group for group in self.model.groups if group.name in kept)


def _is_activation(group: StateGroup) -> bool:
    """Whether a group is what its network has as an activation, neither a block nor a linear map's own states."""
    return not isinstance(group.activation, Block) and group.activation.name != "identity"


def capture(net: nn.Module, example: Any, *, argument: str = "example", output: str | int | None = None) -> Capture:
    """Capture a trained network once, for its model and its states; arguments and errors are :func:`from_torch`'s."""
    return Capture.of(capture_graph(net, example, argument, output))


def from_torch(net: nn.Module, example: Any, output: str | int | None = None) -> ImplicitModel:
    r"""Return the exact implicit model x = φ(A x + B u + b), y = C x + D u + d of a network in evaluation mode.

    It has one group of states per activation, the last one first, so that A is strictly block upper triangular. A group
    is called like the activation's module ("layers.1"), or like the function and the module that calls it ("relu",
    "block.relu"), with a number where that is taken. Blocks are composed in float64 and rounded once to the network's
    dtype: ``from_torch(net, u).predict(u)`` equals ``net(u)`` up to rounding.

    The graph is that of two samples or more: where a network does something else for a single one
    (``if x.shape[0] > 1``), it is the branch for several that is represented.

    Parameters
    ----------
    net : nn.Module
        It takes and returns tensors (m, ...); it is never changed. Of ``torch.compile`` and ``DataParallel`` what is
        inside is read. Weights that are computed (masks of ``torch.nn.utils.prune``, weight and spectral norm, other
        parametrisations) count as the plain weights that they are at present. float16 and bfloat16 weights are read in
        float32: the model is that of ``net.float()``.
    example : array (m, ...), or a tuple, list or mapping of arrays, m >= 1
        What ``net`` is called with: one array, arrays in order, or by the names of its arguments; NumPy or torch, with
        floating-point numbers, integers or booleans. bool, int, float, str and None among them are constants, which
        are part of the model (``use_cache=False``). Shapes and dtypes count; values do not. Of an iterable of such
        batches, the first is taken. Several arrays lie side by side in U, as ``model.inputs`` says.
    output : str or int, optional
        Which output is represented where there are several: its key, its keys or places joined by dots, its place
        among all of them from 0, or ``"all"``, which joins the floating-point ones along features. Default: the first
        with floating-point numbers and samples first.

    Returns
    -------
    ImplicitModel
        With inputs and outputs flattened in C order, in the dtype of the network. ``predict`` also takes inputs in the
        form of the example.

    Raises
    ------
    InputError
        ``net`` or ``example`` is not of this form, has NaN or infinite values or integers that the dtype does not hold;
        there is no such output; or ``net`` is not a function of its input, because its forward changes buffers or
        attributes that it reads.
    UnsupportedOperationError
        The network has an operation without exact implicit form, cannot be traced, or would take far more memory to
        capture than to run; the message names the operation, its place, and what is supported or to do.

    Warns
    -----
    TrainingModeWarning
        ``net`` is in training mode.
    """
    return Capture.of(capture_graph(net, example, output=output), consumed=True).model


def extract_states(net: nn.Module, inputs: Any, *, batch_size: int = 1024, output: str | int | None = None) -> States:
    """Record inputs, pre-activations, states and outputs of a network in evaluation mode.

    They are read from the same graph as :func:`from_torch`, so that Z (before φ) and X = φ(Z) are right for functional
    and in-place activations too, and columns have the order of the model's states.

    Parameters
    ----------
    net : nn.Module
        As for :func:`from_torch`.
    inputs : array (m, ...), tuple, list or mapping of arrays, or an iterable of batches
        As ``net`` takes them; see :func:`fit`.
    batch_size : int
        How many samples run through the network at once, which bounds the memory taken beyond the result.
    output : str or int, optional
        As for :func:`from_torch`.

    Returns
    -------
    States
        With arrays in the network's dtype.

    Raises
    ------
    InputError, UnsupportedOperationError
        As :func:`from_torch`.
    """
    inputs = gathered(net, inputs, "inputs")
    return capture(net, inputs, argument="inputs", output=output).states(inputs, batch_size=batch_size)


def weight_count(net: nn.Module) -> int:
    """Count N₀, the entries of all weight matrices and kernels (parameters with at least two dimensions).

    Biases and other vectors are not counted; a tied weight is counted once, and a computed one (weight norm) as the
    tensor that it is. :attr:`Capture.weight_count` also leaves out parameters that do not reach the output.
    """
    network = evaluation_copy(net)
    return count_weights(network, {name for name, _ in network.named_parameters(remove_duplicate=False)})


def count_weights(network: nn.Module, names: Collection[str]) -> int:
    """The entries of the matrices among the parameters of these names, each parameter once."""
    weights = {id(parameter): parameter for parameter in map(network.get_parameter, names)}
    return sum(weight.numel() for weight in weights.values() if weight.ndim >= 2)
