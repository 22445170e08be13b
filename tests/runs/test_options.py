"""Settings by flat names: laid flat, listed, built again, and restored from files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from simplicit.checks import spelled
from simplicit.errors import InputError
from simplicit.executors import EXECUTORS, Executor, Processes, Threads
from simplicit.files import dumps
from simplicit.rows import L1, Penalty, Perspective
from simplicit.rows.penalties import PENALTIES
from simplicit.runs.options import Option, build, flat, options_of, owners, read_values, restored


@dataclass(frozen=True)
class Inner:
    """What may be on or off."""

    depth: float = 0.5


@dataclass(frozen=True)
class Outer:
    """Settings of all kinds."""

    panel: ClassVar[str] = "Outer"

    place: Path
    count: int | None = None
    sizes: tuple[int, ...] = field(default=(1, 2), metadata=spelled(lambda text: tuple(map(int, text.split("x"))), "x"))
    ends: tuple[float, float] | None = None
    on: bool = True
    inner: Inner | None = None
    penalty: Penalty = field(default_factory=lambda: L1(beta=7.0))
    executor: Executor = field(default_factory=Threads)


def by_name(entry: Any, chosen: dict[str, Any]) -> dict[str, Option]:
    return {option.name: option for option in options_of(entry, chosen)}


def test_settings_are_laid_flat() -> None:
    options = by_name(Outer, {})
    names = ["place", "count", "sizes", "ends", "on", "inner", "depth", "penalty", "beta", "column_weights"]
    assert list(options) == [*names, "executor", "workers"]
    assert options["beta"].default == 7.0  # the default's own, not that of its type
    assert (options["inner"].kind, options["inner"].default) == (bool, False)
    assert (options["penalty"].default, options["executor"].default) == ("l1", "threads")
    assert (options["penalty"].panel, options["beta"].panel) == ("Outer", "Penalty l1")
    assert [name for name, option in options.items() if option.is_path] == ["place"]
    assert [name for name, option in options.items() if option.varies] == ["beta", "column_weights", "workers"]
    chosen = by_name(Outer, {"penalty": "perspective", "executor": "serial"})
    assert {"alpha", "gamma"} <= chosen.keys()
    assert not {"beta", "workers"} & chosen.keys()
    with pytest.raises(InputError, match="penalty: 'l0' is unknown; choose one of 'l1', 'elastic-net'") as caught:
        by_name(Outer, {"penalty": "l0"})
    assert caught.value.argument == "penalty"


def test_build_takes_what_is_given() -> None:
    plain = build(Outer, {"place": Path("a")})
    assert (plain.sizes, plain.inner, plain.penalty.beta) == ((1, 2), None, 7.0)
    given = {"place": Path("a"), "penalty": "perspective", "gamma": 3.0, "executor": "processes", "block_timeout": 9.0}
    other = build(Outer, given)
    assert isinstance(other.penalty, Perspective)
    assert (other.penalty.alpha, other.penalty.gamma) == (1e-3, 3.0)
    assert isinstance(other.executor, Processes)
    assert other.executor.block_timeout == 9.0
    again = build(other, {"gamma": 4.0, "on": False})
    assert (again.place, again.on, again.penalty.gamma, again.executor.block_timeout) == (Path("a"), False, 4.0, 9.0)


def test_a_setting_of_what_is_off_switches_it_on() -> None:
    place = {"place": Path("a")}
    assert build(Outer, place | {"inner": True}).inner == Inner()
    assert build(Outer, place | {"depth": 2.0}).inner == Inner(2.0)
    assert build(Outer, place | {"inner": False}).inner is None
    with pytest.raises(InputError, match="depth: is a setting of inner, which is off"):
        build(Outer, place | {"inner": False, "depth": 2.0})


ALL = Outer(Path("a"), 5, (3, 4), (0.0, 1.5), False, Inner(0.25), Perspective(2.0, 3.0), Processes(workers=2))


@pytest.mark.parametrize("settings", [Outer(Path("a")), ALL])
def test_a_file_gives_the_settings_back(settings: Outer) -> None:
    values = json.loads(dumps(flat(settings)))
    again = restored(Outer, values | {"what": "a later version says"})
    assert flat(again) == flat(settings)
    assert (again.place, again.sizes, again.ends) == (settings.place, settings.sizes, settings.ends)
    assert (again.inner, type(again.penalty), again.executor.workers) == (
        settings.inner,
        type(settings.penalty),
        settings.executor.workers,
    )


def test_nothing_is_left_of_a_default_that_was_switched_off() -> None:
    @dataclass(frozen=True)
    class Usual:
        share: float | None = 0.5
        inner: Inner | None = field(default_factory=Inner)

    Usual.__annotations__.update(share=float | None, inner=Inner | None)
    values = json.loads(dumps(flat(Usual(None, None))))
    assert values == {"share": None, "inner": False}
    assert restored(Usual, values) == Usual(None, None)


def test_flat_is_plain() -> None:
    assert flat(ALL) == {
        "place": "a",
        "count": 5,
        "sizes": "3x4",
        "ends": [0.0, 1.5],
        "on": False,
        "inner": True,
        "depth": 0.25,
        "penalty": "perspective",
        "alpha": 2.0,
        "gamma": 3.0,
        "column_weights": None,
        "executor": "processes",
        "workers": 2,
        "block_timeout": None,
    }


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"place": 3}, "place must be a text, got 3"),
        ({"place": None}, "place must be a text, got None"),
        ({"count": "many"}, "count must be an integer or null, got 'many'"),
        ({"count": True}, "count must be an integer or null, got True"),
        ({"count": 1.5}, "count must be an integer or null, got 1.5"),
        ({"on": 1}, "on must be true or false, got 1"),
        ({"inner": "yes"}, "inner must be true or false, got 'yes'"),
        ({"sizes": [1, 2]}, "sizes must be a text, got"),
        ({"ends": 3}, "ends must be a list or null, got 3"),
        ({"beta": "much"}, "beta must be a number, got 'much'"),
    ],
)
def test_values_of_another_type(values: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        read_values(Outer, values)


def test_integers_are_numbers() -> None:
    found = read_values(Outer, {"beta": 3, "ends": [0, 1], "sizes": "5x6"})
    assert found == {"beta": 3.0, "ends": (0, 1), "sizes": (5, 6)}
    assert type(found["beta"]) is float


def test_who_has_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Cubic:
        steepness: float = 1.0

    Cubic.__annotations__.update(steepness=float)
    options = list(options_of(Outer, {}))
    assert owners(options, {}, "alpha") == {"penalty": ["elastic-net", "perspective"]}
    assert owners(options, {"penalty": "perspective"}, "beta") == {"penalty": ["l1", "elastic-net"]}
    assert owners(options, {}, "beta") == {"penalty": ["elastic-net"]}  # l1 is chosen
    assert owners(options, {}, "block_timeout") == {"executor": ["processes", "ray"]}
    assert owners(options, {}, "steepness") == {}
    monkeypatch.setitem(PENALTIES, "cubic", Cubic)
    assert owners(options, {}, "steepness") == {"penalty": ["cubic"]}


def test_the_name_of_a_choice_is_that_with_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PENALTIES, "steep", L1(beta=9.0))
    assert flat(Outer(Path("a"), penalty=L1(9.0)))["penalty"] == "steep"
    assert flat(Outer(Path("a"), penalty=L1(8.0)))["penalty"] == "l1"
    assert by_name(Outer, {"penalty": "steep"})["beta"].default == 9.0
    assert build(Outer, {"place": Path("a"), "penalty": "steep"}).penalty.beta == 9.0
    monkeypatch.setitem(EXECUTORS, "few", Threads)
    assert flat(Outer(Path("a")))["executor"] == "threads"
