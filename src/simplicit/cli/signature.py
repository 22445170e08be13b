"""From a command to its options, and from what was typed back to the command's arguments.

A command is a function. Parameters that are dataclasses are laid flat (:mod:`simplicit.runs.options`), others are
options themselves, or arguments where they are positional only; ``Annotated[kind, panel]`` says what such an option is
listed under. Types, defaults and texts are those of the dataclasses and of the docstrings: nothing is written twice.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import CoercionError, Group, Parameter, Token
from docstring_parser import DocstringStyle, parse

from simplicit.errors import InputError
from simplicit.runs.options import Option, build, options_of

#: The panel that is shown last.
OUTPUT = "Output"
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
    """The options of a command, given what was ``chosen``: values by flat names, of which the choices count."""

    command: Callable[..., None]
    chosen: Mapping[str, Any]

    @property
    def options(self) -> list[Option]:
        """All options, flat, in the order of the command's parameters; TypeError if two have the same name."""
        found: dict[str, Option] = {}
        for _, entry in self._parameters():
            for option in [entry] if isinstance(entry, Option) else options_of(entry, self.chosen):
                if option.name in found:
                    raise TypeError(f"{self.command.__name__}: two settings are called {option.name!r}")
                if (narrowed := _narrowed(option)) is not None:
                    found[option.name] = narrowed
        return list(found.values())

    def has(self, name: str) -> bool:
        """Whether there is an option of that name; also where something that was chosen does not exist."""
        try:
            options = self.options
        except InputError as error:
            chosen = {choice: value for choice, value in self.chosen.items() if choice != error.argument}
            return Signature(self.command, chosen).has(name)
        return any(option.name == name and not option.argument for option in options)

    def flat(self) -> Callable[..., dict[str, Any]]:
        """A function with one parameter for each option, which returns those that were given."""

        def given(*positional: Any, **named: Any) -> dict[str, Any]:
            values = signature.bind_partial(*positional, **named).arguments
            return {name: _parsed(options[name], value) for name, value in values.items()}

        options = {option.name: option for option in self.options}
        groups = _groups(options.values())
        arguments = sorted(options.values(), key=lambda option: not option.argument)
        signature = inspect.Signature([_parameter(option, groups.get(option.panel)) for option in arguments])
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
        hints = typing.get_type_hints(self.command, include_extras=True)
        for name, parameter in inspect.signature(self.command).parameters.items():
            kind, default = hints[name], parameter.default
            if dataclasses.is_dataclass(kind):
                yield name, kind if default is parameter.empty else default
                continue
            kind, panel = typing.get_args(kind) if typing.get_origin(kind) is Annotated else (kind, None)
            missing = dataclasses.MISSING if default is parameter.empty else default
            argument = parameter.kind is parameter.POSITIONAL_ONLY
            yield name, Option(name, kind, missing, self.command, argument=argument, panel=panel)


def _parameter(option: Option, group: Group | None) -> inspect.Parameter:
    """An option as a parameter that cyclopts reads."""
    text = _documented(option.owner).get(option.name, "")
    if option.known:
        what, separator, rest = text.partition(" Default:")
        text = f"{what} Known: {', '.join(option.known)}.{separator}{rest}"
    kind: Any = option.kind
    if option.parse is not None:
        kind = str | None if types.NoneType in option.kinds else str
    annotation = Annotated[
        kind,
        Parameter(
            help=text,
            metavar=None if option.parse is None else _spelling(option),
            negative=() if option.default is False and not option.varies else None,
            negative_iterable=(),
            negative_none=(),
            show_default=_shown(option),
            converter=_whole(option) if int in option.kinds and option.parse is None else None,
            **({} if option.argument or group is None else {"group": group}),
        ),
    ]
    place = inspect.Parameter.POSITIONAL_ONLY if option.argument else inspect.Parameter.KEYWORD_ONLY
    # cyclopts checks defaults too where something else has loaded pydantic.
    default = _spelled(option) if option.parse is not None and option.default is not None else option.default
    default = inspect.Parameter.empty if default is dataclasses.MISSING else default
    return inspect.Parameter(option.name, place, default=default, annotation=annotation)


def _groups(options: Iterable[Option]) -> dict[str | None, Group]:
    """The panels of some options in their order; where results go is the last."""
    panels = dict.fromkeys(option.panel for option in options if option.panel is not None)
    ordered = sorted(panels, key=lambda panel: panel == OUTPUT)
    return {panel: Group(panel, sort_key=place) for place, panel in enumerate(ordered)}


def _spelling(option: Option) -> str:
    """How the parts of a setting that is typed as one word are joined, such as ``INT-INT-...``."""
    for kind in option.kinds:
        first, *others = typing.get_args(kind) or (kind,)
        if others:
            names = [first.__name__.upper()] * (1 + len(others))
            return option.joint.join([*names, "..."] if ... in others else names)
    return "STR"


def _shown(option: Option) -> str | bool:
    """How a default is shown; False where there is nothing to show."""
    value = option.default
    if value is None or value is False or value is dataclasses.MISSING or value == ():
        return False
    return "on" if value is True else _spelled(option)


def _spelled(option: Option) -> str:
    """A default as it would be typed."""
    value, joint = option.default, " " if option.parse is None else option.joint
    return joint.join(map(_short, value)) if isinstance(value, tuple) else _short(value)


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _narrowed(option: Option) -> Option | None:
    """An option with what of its annotation a command line can have; None if there is nothing, as of arrays."""
    kept = [kind for kind in option.kinds if _typed(kind)]
    if all(kind is types.NoneType for kind in kept):
        return None
    return dataclasses.replace(option, kind=functools.reduce(operator.or_, kept))


def _typed(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    if origin in (tuple, list):
        return all(one in _SCALARS or one is ... for one in typing.get_args(kind))
    return kind in _SCALARS or kind is types.NoneType or origin is Literal


def _parsed(option: Option, value: Any) -> Any:
    """The value of a setting that is typed as one word; other values as they are."""
    return option.parse(value) if option.parse is not None and isinstance(value, str) else value


def _whole(option: Option) -> Callable[[Any, Sequence[Token]], int | None]:
    """What reads a whole number; cyclopts would cut off what stands behind a point."""

    def read(_: Any, tokens: Sequence[Token]) -> int | None:
        text = tokens[-1].value
        if types.NoneType in option.kinds and text.lower() in ("none", "null"):
            return None
        try:
            return int(text)
        except ValueError:
            raise CoercionError(token=tokens[-1], target_type=int) from None

    return read


def _about(command: Callable[..., None]) -> str:
    """The docstring of a command without its sections."""
    parsed = parse(command.__doc__ or "", DocstringStyle.NUMPYDOC)
    return "\n\n".join(part for part in (parsed.short_description, parsed.long_description) if part)


@functools.cache
def _documented(owner: Any) -> dict[str, str]:
    """What the docstring of a dataclass, or of those that it derives from, or of a function says of each setting."""
    found: dict[str, str] = {}
    for kind in reversed(owner.__mro__ if isinstance(owner, type) else (owner,)):
        for item in parse(kind.__doc__ or "", DocstringStyle.NUMPYDOC).params:
            for name in item.arg_name.split(","):
                found[name.strip()] = " ".join((item.description or "").split())
    return found
