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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from simplicit.checks import check_choice, refused
from simplicit.executors import EXECUTORS, Executor
from simplicit.files import plain
from simplicit.rows import Penalty
from simplicit.rows.penalties import PENALTIES
from simplicit.training import RECIPES, Recipe

T = TypeVar("T")

#: The registries by the type of what is in them: names, and what each stands for, an instance or a class.
REGISTRIES: dict[type, Mapping[str, Any]] = {Recipe: RECIPES, Penalty: PENALTIES, Executor: EXECUTORS}


@dataclass(frozen=True)
class Option:
    """A setting by its flat name.

    Attributes
    ----------
    kind : type
        The annotation; of a choice, ``Literal`` of the names.
    default : object
        ``dataclasses.MISSING`` where there is none.
    owner : type or callable
        The dataclass, or the function, that defines and documents it.
    parse, joint
        See :func:`simplicit.checks.spelled`.
    known : collection of str
        Names that it may have, read when they are shown; see :func:`simplicit.checks.named`.
    registry : mapping, optional
        Of a choice: what its names stand for.
    switches : dataclass, optional
        Of a flag: whose settings it switches on.
    argument : bool
        Whether it is typed without its name.
    panel : str, optional
        What it is listed under: what its owner says, or the name of what was chosen.
    varies : bool
        Whether it is a setting of what was chosen, so that its default depends on that.
    """

    name: str
    kind: Any
    default: Any
    owner: Any
    parse: Callable[[str], Any] | None = None
    joint: str = ","
    known: Collection[str] = ()
    registry: Mapping[str, Any] | None = None
    switches: Any = None
    argument: bool = False
    panel: str | None = None
    varies: bool = False

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The members of its annotation."""
        union = isinstance(self.kind, types.UnionType) or typing.get_origin(self.kind) is typing.Union
        return typing.get_args(self.kind) if union else (self.kind,)

    @property
    def is_path(self) -> bool:
        """Whether it is a file or a folder."""
        return Path in self.kinds


def options_of(entry: Any, chosen: Mapping[str, Any]) -> Iterator[Option]:
    """All settings of a dataclass, or of an instance with its values as defaults.

    `chosen` has values by flat names, and of choices says what is chosen; InputError is raised for one that is unknown.
    """
    for item in _items(entry):
        registry = REGISTRIES.get(item.kind)
        if registry is not None:
            name, choice = _chosen(registry, item, chosen)
            yield dataclasses.replace(
                item, kind=Literal[tuple(registry)], default=_name_of(registry, item.default), registry=registry
            )
            for option in options_of(choice, chosen):
                panel = option.panel or f"{item.kind.__name__} {name}"
                yield dataclasses.replace(option, panel=panel, varies=True)
        elif (inner := _inner(item)) is not None:
            optional = not dataclasses.is_dataclass(item.kind)
            if optional:
                yield dataclasses.replace(item, kind=bool, default=item.default is not None, switches=inner)
            yield from options_of(inner, chosen)
        else:
            yield item


def build(entry: Any, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass with some values by their flat names; what is not among them is as in ``entry``."""
    given: dict[str, Any] = {}
    for item in _items(entry):
        registry = REGISTRIES.get(item.kind)
        if registry is not None:
            given[item.name] = build(_chosen(registry, item, values)[1], values)
        elif (inner := _inner(item)) is not None:
            wanted = dataclasses.is_dataclass(item.kind) or _wanted(item, inner, values)
            given[item.name] = build(inner, values) if wanted else None
        elif item.name in values:
            given[item.name] = values[item.name]
    return entry(**given) if isinstance(entry, type) else dataclasses.replace(entry, **given)


def read_values(entry: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`flat` made of a dataclass and a file kept, in the types of its settings again.

    Values of names that it has not are left out. TypeError is raised for a value that is not of the type of its
    setting, InputError for a choice that is unknown.
    """
    return {
        option.name: _read(option, values[option.name]) for option in options_of(entry, values) if option.name in values
    }


def restored(entry: Any, values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass from what :func:`read_values` takes; InputError also for a value out of range."""
    return build(entry, read_values(entry, values))


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


def owners(options: Iterable[Option], chosen: Mapping[str, Any], name: str) -> dict[str, list[str]]:
    """What else could be chosen to have a setting of that name: ``{"recipe": ["robust", "certified"]}``."""
    found: dict[str, list[str]] = {}
    for option in options:
        others = dict(option.registry or {})
        others.pop(chosen.get(option.name, option.default), None)
        having = [key for key, entry in others.items() if any(one.name == name for one in options_of(entry, {}))]
        found |= {option.name: having} if having else {}
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
    inner: Any = next((kind for kind in item.kinds if dataclasses.is_dataclass(kind)), None)
    return item.default if inner is not None and isinstance(item.default, inner) else inner


def _wanted(item: Option, inner: Any, values: Mapping[str, Any]) -> bool:
    """Whether an optional dataclass is wanted: it is said so, or one of its own settings is given, or by default.

    A setting of what is said not to be wanted is refused.
    """
    given = [option.name for option in options_of(inner, values) if option.name in values]
    wanted = bool(values.get(item.name, given or item.default is not None))
    if given and not wanted:
        raise refused(given[0], f"is a setting of {item.name}, which is off; leave it out too")
    return wanted


#: Types of JSON and TOML, as a message calls them.
_PLAIN = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "a text",
    types.NoneType: "null",
}


def _read(option: Option, value: Any) -> Any:
    """A value from a file in the type of its setting."""
    if option.parse is not None and isinstance(value, str):
        return option.parse(value)
    for kind in option.kinds:
        if type(value) is kind and kind in _PLAIN:
            return value
        if kind is float and type(value) is int:
            return float(value)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
            return value
        if typing.get_origin(kind) is tuple and option.parse is None and isinstance(value, list):
            return tuple(value)
    several = "a list" if option.parse is None else "a text"
    wanted = [several if typing.get_origin(kind) is tuple else _PLAIN.get(kind, "") for kind in option.kinds]
    raise TypeError(f"{option.name} must be {' or '.join(filter(None, dict.fromkeys(wanted)))}, got {value!r}")


def _chosen(registry: Mapping[str, Any], item: Option, values: Mapping[str, Any]) -> tuple[str, Any]:
    """The name of what is chosen, and what it stands for; where that is the default, the default with its settings."""
    usual = _name_of(registry, item.default)
    name = values.get(item.name, usual)
    if name == usual:
        return usual, item.default
    check_choice(item.name, name, registry)
    return name, registry[name]


def _name_of(registry: Mapping[str, Any], entry: Any) -> str:
    """The name of what is chosen: that of an entry with the same settings, or else of the first one of its type."""
    kind = entry if isinstance(entry, type) else type(entry)
    names = [name for name, one in registry.items() if one is kind or type(one) is kind]
    equal = [name for name in names if not isinstance(registry[name], type) and flat(registry[name]) == flat(entry)]
    return (equal or names or [kind.__name__])[0]
