"""Options are made of signatures, settings and docstrings; every one of every command says what it is."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from cyclopts import Parameter

from command_line import Run
from simplicit.checks import named, spelled
from simplicit.cli.commands import COMMANDS
from simplicit.cli.signature import OUTPUT, Signature, choices_in, option_name
from simplicit.executors import EXECUTORS, Executor, Threads
from simplicit.rows.penalties import PENALTIES
from simplicit.training import RECIPES

CHOICES: list[dict[str, str]] = [
    *({"recipe": recipe} for recipe in RECIPES),
    *({"recipe": "matching", "penalty": penalty} for penalty in PENALTIES),
    *({"candidates": penalty} for penalty in PENALTIES),
    *({"executor": executor} for executor in EXECUTORS),
]
SIGNATURES = [(name, chosen) for name in COMMANDS for chosen in ({}, *(CHOICES if name in ("fit", "solve") else ()))]


def shown(signature: Signature) -> dict[str, Parameter]:
    """What cyclopts is told of every option."""
    parameters = inspect.signature(signature.flat()).parameters
    return {name: one.annotation.__metadata__[0] for name, one in parameters.items()}


def panels(text: str) -> list[str]:
    return [line.split("─ ")[1].split(" ─")[0] for line in text.splitlines() if line.startswith("╭─ ")]


@pytest.mark.parametrize(("name", "chosen"), SIGNATURES)
def test_every_option_of_every_command_is_explained(name: str, chosen: dict[str, str]) -> None:
    for option, parameter in shown(Signature(COMMANDS[name], chosen)).items():
        text = parameter.help or ""
        assert text.endswith("."), f"{option_name(option)}: {text!r}"
        assert text[:1] in ("λ", "Φ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"), f"{option_name(option)}: {text!r}"
        assert "Default:" not in text or not parameter.show_default, f"{option_name(option)} has two defaults"


def test_every_option_is_listed_in_panels_of_which_the_last_is_the_output(run: Run) -> None:
    for name, command in COMMANDS.items():
        out = run(*name.split(), "--help")[1]
        options = Signature(command, {}).options
        for option in options:
            assert (f" {option.name.upper()}  " if option.argument else f" {option_name(option.name)} ") in out
        named = [option.panel for option in options if option.panel not in (None, OUTPUT)]
        last = [OUTPUT] if any(option.panel == OUTPUT for option in options) else []
        found = [panel for panel in panels(out) if panel not in ("Arguments", "Parameters")]
        assert found == [*dict.fromkeys(named), *last]
    out = run("fit", "--recipe", "matching", "--help")[1]
    words = ["Arguments", "Parameters", "Network and data", "Fit", "Recipe matching", "Penalty l1", "Running"]
    assert panels(out) == [*words, "Executor threads", OUTPUT]


# --- a command of our own ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Sizes.

    Parameters
    ----------
    place : Path
        Where.
    widths : tuple of int
        How wide.
    range : tuple of float, optional
        From where
        to where.
    """

    panel: ClassVar[str] = "Sizes"
    arguments: ClassVar[tuple[str, ...]] = ("place",)

    place: Path
    widths: tuple[int, ...] = field(
        default=(3, 4), metadata=spelled(lambda text: tuple(map(int, text.split("-"))), "-")
    )
    range: tuple[float, float] | None = None
    weights: npt.NDArray[np.float64] | None = None
    executor: Executor = field(default_factory=lambda: Threads(workers=3))


@dataclass(frozen=True)
class Wider(Sizes):
    """More sizes.

    Parameters
    ----------
    widths
        How very wide.
    names : tuple of str
        Of whom. Default: everybody.
    """

    names: tuple[str, ...] = field(default=(), metadata=named(EXECUTORS))


CALLS: list[tuple[Any, ...]] = []


