r"""``accelerate``: a network whose layers have the formats that a measurement on this machine found fastest."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from simplicit.checks import as_count, refused
from simplicit.implicit import ImplicitModel
from simplicit.network.prepare import evaluation_copy, in_single_precision, read_call
from simplicit.runtime.accelerated import Accelerated, FormatTable, Whole
from simplicit.runtime.compaction import compact as compact_network
from simplicit.runtime.formats import DENSE, FORMATS, plain_kind
from simplicit.runtime.formats.choosing import described
from simplicit.runtime.formats.layers import LINEAR
from simplicit.runtime.search import Samples, Search, exchange, faster, plain_layers

# The dtypes that formats have products in on a CPU.
_WIDE = (torch.float32, torch.float64)


@runtime_checkable
class HasNetwork(Protocol):
    """What gives a network when it is asked: the result of a fit."""

    def network(self) -> nn.Module:
        """The network."""
        ...


def accelerate(
    net: nn.Module | HasNetwork,
    example: Any,
    *,
    batch: int | Sequence[int] = 1,
    formats: Sequence[str] | None = None,
    compact: bool = False,
) -> Accelerated:
    """Make a network of the same outputs whose sparse layers are fast, by measurements on this machine.

    Parameters
    ----------
    net : nn.Module or FitResult
        It is copied, and read in evaluation mode.
    example : array, tensor, or tuple or mapping of them
        Inputs as the network takes them, samples first, of any number.
    batch : int or sequence of int
        How many samples it will be called with. It takes any number, in the formats of the nearest of these.
    formats : sequence of str, optional
        What layers may have beside "dense": "csr", "bsr4", "bsr8", "2:4". All that the weights allow if None.
    compact : bool
        Whether what its outputs do not depend on may be taken out first, as by :func:`simplicit.compact`: it is where
        the result takes less time. It is called as in the example from then on, and errors are those of that function
        too.

    Returns
    -------
    Accelerated
        A module; :meth:`Accelerated.formats` says what each layer has, and why.

    Raises
    ------
    InputError
        ``net`` is no network, is not a function of its inputs, or does not take the example; ``batch`` is no number of
        samples, or of more than memory holds; a format is unknown, or "2:4" is asked for without CUDA.
    """
    allowed, batches = _allowed(formats), _batches(batch)
    if isinstance(net, ImplicitModel):
        raise refused("net", "must be a network or the result of a fit; an ImplicitModel's predict plans by itself")
    given = net if isinstance(net, nn.Module) or not isinstance(net, HasNetwork) else net.network()
    network = evaluation_copy(given)
    device = next((parameter.device for parameter in given.parameters()), torch.device("cpu"))
    small = evaluation_copy(compact_network(given, example)) if compact else None
    if device.type == "cuda":
        return _on_gpu((small or network).to(device), allowed, batches)
    if "2:4" in (formats or ()):
        raise refused("formats", "'2:4' needs CUDA, and the network is on the CPU; move it by net.to('cuda') before")
    if any(parameter.dtype not in _WIDE for parameter in network.parameters()):
        single = copy.deepcopy(network)
        in_single_precision(single)
        read_call(single, example, None, "example")
        return _all_dense(small or network, allowed, batches)
    call, U, choice, _ = read_call(network, example, None, "example")
    samples = Samples(call, U, choice)
    try:
        found = Search(network, samples, allowed).best(batches)
        if small is not None:
            compacted = Search(small, samples, allowed).best(batches)
            found = compacted if faster(compacted, found, samples, batches) else found
        return found
    except RuntimeError as error:  # of torch's allocator, which has no class of its own on a CPU
        if "allocate memory" not in str(error):
            raise
        raise refused("batch", f"{max(batches):,} samples take more memory than there is; give fewer") from error


def _allowed(formats: Sequence[str] | None) -> tuple[str, ...]:
    if formats is None:
        return tuple(FORMATS)
    if (
        not isinstance(formats, Collection)
        or isinstance(formats, str)
        or not all(isinstance(name, str) for name in formats)
    ):
        raise refused("formats", f"must be a sequence of names, such as ('csr',), got {formats!r}")
    if unknown := [name for name in formats if name not in (DENSE, *FORMATS)]:
        raise refused("formats", f"{unknown[0]!r} is not one of {', '.join((DENSE, *FORMATS))}")
    return tuple(name for name in FORMATS if name in formats)


def _batches(batch: int | Sequence[int]) -> tuple[int, ...]:
    given = batch if isinstance(batch, Sequence) else (batch,)
    if not given or isinstance(batch, str):
        raise refused("batch", f"must be a number of samples, or several, got {batch!r}")
    return tuple(sorted({as_count("batch", one) for one in given}))


def _on_gpu(network: nn.Module, allowed: Sequence[str], batches: Sequence[int]) -> Accelerated:
    """Every layer whose weights are two of four in that format: the pattern has no other use there."""
    chosen, table = dict[str, str](), []
    for name, module in plain_layers(network).items():
        weight = module.weight.detach().flatten(1)
        refusals = {one: FORMATS[one].refusal(weight) for one in allowed} if plain_kind(module) == LINEAR else {}
        fitting = [one for one, why in refusals.items() if why is None]
        note = "by its pattern, not measured" if fitting else refusals.get("2:4") or "no format for it on a GPU"
        chosen |= dict.fromkeys([name], fitting[0]) if fitting else {}
        table += [described(name, module, b, b, fitting[0] if fitting else DENSE, 1.0, note) for b in batches]
    exchanged = exchange(network, {name: [(1, one)] for name, one in chosen.items()}, as_given=True)
    return Accelerated(exchanged, FormatTable(tuple(table), tuple(Whole(b, 1.0) for b in batches)))


def _all_dense(network: nn.Module, allowed: Sequence[str], batches: Sequence[int]) -> Accelerated:
    """A network in a dtype that no format has products in."""
    table = []
    for name, module in plain_layers(network).items():
        why = next((FORMATS[one].refusal(module.weight.detach().flatten(1)) for one in allowed), None)
        table += [described(name, module, b, b, DENSE, 1.0, why or "no format was allowed") for b in batches]
    return Accelerated(network, FormatTable(tuple(table), tuple(Whole(b, 1.0) for b in batches)))
