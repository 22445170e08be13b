"""Weights from a file or a folder into a network of the user's class, all of them or none, and never code.

Names are matched with the network's first, then shapes and kinds of numbers are compared, and only then is anything
written, into the parameters and buffers that are there: optimisers, ties and hooks keep what they hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from simplicit.checks import as_network, as_path
from simplicit.errors import DataError, first_line
from simplicit.files import CONFIG
from simplicit.network.wrappers import unwrapped
from simplicit.runtime.files.checkpoints import read_state
from simplicit.runtime.files.folder import ARRAYS, read_folder
from simplicit.runtime.files.packing import Packed

# What wrappers put before all names: data parallel training, torch.compile, Lightning and modules around a network.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
_SHOWN = 3
T = TypeVar("T")


def load_weights(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load weights into a network, every tensor that there is and nothing else; a failed load changes nothing.

    Names may stand behind those of wrappers (``module.``, ``_orig_mod.``, ``model.``), weights beside the masks of
    ``torch.nn.utils.prune``, and tensors that the network shares under one of their names. Where the network has a
    parametrisation, or a mask of ``torch.nn.utils.prune``, of a weight that comes plain, the weight goes through the
    parametrisation's inverse, or into the masked weight, whose mask then has its zeros.

    Parameters
    ----------
    net : torch.nn.Module
        Of the class of the network that was saved; it may be wrapped by ``torch.compile`` or ``DataParallel``, be on
        any device and have another floating-point dtype, into which the numbers are rounded then.
    path : path
        A folder that :func:`simplicit.save` wrote of a network, a ``.safetensors`` file, or a checkpoint that
        ``torch.load(weights_only=True)`` reads.

    Raises
    ------
    InputError
        ``net`` is no network, or ``path`` no path.
    DataError
        What is there is missing, damaged, truncated or of an unknown version, holds pickled objects, NaN or infinite
        values of what is no buffer, or tensors that do not fit ``net``.
    """
    as_network("net", net)
    place, net = as_path("path", path), unwrapped(net)
    own = net.state_dict()
    state = _matched(read_folder(place) if place.is_dir() else _read_dense(place, own), own)
    through = {name: chain for name, chain in _chains(net).items() if name in state and name not in own}
    inside = {name for chain in through.values() for name in chain.parts}
    targets = {name: tensor for name, tensor in own.items() if isinstance(tensor, Tensor) and name not in inside}
    # Checkpoints of old versions of torch lack the counters of batch norms, which evaluation does not use.
    counters = {name for name in targets if name.endswith("num_batches_tracked")} - state.keys()
    _check_names(place, state, (targets.keys() | through.keys()) - counters)
    for name, packed in state.items():
        _check_fits(f"{place}: {name}", packed, through[name].shown() if name in through else targets[name])
    _check_finite(place, state, net)
    _check_ties(place, state, targets)
    _write(place, net, {name: state[name] for name in targets.keys() & state.keys()}, targets, through, state)


def files_of(path: Path) -> list[Path]:
    """The files that :func:`load_weights` reads."""
    return [path / CONFIG, path / ARRAYS] if path.is_dir() else [path]


def _read_dense(path: Path, own: Mapping[str, Tensor]) -> dict[str, Packed]:
    state = _unmasked(_unwrapped(read_state(path), own), own)
    return {name: Packed.of(tensor) for name, tensor in state.items()}


def _matched(state: dict[str, Packed], own: Mapping[str, Tensor]) -> dict[str, Packed]:
    """The state under the network's own names, those of tensors that it has under several included."""
    state = _unwrapped(state, own)
    if own.keys() <= state.keys():
        return state
    places: dict[Any, str] = {}
    for name, tensor in own.items():
        if name in state and (key := _memory(tensor)) is not None:
            places[key] = name
    keys = {name: _memory(tensor) for name, tensor in own.items() if name not in state}
    return state | {name: state[places[key]] for name, key in keys.items() if key in places}


def _memory(tensor: Any) -> Any:
    """What two tensors have in common that are one; None of an empty one."""
    if not isinstance(tensor, Tensor) or not tensor.numel():
        return None
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.device


def _unwrapped(state: dict[str, T], own: Mapping[str, Tensor]) -> dict[str, T]:
    """The state without what wrappers put before all of its names, as long as none is a name of the network's own."""
    while state and not own.keys() & state.keys():
        before = next((one for one in _WRAPPERS if all(name.startswith(one) for name in state)), None)
        if before is None:
            break
        state = {name.removeprefix(before): tensor for name, tensor in state.items()}
    return state