def measure(
    runs: list[Path],
    /,
    sizes: Sizes,
    *,
    often: bool = True,
    again: bool | None = None,
    twice: Annotated[bool, "Sizes"] = False,
) -> None:
    """Measure runs.

    Carefully.

    Parameters
    ----------
    runs : list of Path
        What.
    sizes
    often, again, twice : bool
        How often.
    """
    CALLS.append((runs, sizes, often, again, twice))


def more(sizes: Wider, *, seed: int = 0) -> None:
    """Measure more."""


def test_options_of_a_command() -> None:
    options = Signature(measure, {}).options
    names = ["runs", "place", "widths", "range", "executor", "workers", "often", "again", "twice"]
    assert [option.name for option in options] == names  # an array has no option
    assert [option.name for option in options if option.argument] == ["runs", "place"]
    panels = [None, "Sizes", "Sizes", "Sizes", "Sizes", "Executor threads", None, None, "Sizes"]
    assert [option.panel for option in options] == panels
    chosen = Signature(measure, {"executor": "serial"}).options
    assert [option.name for option in chosen if option.panel == "Executor serial"] == []


def test_what_is_shown_of_an_option() -> None:
    told = shown(Signature(measure, {}))
    assert told["range"].help == "From where to where."
    assert told["again"].help == "How often."
    assert {name: one.show_default for name, one in told.items() if one.show_default} == {
        "widths": "3-4",
        "executor": "threads",
        "workers": "3",
        "often": "on",
    }
    assert told["widths"].metavar == "INT-INT-..."
    # What is on, or may be, can be switched off.
    assert [name for name, one in told.items() if one.negative is None and name in ("often", "again", "twice")] == [
        "often",
        "again",
    ]
    told = shown(Signature(more, {}))
    assert told["place"].help == "Where."
    assert told["widths"].help == "How very wide."
    assert told["names"].help == "Of whom. Known: serial, threads, processes, ray. Default: everybody."
    assert told["seed"].show_default == "0"
    assert Signature(measure, {}).flat().__doc__ == "Measure runs.\n\nCarefully."


def test_names_are_read_when_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXECUTORS, "swift", Threads)
    assert (
        shown(Signature(more, {}))["names"].help
        == "Of whom. Known: serial, threads, processes, ray, swift. Default: everybody."
    )


def test_a_command_is_called_with_what_was_given() -> None:
    signature = Signature(measure, {})
    given = signature.flat()([Path("a")], Path("b"), widths="5-6", again=False)
    assert given == {"runs": [Path("a")], "place": Path("b"), "widths": (5, 6), "again": False}
    signature.call(given)
    runs, sizes, *flags = CALLS.pop()
    assert (runs, sizes.place, sizes.widths, sizes.range) == ([Path("a")], Path("b"), (5, 6), None)
    assert flags == [True, False, False]
    assert sizes.executor.workers == 3
    signature.call(given | {"executor": "processes", "workers": 2})
    assert (type(CALLS[-1][1].executor), CALLS.pop()[1].executor.workers) == (EXECUTORS["processes"], 2)


def test_has() -> None:
    signature = Signature(measure, {"executor": "moon"})  # which there is not
    assert signature.has("widths")
    assert signature.has("executor")
    assert not signature.has("runs")
    assert not signature.has("moon")


def test_two_settings_of_one_name_are_a_mistake() -> None:
    def double(sizes: Sizes, *, place: int = 0) -> None: ...

    double.__annotations__["sizes"] = Sizes
    with pytest.raises(TypeError, match="double: two settings are called 'place'"):
        _ = Signature(double, {}).options


def test_choices_in_words() -> None:
    words = ["fit", "b", "--recipe", "robust", "--attack-eps=0.1", "--json"]
    assert choices_in(words) == {"recipe": "robust", "attack_eps": "0.1"}
    assert option_name("attack_eps") == "--attack-eps"


def test_defaults_are_as_good_as_what_is_typed(run: Run) -> None:
    pytest.importorskip("pydantic")  # with it at hand, as Ray has it, cyclopts checks the types of defaults too
    code, _, err = run("baseline", "--epochs", "0")
    assert (code, "--epochs must be" in err) == (2, True), err
