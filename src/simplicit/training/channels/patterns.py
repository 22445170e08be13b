"""N:M patterns of layers: which columns of a layer are a group, what becomes of inputs that M does not divide, and the
proof that a network has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.support.pattern import Groups, Pattern, PatternFigures

#: So many layers are named.
_LISTED = 4


def inputs_of(layer: ChannelLayer) -> int:
    """How many inputs a row of a layer has at each position of its kernel."""
    return layer.columns // layer.form.kernel_positions


def groups_of(layer: ChannelLayer, pattern: Pattern) -> Groups | None:
    """The groups of a layer's columns; None where a row has fewer inputs than one."""
    if inputs_of(layer) < pattern.of:
        return None
    return Groups.along(pattern, inputs_of(layer), layer.form.kernel_positions)


def counted(layer: ChannelLayer, pattern: Pattern, weight: Tensor) -> PatternFigures:
    """The groups of the parameter that is a layer's weight, or has it."""
    groups = groups_of(layer, pattern)
    assert groups is not None
    rows = layer.kernel(weight).flatten(0, 1).double().numpy()
    return groups.figures(layer.name, pattern, rows)


def described(layers: Iterable[ChannelLayer], patterns: Mapping[str, Pattern]) -> str:
    """What is done with the layers that have patterns, for the summary; nothing where none has."""
    layers = [layer for layer in layers if layer.name in patterns]
    parts = []
    for pattern in sorted({patterns[layer.name] for layer in layers}, key=str):
        own = [layer for layer in layers if patterns[layer.name] == pattern]
        whole = [layer for layer in own if inputs_of(layer) >= pattern.of]
        few = [f"{layer.name} ({inputs_of(layer)})" for layer in own if layer not in whole]
        text = f"at most {pattern.kept} of {pattern.of} consecutive inputs"
        if whole:
            text += f" of {_some([layer.name for layer in whole])}"
        rests = {layer.name: inputs_of(layer) % pattern.of for layer in whole if inputs_of(layer) % pattern.of}
        if rests:
            named = [f"{name} ({pattern.most(rest)} of the last {rest})" for name, rest in rests.items()]
            text += f", and of what is left at the end of a row {_some(named)}"
        if few:
            text += f", none where there are fewer than {pattern.of} inputs: {_some(few)}"
        parts.append(text)
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
