"""What a user can set, as flat names and values: what the command line offers, and what ``run.json`` keeps.

A setting is a field of a frozen dataclass, defined and documented there alone. Dataclasses hold others: a field that is
one is laid flat, a field that is one or None is a flag with the options of that one, and a field whose type has a
registry (a recipe, a penalty, an executor) is a choice by name with the options of what is chosen. Registries are read
when they are needed, so that what a user has registered is there without another line.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from simplicit.errors import InputError
from simplicit.executors import EXECUTORS, Executor
from simplicit.files import plain
from simplicit.rows import Penalty
from simplicit.rows.penalties import PENALTIES
from simplicit.training import RECIPES, Recipe

__all__ = ["REGISTRIES", "Option", "build", "flat", "options_of", "owners", "restored"]

T = TypeVar("T")

#: The registries by the type of what is in them: names, and what each stands for, an instance or a class.
REGISTRIES: dict[type, Mapping[str, Any]] = {Recipe: RECIPES, Penalty: PENALTIES, Executor: EXECUTORS}


@dataclass(frozen=True)
class Option:
    """A setting by its flat name.

    Attributes
    ----------
    name : str
    kind : type
        The annotation; of a choice, ``Literal`` of the names.
    default : object
        ``dataclasses.MISSING`` where there is none.
    owner : type or callable
        The dataclass, or the function, that defines and documents it.
    parse : callable, optional
        From the one word that it is typed as; see :func:`simplicit.checks.spelled`.
    joint : str
    registry : mapping, optional
        Of a choice: what its names stand for.
    argument : bool
        Whether it is typed without its name.
    panel : str, optional
        What it is listed under: what its owner says, or the kind of what was chosen.
    """

    name: str
    kind: Any
    default: Any
    owner: Any
    parse: Callable[[str], Any] | None = None
    joint: str = ","
    registry: Mapping[str, Any] | None = None
    argument: bool = False
    panel: str | None = None

    @property
    def is_path(self) -> bool:
        """Whether it is a file or a folder."""
        return self.kind is Path or Path in typing.get_args(self.kind)


def options_of(entry: Any, chosen: Mapping[str, Any]) -> Iterator[Option]:
    """All settings of a dataclass, or of an instance with its values as defaults.

    Parameters
    ----------
    entry : dataclass, or instance of one
    chosen : mapping
        Values by flat names; of choices it says what is chosen.

    Raises
    ------
    InputError
        A choice is unknown.
    """
    for item in _items(entry):
        registry = REGISTRIES.get(item.kind)
        if registry is not None:
            name = _chosen(registry, item, chosen)
            yield dataclasses.replace(
                item, kind=Literal[tuple(registry)], default=_name_of(registry, item.default), registry=registry
            )
            for option in options_of(registry[name], chosen):
                yield dataclasses.replace(option, panel=option.panel or item.kind.__name__)
        elif (inner := _inner(item)) is not None:
            optional = not dataclasses.is_dataclass(item.kind)
            if optional:
                yield dataclasses.replace(item, kind=bool, default=item.default is not None)
            yield from options_of(inner, chosen)
        else:
            yield item


def build(entry: Any, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass with some values by their flat names; what is not among them is as in ``entry``."""
    given: dict[str, Any] = {}
    for item in _items(entry):
        registry = REGISTRIES.get(item.kind)
        if registry is not None:
            given[item.name] = build(registry[_chosen(registry, item, values)], values)
        elif (inner := _inner(item)) is not None:
            wanted = dataclasses.is_dataclass(item.kind) or _wanted(item, inner, values)
            given[item.name] = build(inner, values) if wanted else None
        elif item.name in values:
            given[item.name] = values[item.name]
    return entry(**given) if isinstance(entry, type) else dataclasses.replace(entry, **given)


