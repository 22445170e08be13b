"""A network as it was before it was wrapped: compiled, spread over devices, pruned by masks, its weights computed.

Of a wrapped network the network inside is taken. Weights that are computed anew at every call from parameters that do
not change in evaluation mode (masks of ``torch.nn.utils.prune``, weight and spectral norm of either kind, any
parametrisation) are *baked*: their present values become plain parameters of a copy, in modules of the plain class.
They are the same numbers, the rows of a layer are fitted to them as to any other, and what comes back computes the same
without the machinery; so its ``state_dict`` has ``weight`` where the network's had ``weight_orig`` and ``weight_mask``,
or ``weight_g`` and ``weight_v``.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

#: Wrappers by the name of their class, with the attribute that holds the network; the classes are slow to import.
_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}


def unwrapped(net: nn.Module) -> nn.Module:
    """The network inside of ``torch.compile`` and of ``DataParallel``, however often it is wrapped."""
    while (attribute := _WRAPPERS.get(type(net).__name__)) is not None and type(net).__module__.startswith("torch."):
        net = getattr(net, attribute)
    return net


def copied(net: nn.Module) -> nn.Module:
    """A copy on the CPU in which also modules inside of others are unwrapped; errors are those of ``deepcopy``."""
    # Hooks leave what they computed as an attribute, which deepcopy refuses where it belongs to a graph of gradients.
    computed: dict[int, Any] = {id(value): value.detach().clone() for value in _computed(net)}
    # Of torch's own internals, about gradients and tree specifications that are copied too.
    with warnings.catch_warnings(action="ignore"):
        network = copy.deepcopy(net, computed).to("cpu")
    for parent in [*network.modules()]:
        for name, child in [*parent.named_children()]:
            if (inner := unwrapped(child)) is not child:
                setattr(parent, name, inner)
    return network


def plain(net: nn.Module) -> nn.Module:
    """The network inside of wrappers, if all of its weights are plain; else a copy in evaluation mode, baked."""
    inner = unwrapped(net)
    if not any(unwrapped(child) is not child or is_computed(child) for child in inner.modules()):
        return inner
    network = copied(inner).eval()
    bake(network)
    return network


def is_computed(module: nn.Module) -> bool:
    """Whether weights of a module itself, and not of those inside, are computed from others."""
    hooks = (prune.BasePruningMethod, WeightNorm, SpectralNorm)
    return parametrize.is_parametrized(module) or any(
        isinstance(hook, hooks) for hook in module._forward_pre_hooks.values()
    )


def _computed(net: nn.Module) -> list[Tensor]:
    held = [value for module in net.modules() for value in (*vars(module).values(), *module._buffers.values())]
    return [value for value in held if isinstance(value, Tensor) and not value.is_leaf]


def bake(network: nn.Module) -> None:
    """Make plain parameters of all computed weights of a network, which is in evaluation mode and may be changed."""
    with torch.no_grad():
        for module in [*network.modules()]:
            for hook in [*module._forward_pre_hooks.values()]:
                _remove_hook(module, hook)
            if parametrize.is_parametrized(module):
                _remove_parametrizations(module)


def _remove_hook(module: nn.Module, hook: Any) -> None:
    if isinstance(hook, prune.BasePruningMethod):
        name = f"{hook._tensor_name}_orig"  # it is overwritten, also where another module has it
        setattr(module, name, nn.Parameter(getattr(module, name).detach().clone()))
        prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
    elif isinstance(hook, WeightNorm):
        remove_weight_norm(module, hook.name)
    elif isinstance(hook, SpectralNorm):
        remove_spectral_norm(module, hook.name)


def _remove_parametrizations(module: Any) -> None:
    # A copy shares the class that torch made for the one module, and to remove anything changes that class.
    shared = type(module)
    own_parts = {name: part for name, part in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, own_parts)
    for name, chain in [*module.parametrizations.items()]:
        values = [getattr(module, name).detach().clone() for _ in range(2)]
        if not torch.equal(*values):
            continue  # random in evaluation mode too: it is refused by its name later
        own = [*chain.parameters()]
        if hasattr(chain, "original") and own:  # it would be overwritten, also where another module has it
            chain.original = nn.Parameter(chain.original.detach().clone())
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        if own:
            setattr(module, name, nn.Parameter(values[0], requires_grad=any(one.requires_grad for one in own)))
