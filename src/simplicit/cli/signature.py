"""From a command to its options, and from what was typed back to the command's arguments.

A command is a function. Parameters that are dataclasses are laid flat (:mod:`simplicit.runs.options`), others are
options themselves, or arguments where they are positional only. Types, defaults and texts are those of the dataclasses
and of the docstrings: nothing is written twice.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from docstring_parser import DocstringStyle, parse

from simplicit.errors import InputError
from simplicit.runs.options import Option, build, options_of

__all__ = ["Signature", "choices_in", "option_name"]

#: What a word of the command line can become.
_SCALARS = (bool, int, float, str, Path)


def option_name(name: str) -> str:
    """``attack_eps`` as it is typed, ``--attack-eps``."""
    return "--" + name.replace("_", "-")


def choices_in(words: Sequence[str]) -> dict[str, str]:
    """What words choose from registries, as far as can be seen before they are read: ``--recipe robust``."""
    found: dict[str, str] = {}
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith("--") and (equals or place + 1 < len(words)):
            found[name[2:].replace("-", "_")] = value if equals else words[place + 1]
    return found


@dataclasses.dataclass(frozen=True)
class Signature:
    """The options of a command, given what was chosen.

    Attributes
    ----------
    command : callable
    chosen : mapping
        Values by flat names, of which the choices count.
    """

    command: Callable[..., None]
    chosen: Mapping[str, Any]

    @property
    def options(self) -> list[Option]:
        """All options, flat, in the order of the command's parameters.

        Raises
        ------
        TypeError
            Two settings have the same name.
        """
        found: dict[str, Option] = {}
        for _, entry in self._parameters():
            for option in [entry] if isinstance(entry, Option) else options_of(entry, self.chosen):
                kind = _narrowed(option.kind)
                if kind is None:
                    continue
                if option.name in found:
                    raise TypeError(f"{self.command.__name__}: two settings are called {option.name!r}")
                found[option.name] = dataclasses.replace(option, kind=kind)
        return list(found.values())

    def has(self, name: str) -> bool:
        """Whether there is an option of that name; also where what was chosen does not exist."""
        with suppress(InputError):
            return any(option.name == name for option in self.options)
        return any(option.name == name for option in Signature(self.command, {}).options)

    def flat(self) -> Callable[..., dict[str, Any]]:
        """A function with one parameter for each option, which returns those that were given."""

        def given(*positional: Any, **named: Any) -> dict[str, Any]:
            values = signature.bind_partial(*positional, **named).arguments
            return {name: _parsed(options[name], value) for name, value in values.items()}

        options = {option.name: option for option in self.options}
        switchable = "config" in options  # what was on in an earlier run may be switched off
        signature = inspect.Signature([_parameter(option, switchable=switchable) for option in options.values()])
        given.__signature__ = signature  # type: ignore[attr-defined]
        given.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
        given.__doc__ = _about(self.command)
        return given

    def call(self, values: Mapping[str, Any]) -> None:
        """Call the command with the options that were given."""
        found: dict[str, Any] = {}
        for name, entry in self._parameters():
            if not isinstance(entry, Option):
                found[name] = build(entry, values)
            elif name in values:
                found[name] = values[name]
        bound = inspect.signature(self.command)
        positional = [name for name, one in bound.parameters.items() if one.kind is one.POSITIONAL_ONLY]
        arguments = [found.pop(name) for name in positional if name in found]
        self.command(*arguments, **found)

    def _parameters(self) -> Iterator[tuple[str, Any]]:
        """The parameters of the command, each an option, or a dataclass that is to be laid flat."""
        hints = typing.get_type_hints(self.command)
        for name, parameter in inspect.signature(self.command).parameters.items():
            kind, default = hints[name], parameter.default
            if dataclasses.is_dataclass(kind):
                yield name, kind if default is parameter.empty else default
            else:
                missing = dataclasses.MISSING if default is parameter.empty else default
                argument = parameter.kind is parameter.POSITIONAL_ONLY
                yield name, Option(name, kind, missing, self.command, argument=argument)


def _parameter(option: Option, *, switchable: bool) -> inspect.Parameter:
    """An option as a parameter that cyclopts reads.

    ``switchable`` says whether flags that are off by default need a name for off.
    """
    text = _documented(option.owner).get(option.name, "")
    grouped = {} if option.argument or option.panel is None else {"group": _group(option.panel)}
    kind: Any = option.kind if option.parse is None else str | None
    annotation = Annotated[
        kind,
        Parameter(
            help=text,
            negative=None if switchable or option.default is True else (),
            negative_iterable=(),
            negative_none=(),
            show_default=option.default not in (None, dataclasses.MISSING, (), False) and _shown(option.default),
            converter=_whole if option.kind in (int, int | None) else None,
            **grouped,
        ),
    ]
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD if option.argument else inspect.Parameter.KEYWORD_ONLY
    default = inspect.Parameter.empty if option.default is dataclasses.MISSING else option.default
    return inspect.Parameter(option.name, place, default=default, annotation=annotation)


@cache
def _group(panel: str) -> Group:
    return Group(panel, sort_key=_group.cache_info().currsize)


def _shown(default: object) -> Callable[[Any], str]:
    """How a default is shown."""
    text = " ".join(map(_short, default)) if isinstance(default, tuple) else _short(default)
    return lambda _: text


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _narrowed(kind: Any) -> Any:
    """What of an annotation a command line can have; None if there is nothing, as of arrays."""
    members = typing.get_args(kind) if _is_union(kind) else (kind,)
    kept = [member for member in members if _typed(member)]
    if not any(member is not types.NoneType for member in kept):
        return None
    result = kept[0]
    for member in kept[1:]:
        result = result | member
    return result


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _typed(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin in (tuple, list):
        return all(one in _SCALARS or one is ... for one in typing.get_args(kind))
    return kind in _SCALARS or kind is types.NoneType or origin is Literal


def _parsed(option: Option, value: Any) -> Any:
    """The value of a setting that is typed as one word; other values as they are."""
    return option.parse(value) if option.parse is not None and isinstance(value, str) else value


def _whole(kind: Any, tokens: Sequence[Any]) -> int | None:
    """A whole number; cyclopts would cut off what stands behind a point."""
    text = tokens[0].value
    if text.strip().lower() in ("none", "null") and kind is not int:
        return None
    return int(text)


def _about(command: Callable[..., None]) -> str:
    """The docstring of a command without its sections."""
    parsed = parse(command.__doc__ or "", DocstringStyle.NUMPYDOC)
    return "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)


@cache
def _documented(owner: Any) -> dict[str, str]:
    """What the docstring of a dataclass, or of those that it derives from, or of a function says of each setting."""
    found: dict[str, str] = {}
    for kind in reversed(owner.__mro__ if isinstance(owner, type) else (owner,)):
        for item in parse(kind.__doc__ or "", DocstringStyle.NUMPYDOC).params:
            for name in item.arg_name.split(","):
                found[name.strip()] = " ".join((item.description or "").split())
    return found