def restored(entry: Any, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass from what :func:`flat` made of it and JSON kept; names that it has not are left out.

    Raises
    ------
    TypeError
        A value is not of the type of its setting.
    InputError
        A value is out of range.
    """
    found: dict[str, Any] = {}
    for option in options_of(entry, values):
        value = values.get(option.name)
        if value is None or option.name not in values:
            continue
        kinds = typing.get_args(option.kind) or (option.kind,)
        if option.is_path or option.parse is not None:
            if not isinstance(value, str):
                raise TypeError(f"{option.name} must be a text, got {value!r}")
            value = Path(value) if option.is_path else option.parse(value)  # type: ignore[misc]
        elif str in kinds and not isinstance(value, str):
            raise TypeError(f"{option.name} must be a text, got {value!r}")
        found[option.name] = value
    return build(entry, found)


def flat(settings: Any) -> dict[str, Any]:
    """The values of a dataclass by flat names, in JSON's own types."""
    values: dict[str, Any] = {}
    for item in _items(settings):
        registry = REGISTRIES.get(item.kind)
        if registry is not None:
            values |= {item.name: _name_of(registry, item.default)} | flat(item.default)
        elif _inner(item) is not None:
            if not dataclasses.is_dataclass(item.kind):
                values[item.name] = item.default is not None
            values |= {} if item.default is None else flat(item.default)
        elif item.parse is not None and isinstance(item.default, tuple):
            values[item.name] = item.joint.join(map(str, item.default))
        else:
            values[item.name] = plain(item.default)
    return values


def owners(name: str) -> dict[str, list[str]]:
    """Which of what can be chosen has a setting of that name: ``{"recipe": ["robust", "certified"]}``."""
    found: dict[str, list[str]] = {}
    for base, registry in REGISTRIES.items():
        having = [key for key, entry in registry.items() if any(item.name == name for item in options_of(entry, {}))]
        found |= {base.__name__.lower(): having} if having else {}
    return found


def _items(entry: Any) -> Iterator[Option]:
    """The fields of a dataclass, or of an instance."""
    owner = entry if isinstance(entry, type) else type(entry)
    hints = typing.get_type_hints(owner)
    for item in dataclasses.fields(owner):
        if item.init:
            default = _default(item) if entry is owner else getattr(entry, item.name)
            yield Option(
                item.name,
                hints[item.name],
                default,
                owner,
                argument=item.name in getattr(owner, "arguments", ()),
                panel=getattr(owner, "panel", None),
                **item.metadata,
            )


def _default(item: dataclasses.Field[Any]) -> Any:
    made = item.default_factory
    return item.default if made is dataclasses.MISSING else made()


def _inner(item: Option) -> Any:
    """The dataclass that a field is, or may be; its instance, if the default is one."""
    kinds: tuple[Any, ...] = typing.get_args(item.kind) if isinstance(item.kind, types.UnionType) else (item.kind,)
    inner: Any = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
    return item.default if inner is not None and isinstance(item.default, inner) else inner


def _wanted(item: Option, inner: Any, values: Mapping[str, Any]) -> bool:
    """Whether an optional dataclass is wanted: it is said so, or one of its own settings is given, or by default."""
    given = any(option.name in values for option in options_of(inner, values))
    return bool(values.get(item.name, given or item.default is not None))


def _chosen(registry: Mapping[str, Any], item: Option, values: Mapping[str, Any]) -> str:
    name = values.get(item.name)
    if name is None:
        return _name_of(registry, item.default)
    if not isinstance(name, str) or name not in registry:
        known = ", ".join(map(repr, registry))
        raise InputError(f"{item.name}: {name!r} is unknown; choose one of {known}", argument=item.name)
    return name


def _name_of(registry: Mapping[str, Any], entry: Any) -> str:
    """The name of what is chosen: that of an equal entry, or else of the first one of its type."""
    kind = entry if isinstance(entry, type) else type(entry)
    names = [name for name, one in registry.items() if one is kind or type(one) is kind]
    equal = [name for name in names if not isinstance(registry[name], type) and registry[name] == entry]
    return (equal or names or [kind.__name__])[0]