def _unmasked(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with products in the place of weights and their masks, where the network knows neither."""
    found = dict(state)
    for name in state:
        whole = name.removesuffix("_orig")
        mask = f"{whole}_mask"
        if name != whole and whole in own and name not in own and mask in state and mask not in own:
            weight, kept = found.pop(name), found.pop(mask)
            found[whole] = weight * kept if weight.shape == kept.shape else weight
    return found


def _check_names(path: Path, state: Mapping[str, Packed], wanted: Iterable[str]) -> None:
    missing, unknown = sorted(set(wanted) - state.keys()), sorted(state.keys() - set(wanted))
    if not missing and not unknown:
        return
    kinds = ("misses", missing), ("has unknown", unknown)
    defects = [f"{kind} {_some(names)}" for kind, names in kinds if names]
    nearest = get_close_matches(unknown[0], missing or [*wanted], n=1) if unknown else []
    hint = f" (the nearest that it has to {unknown[0]} is {nearest[0]})" if nearest and nearest[0] != unknown[0] else ""
    raise DataError(f"{path}: not the weights of this network, {' and '.join(defects)}{hint}")


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + rest


def _check_fits(what: str, packed: Packed, target: Tensor) -> None:
    if packed.shape != target.shape:
        raise DataError(f"{what} has shape {tuple(packed.shape)}, the network {tuple(target.shape)}")
    if target.is_meta:
        raise DataError(f"{what}: the network has no values there (device meta); make it with to_empty(device=) first")
    kinds = {(dtype.is_floating_point, dtype.is_complex) for dtype in {packed.dtype, target.dtype}}
    if len(kinds) > 1:  # torch would cast, and drop what is lost
        raise DataError(
            f"{what} has dtype {packed.dtype}, the network {target.dtype}; save real weights, "
            "integers of a quantised network multiplied by their scales"
        )


def _check_finite(path: Path, state: Mapping[str, Packed], net: nn.Module) -> None:
    """Refuse NaN and infinite values but in buffers, which masks of attention are."""
    unsound = [name for name, packed in state.items() if not packed.is_finite()]
    buffers = {name for name, _ in net.named_buffers(remove_duplicate=False)} if unsound else set()
    for name in unsound:
        if name not in buffers:
            raise DataError(f"{path}: {name} has NaN or infinite values; the training diverged, train again")


def _check_ties(path: Path, state: Mapping[str, Packed], targets: Mapping[str, Tensor]) -> None:
    """Refuse different numbers for what is one tensor in the network."""
    first: dict[Any, str] = {}
    for name, tensor in targets.items():
        if name not in state or (key := _memory(tensor)) is None:
            continue
        other = first.setdefault(key, name)
        if state[other] is not state[name] and not torch.equal(state[other].dense(), state[name].dense()):
            raise DataError(f"{path}: {other} and {name} differ, and are one tensor in the network; untie them there")


@dataclass(frozen=True, eq=False)
class _Chain:
    """A weight ``name`` of a module that is computed from the state ``parts``; ``mask`` is that of its pruning."""

    module: nn.Module
    name: str
    parts: tuple[str, ...]
    mask: prune.BasePruningMethod | None = None

    def shown(self) -> Tensor:
        """The weight as the network computes it now."""
        with torch.no_grad():
            module, mask = self.module, self.mask
            found: Tensor = mask.apply_mask(module) if mask else getattr(module, self.name)  # type: ignore[no-untyped-call]
            return found

    def write(self, packed: Packed) -> bool:
        """Set the weight; whether the network then computes it, to rounding."""
        value = packed.into(torch.empty_like(self.shown()))
        if self.mask is None:
            setattr(self.module, self.name, value)
        else:
            getattr(self.module, f"{self.name}_orig").copy_(value)
            getattr(self.module, f"{self.name}_mask").copy_(value != 0)
            setattr(self.module, self.name, self.shown())
        tolerance = 16 * torch.finfo(value.dtype).eps * float(value.abs().max()) if value.numel() else 0.0
        return bool(((self.shown() - value).abs() <= tolerance).all())


def _chains(net: nn.Module) -> dict[str, _Chain]:
    """The computed weights of a network that can be set, by the names of the plain ones."""
    found: dict[str, _Chain] = {}
    for where, module in net.named_modules():
        before = f"{where}." if where else ""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod):
                name: str = hook._tensor_name
                found[before + name] = _Chain(module, name, (f"{before}{name}_orig", f"{before}{name}_mask"), hook)
        if parametrize.is_parametrized(module):
            chains: Any = module.parametrizations
            for name, chain in chains.items():
                inner = f"{before}parametrizations.{name}."
                found[before + name] = _Chain(module, name, tuple(inner + one for one in chain.state_dict()))
    return found


def _write(
    path: Path,
    net: nn.Module,
    plain: Mapping[str, Packed],
    targets: Mapping[str, Tensor],
    through: Mapping[str, _Chain],
    state: Mapping[str, Packed],
) -> None:
    """Write computed weights, which may refuse, then all others, which fit."""
    with torch.no_grad():
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()} if through else {}
        for name, chain in through.items():
            try:
                defect = None if chain.write(state[name]) else "it makes another weight of it"
            except Exception as error:  # a parametrisation is the user's own code
                defect = f"{type(error).__name__}: {first_line(error)}"
            if defect:
                net.load_state_dict(before)
                remedy = "load into a network without it (torch.nn.utils.parametrize.remove_parametrizations)"
                raise DataError(f"{path}: {name} does not go through the network's parametrisation, {defect}; {remedy}")
        own = {_memory(tensor) for tensor in (*net.parameters(), *net.buffers())}
        if all(_memory(targets[name]) in own for name in plain if targets[name].numel()):
            for name, packed in plain.items():
                packed.into(targets[name])
        else:  # a module that makes its state_dict itself takes it itself
            net.load_state_dict({name: packed.dense() for name, packed in plain.items()}, strict=False)
