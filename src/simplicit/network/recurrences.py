"""Recurrent layers and cells, kept as one operation each while a network is traced.

torch.export traces what an LSTM does at every step through its compiled code, a second for every few steps, and then
gives it as one operation. So the same functions, under the same names and schemas in a library of their own, stand for
torch's while it traces; all that they know is the shapes of their results. :mod:`~simplicit.network.unrolling` writes
them out, or puts torch's own operation back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten
_NAMESPACE = "simplicit"

#: Layers over a whole sequence: torch's operations.
LAYERS = {name: getattr(_aten, name).input for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
#: One step each.
CELLS = {f"{name}_cell": getattr(_aten, f"{name}_cell").default for name in LAYERS}


def _of_layer(input: Tensor, hx: Any, params: list[Tensor], *options: Any) -> tuple[Tensor, ...]:  # noqa: A002
    # The last two options are `bidirectional` and `batch_first`.
    states = [hx] if isinstance(hx, Tensor) else hx
    width = states[0].shape[-1] * (2 if options[-2] else 1)
    return input.new_empty(*input.shape[:2], width), *(torch.empty_like(state) for state in states)


def _of_cell(input: Tensor, hx: Any, *weights: Any) -> Any:  # noqa: A002
    return torch.empty_like(hx) if isinstance(hx, Tensor) else tuple(torch.empty_like(state) for state in hx)


_LIBRARY: Any = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def _stand_in(name: str, operation: Any) -> Any:
    """The operation of our library that stands for one of torch's."""
    schema = str(operation._schema)
    _LIBRARY.define(name + schema[schema.index("(") :])
    shapes = _of_layer if name in LAYERS else _of_cell
    torch.library.register_fake(f"{_NAMESPACE}::{name}", shapes, lib=_LIBRARY)
    return getattr(getattr(torch.ops, _NAMESPACE), name).default


_STAND_INS = {name: _stand_in(name, operation) for name, operation in (LAYERS | CELLS).items()}
_BY_FUNCTION = {getattr(torch._VF, name): stand_in for name, stand_in in _STAND_INS.items()}
#: torch's own operation, by what a graph may have in its place: itself, or what stands for it.
OWN: dict[Any, Any] = {
    **{operation: operation for operation in (LAYERS | CELLS).values()},
    **{stand_in: (LAYERS | CELLS)[name] for name, stand_in in _STAND_INS.items()},
}


class PackedError(Exception):
    """Sequences are packed, so that how many there are at a step depends on the values of the lengths."""


class KeptWhole(TorchFunctionMode):
    """While it is entered, recurrent layers and cells are one operation each of our library."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call what stands for a recurrent layer or cell, or ``func`` itself."""
        if func is torch._VF._pack_padded_sequence:
            raise PackedError("its sequences are packed")
        return _BY_FUNCTION.get(func, func)(*args, **(kwargs or {}))
