"""Which layers a user wants trained, and how sparse or in which N:M pattern, by patterns of their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from simplicit.checks import as_number, refused
from simplicit.training.channels.layers import ChannelLayer, Found
from simplicit.training.support.pattern import Pattern

#: What is written for a layer that is left alone.
NONE = "none"
_EXAMPLE = (
    "such as {'head': None, 'blocks.*.fc1': 60, 'blocks.*.fc2': '2:4'}, or 'head=none', 'blocks.*.fc1=60' and "
    "'blocks.*.fc2=2:4' as text"
)
#: Of more layers the names nearest to an unknown one are listed.
_ALL, _NEAREST = 8, 3

#: What is to become of a layer: None leaves it alone, a number is its own sparsity, a pattern its own pattern.
Wish = float | Pattern | None


@dataclass(frozen=True)
class Choice:
    """Rules for layers, of which the first that matches a layer's name holds.

    ``rules`` are pairs of a pattern, as file names have them, and of None, for a layer that is left alone, the sparsity
    of that layer in per cent, or its N:M pattern. A layer with a rule of its own is trained even if it would be left
    alone otherwise. Layers without one have the pattern ``usual``, if there is one.
    """

    rules: tuple[tuple[str, Wish], ...] = ()
    usual: Pattern | None = None

    @classmethod
    def parse(cls, layers: Any, usual: Pattern | None = None) -> Choice:
        """From a mapping, or from texts of the form ``"pattern=value"``; InputError is raised for anything else."""
        pairs = list(layers.items()) if isinstance(layers, Mapping) else [_halves(one) for one in _texts(layers)]
        return cls(tuple((_pattern(pattern), _wish(pattern, value)) for pattern, value in pairs), usual)

    @property
    def texts(self) -> tuple[str, ...]:
        """The rules as they are typed."""
        return tuple(f"{pattern}={_spelled(wish)}" for pattern, wish in self.rules)

    def rule(self, name: str) -> tuple[str, Wish] | None:
        """The rule that holds for a layer, if there is one."""
        return next((rule for rule in self.rules if fnmatchcase(name, rule[0])), None)

    def of(self, found: Found) -> tuple[list[ChannelLayer], dict[str, str]]:
        """The layers that are trained, in their order, and why others are left alone.

        InputError is raised for a pattern that matches no layer, and where no layer is left.
        """
        layers = found.layers if found.head is None else [*found.layers, found.head]
        names = [layer.name for layer in layers]
        for pattern, _ in self.rules:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise refused("layers", f"{pattern!r} is the name of no layer; {_known(pattern, names)}")
        left = dict(found.left_alone)
        wanted: list[ChannelLayer] = []
        for layer in layers:
            rule = self.rule(layer.name)
            if rule is not None and rule[1] is None:
                left[layer.name] = "as asked for"
            elif rule is not None or layer is not found.head:
                left.pop(layer.name, None)
                wanted.append(layer)
        if not wanted:
            what = "; ".join(f"{name}: {why}" for name, why in left.items()) or "it has none"
            argument = "layers" if self.rules and layers else "net"
            raise refused(argument, f"no weight is left that can be trained ({what})")
        return wanted, left

    def sparsity(self, name: str) -> float | None:
        """The sparsity of its own that a layer has, if any."""
        rule = self.rule(name)
        return None if rule is None or isinstance(rule[1], Pattern) else rule[1]

    def pattern(self, name: str) -> Pattern | None:
        """The pattern of a layer that is trained, if it has one."""
        rule = self.rule(name)
        if rule is None:
            return self.usual
        return rule[1] if isinstance(rule[1], Pattern) else None


#: All layers, at one price.
EVERYTHING = Choice()


def _texts(layers: Any) -> tuple[str, ...]:
    if isinstance(layers, tuple | list) and all(isinstance(one, str) for one in layers):
        return tuple(layers)
    raise refused("layers", f"expected names and what is to become of them, {_EXAMPLE}; got {layers!r}")


def _halves(text: str) -> tuple[str, Any]:
    pattern, equals, value = text.rpartition("=")
    if not equals:
        raise refused("layers", f"{text!r} says nothing of what it names; write it {_EXAMPLE}")
    if value.lower() == NONE:
        return pattern, None
    if ":" in value:
        return pattern, value
    try:
        return pattern, float(value)
    except ValueError:
        raise refused(
            "layers", f"{value!r} of {pattern!r} is neither 'none' nor a number of per cent, nor a pattern such as 2:4"
        ) from None


def _known(pattern: str, names: list[str]) -> str:
    """The names that there are, or those that are meant, if there are many."""
    nearest = names if len(names) <= _ALL else get_close_matches(pattern, names, _NEAREST, cutoff=0.0)
    listed = ", ".join(map(repr, nearest)) or "none"
    return f"those there are: {listed}" if nearest is names else f"the nearest of {len(names)} are: {listed}"


def _spelled(wish: Wish) -> str:
    if wish is None:
        return NONE
    return str(wish) if isinstance(wish, Pattern) else f"{wish:g}"


def _pattern(pattern: Any) -> str:
    if not isinstance(pattern, str) or not pattern:
        raise refused("layers", f"{pattern!r} is no name of a layer; take names as keys, {_EXAMPLE}")
    return pattern


def _wish(pattern: str, value: Any) -> Wish:
    if value is None:
        return None
    if isinstance(value, str | Pattern):
        return Pattern.parse("layers", value, f"for {pattern!r} a number of per cent, or ")
    share = as_number(f"layers[{pattern!r}]", value)
    if share >= 100 or 0 < share < 1:
        hint = f"; did you mean {100 * share:g}?" if share < 1 else ""
        raise refused("layers", f"the sparsity of {pattern!r} is in per cent, from 0 to below 100, got {value!r}{hint}")
    return share
