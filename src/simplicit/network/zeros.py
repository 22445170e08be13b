r"""A sparse network goes on in torch with its zeros kept, whatever the optimiser.

Let Z be the places of the zeros and P the projection that clears them. Two things keep a network in {w : w_Z = 0}:

1. The gradient of each such parameter is projected where autograd hands it over, before it is added to ``.grad``. So
   everything that works on gradients, clipping by their norm, accumulation, the closures of LBFGS, sees those of the
   sparse network. Steps that act on each entry alone, or along combinations of gradients (SGD with momentum, Adam,
   AdamW, LBFGS), then leave w_Z at 0, for weight decay of 0 is 0.
2. After the step of any ``torch.optim.Optimizer`` that holds such a parameter, w is set to Pw. This takes care of what
   mixes entries (Muon, Shampoo), adds noise, or comes with a momentum of before.

A parametrisation by a mask does the same for the product, but renames the parameter, so that the state_dict does not
fit the class, and an optimiser that exists already holds another tensor. A hook on one optimiser alone has to be set
again for each, lets the gradients of absent weights into norms, and LBFGS search along them. Masks in ``forward`` cost
time at every call, and are in the way of ``torch.compile``. Here parameters, names, classes and ``forward`` stay as
they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from simplicit.checks import as_network, refused
from simplicit.network.wrappers import is_computed, unwrapped

#: Where a network has its handle, so that copies of it are made with one of their own.
_ATTRIBUTE = "_simplicit_kept_zeros"
_NEAREST = 3


class KeptZeros:
    """The handle that :func:`keep_zeros` returns; as a context manager it is removed at the end.

    Attributes
    ----------
    zeros : mapping of str to tensor
        Where each parameter is kept at zero, by its name: masks of its shape, True for a zero.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], zeros: Mapping[str, Tensor]) -> None:
        self.zeros = dict(zeros)
        self._parameters = dict(parameters)
        self._hooks = {name: self._watched(name) for name in zeros if parameters[name].requires_grad}
        if zeros:
            _live.add(self)
            _watch_optimisers()

    def _watched(self, name: str) -> RemovableHandle:
        def projected(gradient: Tensor) -> Tensor:
            if gradient.layout != torch.strided:
                return gradient  # of an embedding: its step is projected
            return gradient.masked_fill(self._on(name, gradient.device), 0)

        hook: RemovableHandle = self._parameters[name].register_hook(projected)  # type: ignore[no-untyped-call]
        return hook

    def _on(self, name: str, device: torch.device) -> Tensor:
        """The mask of a parameter on the device where it is used, to which it moves."""
        if self.zeros[name].device != device:
            self.zeros[name] = self.zeros[name].to(device)
        return self.zeros[name]

    def restore(self, among: Iterable[Tensor] | None = None) -> None:
        """Set the zeros now, of all parameters or of those ``among`` some tensors."""
        wanted = None if among is None else {id(tensor) for tensor in among}
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if wanted is None or id(parameter) in wanted:
                    parameter.masked_fill_(self._on(name, parameter.device), 0)
                    if parameter.requires_grad and name not in self._hooks:  # it was frozen
                        self._hooks[name] = self._watched(name)

    def remove(self) -> None:
        """Let the weights go free; those that are zero stay so until they are trained."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        self._parameters.clear()
        _live.discard(self)
        _watch_optimisers()

    def __enter__(self) -> KeptZeros:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __reduce__(self) -> Any:
        """Copies and pickles of a network keep their own zeros."""
        return KeptZeros, (self._parameters, {name: self.zeros[name] for name in self._parameters})

    def __repr__(self) -> str:
        count = sum(int(mask.sum()) for mask in self.zeros.values())
        entries = sum(mask.numel() for mask in self.zeros.values())
        return f"KeptZeros({count:,} of {entries:,} weights in {len(self.zeros)} parameters)"


_live: WeakSet[KeptZeros] = WeakSet()
_watching: list[RemovableHandle] = []


def _watch_optimisers() -> None:
    """Hook into the steps of all optimisers as long as any zeros are kept."""
    if _live and not _watching:
        _watching.append(register_optimizer_step_post_hook(_after_step))
    elif not _live and _watching:
        _watching.pop().remove()


def _after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
    stepped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for handle in [*_live]:
        handle.restore(stepped)


def keep_zeros(net: nn.Module, names: Iterable[str] | None = None) -> KeptZeros:
    """Keep the weights of a network that are zero at zero while it is trained further, by any optimiser.

    Gradients of these weights are zero from now on, and after each step of a ``torch.optim.Optimizer``, made before or
    afterwards, they are set to zero again. Parameters, names and ``forward`` stay as they are: the state_dict fits the
    class, N:M patterns hold, and ``copy.deepcopy`` and pickles of the network keep its zeros too. It takes a pass over
    the weights for each step.

    Parameters
    ----------
    net : torch.nn.Module
        On any device, in any dtype. A second call takes the zeros that there are then.
    names : iterable of str, optional
        Of parameters, or patterns such as ``"blocks.*.weight"``. By default all with two dimensions or more: zeros of
        biases and scales are as a rule where they begin. Leave out matrices that begin at zero, as in adapters.

    Returns
    -------
    KeptZeros
        ``remove()`` ends it; so does the end of a ``with`` block.

    Raises
    ------
    InputError
        ``net`` is no network, has weights that are computed (masks of ``torch.nn.utils.prune``, parametrisations) or
        without values, or no parameter of such a name.

    Notes
    -----
    What is kept are the parameters that the network has now. Where one is replaced (``load_state_dict(assign=True)``, a
    new ``nn.Parameter``), or other weights are loaded, call it again.
    """
    as_network("net", net)
    net = unwrapped(net)
    _check(net)
    parameters = dict(net.named_parameters())
    chosen = [name for name in parameters if parameters[name].ndim >= 2] if names is None else _named(names, parameters)
    forget_zeros(net)
    zeros = {name: parameters[name].detach() == 0 for name in chosen}
    zeros = {name: mask for name, mask in zeros.items() if mask.any()}
    handle = KeptZeros({name: parameters[name] for name in zeros}, zeros)
    setattr(net, _ATTRIBUTE, handle)
    return handle


def _check(net: nn.Module) -> None:
    """Refuse a network whose parameters are not its weights, or are not there."""
    for name, module in net.named_modules():
        if is_computed(module):
            raise refused(
                "net",
                f"weights of {name or 'the network'!r} are computed by masks or a parametrisation; make them plain "
                "first (torch.nn.utils.prune.remove, torch.nn.utils.parametrize.remove_parametrizations)",
            )
    for name, parameter in net.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            raise refused("net", f"parameter {name!r} has no values yet; run the network once, or load its weights")


def forget_zeros(net: nn.Module) -> None:
    """Remove the handles of a network and of those inside."""
    for module in net.modules():
        handle = vars(module).pop(_ATTRIBUTE, None)
        if handle is not None:
            handle.remove()


def _named(names: Iterable[str], parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """The parameters that names or patterns mean; InputError for one that means none."""
    if not isinstance(names, Iterable):
        raise refused("names", f"must be names of parameters or patterns, got {names!r}")
    patterns = [names] if isinstance(names, str) else [*names]
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise refused("names", f"must be names of parameters or patterns, got {type(pattern).__name__}")
        if not any(fnmatchcase(name, pattern) for name in parameters):
            nearest = ", ".join(map(repr, get_close_matches(pattern, parameters, _NEAREST, cutoff=0.0))) or "none"
            raise refused(
                "names", f"no parameter is called {pattern!r}; the nearest of {len(parameters)} are: {nearest}"
            )
    return [name for name in parameters if any(fnmatchcase(name, pattern) for pattern in patterns)]
