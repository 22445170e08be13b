"""Compaction of a network: captured, analysed, rewritten, and compared with what it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from simplicit.checks import lookups_checked, refused
from simplicit.network.batches import first_batch
from simplicit.network.outputs import tensors_of
from simplicit.network.prepare import evaluation_copy, in_single_precision, read_call
from simplicit.runtime.compaction.analysis import Analysis
from simplicit.runtime.compaction.module import CompactNetwork, Removed
from simplicit.runtime.compaction.program import Program, erase_unused, program_of
from simplicit.runtime.compaction.rewriting import rewritten, same


def compact_network(net: nn.Module, example: Any) -> CompactNetwork:
    """A network's smaller one; arguments and errors are those of :func:`~simplicit.compact`."""
    network = evaluation_copy(net)
    in_single_precision(network)
    example = first_batch(network, example, "example")
    call, U, _, _ = read_call(network, example, None, "example")
    program = program_of(network, call, U)
    names = [spec.name for spec in call.layout.specs]
    arrays = dict(zip(names, call.layout.unpack(U), strict=True))
    with torch.no_grad(), lookups_checked():
        analysis = Analysis(program, arrays)
        while _without_zeros(analysis):
            analysis = Analysis(program, arrays)
        smaller, kept = rewritten(analysis)
    module = CompactNetwork(smaller, call, _removed(program, smaller, kept), _dropped(network, smaller))
    _freeze(network, module)
    _check(network, module, call.arguments(_three(U)))
    return module


def _three(U: Tensor) -> Tensor:
    """Another number of samples than those that were tried."""
    return torch.cat([U, U[:1]])


def _without_zeros(analysis: Analysis) -> bool:
    """Leave out what only adds zeros; whether there was anything."""
    facts, found = analysis.facts, False
    for node in analysis.rules:
        if str(node.target) != "aten.add.Tensor" or node.kwargs:
            continue
        for one, other in (node.args[:2], node.args[1::-1]):
            if not isinstance(one, Node) or not isinstance(other, Node):
                continue
            value, rest = facts.values[one], facts.values[other]
            if not isinstance(value, Tensor) or not isinstance(rest, Tensor):
                continue
            zero = not bool(facts.varies[one].any()) and not bool(value.any())
            if zero and (rest.shape, rest.dtype) == (facts.values[node].shape, facts.values[node].dtype):
                node.replace_all_uses_with(other)
                found = True
                break
    erase_unused(analysis.program.graph)
    return found


def _removed(before: Program, after: Program, kept: dict[Node, Any]) -> Removed:
    """What is gone of each tensor that is left."""
    gone = {}
    for node in before.graph.find_nodes(op="get_attr"):
        name, shape = str(node.target), tuple(before.constants[str(node.target)].shape)
        if name in after.constants and tuple(after.constants[name].shape) != shape:
            axes = {axis: tuple((~places).nonzero().flatten().tolist()) for axis, places in enumerate(kept[node])}
            gone[name] = (shape, {axis: places for axis, places in axes.items() if places})
    return gone


def _dropped(network: nn.Module, after: Program) -> tuple[str, ...]:
    """The tensors of the network that are not there any more; a tied one is there where one of its names is."""
    state = network.state_dict(keep_vars=True)
    there = {id(value) for name, value in state.items() if name in after.constants}
    return tuple(name for name, value in state.items() if name not in after.constants and id(value) not in there)


def _freeze(network: nn.Module, module: CompactNetwork) -> None:
    """Leave those parameters without gradients that have none in the network, and new ones of a frozen part."""
    trained = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    parts = {name.rpartition(".")[0] for name, is_trained in trained.items() if is_trained}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trained.get(name, name.rpartition(".")[0] in parts))


def _check(network: nn.Module, module: CompactNetwork, given: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    """Compare the networks on samples, as many as were not tried before."""
    in_order, by_name = given
    with torch.no_grad():
        wanted, found = (tensors_of(one(*in_order, **by_name)) for one in (network, module))
    for name, value in wanted.items():
        if not same(found[name], value, torch.ones(value.shape, dtype=torch.bool)):
            raise refused("net", f"its output {name!r} differs once it is compacted; it may be random")
