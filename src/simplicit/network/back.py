r"""Back to the network: a copy of it, of its own class and with its own state_dict keys, with other weights.

A training that changed the network's own constants puts them back into their places (:func:`with_constants`). One that
changed M = [[A, B], [C, D]] finds out which entries are which parameters (:class:`NetworkTemplate`); where the states
of the model are x/s, in the units s of Theorem 2.4, that is undone first: A = S⁻¹ A' S, B = S⁻¹ B', C = C' S with
S = diag(1/s).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from simplicit.implicit import ImplicitModel, scaling_vector
from simplicit.network.capture import Capture
from simplicit.network.folds import unfolded
from simplicit.network.graph import NetworkGraph
from simplicit.network.probing import parameters_for


@dataclass(frozen=True, eq=False)
class NetworkTemplate:
    """A network as it was captured, into which the weights of models of its form can be written.

    Attributes
    ----------
    captured : Capture
        The network.
    units : ImplicitModel, optional
        The model whose scaling vector s divides the states of such models; None where they are in the network's own
        units.
    """

    captured: Capture
    units: ImplicitModel | None = None

    def network(self, model: ImplicitModel) -> nn.Module:
        """Return a copy of the network, of its class and dtype and in evaluation mode, with the weights of ``model``.

        Raises
        ------
        InputError
            M has weights where the network's has none; a block is composed of several parameters, or is a constant of
            the network, and was trained to other values; one parameter stands at several places that differ now;
            constants have no bias to go to.
        """
        scale = scaling_vector(self.units) if self.units is not None and model.n_states else np.ones(model.n_states)
        graph = self.captured.graph
        return with_parameters(graph, parameters_for(graph, model, scale))


def with_parameters(graph: NetworkGraph, values: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the graph's network, in evaluation mode, with other values of parameters, by their names."""
    network = copy.deepcopy(graph.network)
    with torch.no_grad():
        for name, value in values.items():
            network.get_parameter(name).copy_(value)
    return _as_it_came(network, graph)


def with_constants(graph: NetworkGraph, changed: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the network, in evaluation mode, with new values of the graph's constants in their places.

    Parameters
    ----------
    graph : NetworkGraph
    changed : mapping of str to tensor
        New values by the names of ``graph.constants``.
    """
    parameters = dict(graph.network.named_parameters())
    places = {graph.constants[name].data_ptr(): value for name, value in changed.items() if name not in graph.folds}
    places |= {parameters[name].data_ptr(): value for name, value in unfolded(graph.folds, parameters, changed).items()}
    network = copy.deepcopy(graph.network)
    pairs = [
        *zip(graph.network.parameters(), network.parameters(), strict=True),
        *zip(graph.network.buffers(), network.buffers(), strict=True),
    ]
    with torch.no_grad():
        for old, new in pairs:
            if old.numel() and old.data_ptr() in places:
                new.copy_(places[old.data_ptr()].reshape(new.shape))
    return _as_it_came(network, graph)


def _as_it_came(network: nn.Module, graph: NetworkGraph) -> nn.Module:
    """The network with what was in half precision in that dtype again."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name in graph.halves:
            tensor.data = tensor.data.to(graph.halves[name])
    return network
