"""Options that several commands share, each described once."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from simplicit.errors import InputError
from simplicit.executors import EXECUTORS, Journal
from simplicit.training import PRESETS

__all__ = [
    "PENALTY_PANEL",
    "Alpha",
    "AnyData",
    "AttackSamples",
    "Beta",
    "BlockRows",
    "BlockTimeout",
    "DataDir",
    "Eps",
    "ExecutorOption",
    "Gamma",
    "InputShape",
    "JournalOption",
    "Json",
    "Model",
    "NormalizeName",
    "OtherBaseline",
    "Overwrite",
    "PenaltyName",
    "PenaltyOption",
    "PgdSteps",
    "Preset",
    "RayAddress",
    "Resume",
    "Rounds",
    "Runs",
    "Samples",
    "StructureName",
    "Throw",
    "Tol",
    "TrustPt2",
    "Weights",
    "Workers",
    "check_resumable",
    "parse_kappa",
    "parse_part",
    "parse_shape",
]

_NETWORK = "Your own network"
_DATA = "Data"
_OUTPUT = "Output"
_ATTACKS = "Attacks"
_RUNNING = "Running"
PENALTY_PANEL = "Penalty"


class StructureName(StrEnum):
    """Where A and B may have entries."""

    BASELINE = "baseline"
    FEEDFORWARD = "feedforward"
    NO_SELF = "no-self"
    DENSE = "dense"


class NormalizeName(StrEnum):
    """What is scaled before the rows are solved."""

    TARGETS = "targets"
    BOTH = "both"
    NONE = "none"


class PenaltyName(StrEnum):
    """The penalty h of the rows."""

    L1 = "l1"
    ELASTIC_NET = "elastic-net"
    PERSPECTIVE = "perspective"
    BASIS_PURSUIT = "basis-pursuit"
    NONE = "none"


Preset = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(PRESETS),
        help="Options for a purpose: "
        + "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())
        + ". Options given beside it win.",
        show_default=False,
    ),
]

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON document on standard output, and nothing else.", rich_help_panel=_OUTPUT
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace the folder of an earlier run at --output, with all that is in it.",
        rich_help_panel=_OUTPUT,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the files of a named data set. Default: $SIMPLICIT_DATA, else they are downloaded.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FACTORY",
        help="Import this and call it for the network; the current directory is searched too.",
        rich_help_panel=_NETWORK,
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Its weights: .safetensors, or a checkpoint that torch.load(weights_only=True) reads; or a .pt2 program.",
        rich_help_panel=_NETWORK,
        show_default=False,
    ),
]
TrustPt2 = Annotated[
    bool,
    typer.Option(
        "--trust-pt2",
        help="Allow a .pt2 program in --weights. Loading one can run code that it carries: only from people you trust.",
        rich_help_panel=_NETWORK,
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="SHAPE",
        help="Shape of one sample as the network takes it, such as 1x28x28. Default: flat, or the data's own where the "
        "network takes only that.",
        rich_help_panel=_NETWORK,
        show_default=False,
    ),
]
PenaltyOption = Annotated[
    PenaltyName,
    typer.Option(
        "--penalty",
        metavar="NAME",
        help="l1: β|w|; elastic-net: β|w| + αw²; perspective: αw² and a price γ on non-zeros, relaxed; basis-pursuit: "
        "|w| with exact matching; none.",
        rich_help_panel=PENALTY_PANEL,
    ),
]
Beta = Annotated[
    float | None,
    typer.Option(
        help="β of l1 and elastic-net. Default: 0.001.",
        rich_help_panel=PENALTY_PANEL,
        show_default=False,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        help="α of elastic-net and perspective. Default: 0.001.",
        rich_help_panel=PENALTY_PANEL,
        show_default=False,
    ),
]
Gamma = Annotated[
    float | None,
    typer.Option(help="γ of perspective. Default: 0.001.", rich_help_panel=PENALTY_PANEL, show_default=False),
]
Rounds = Annotated[
    int,
    typer.Option(
        help="Solve so many times; from the second on, what was large the time before is penalised less.",
        rich_help_panel=PENALTY_PANEL,
    ),
]
Tol = Annotated[float, typer.Option(help="Relative duality gap that every row must reach.", rich_help_panel=_RUNNING)]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="NAME",
        help=f"Where blocks of rows are solved: {', '.join(EXECUTORS)}. The result is the same, bit for bit.",
        rich_help_panel=_RUNNING,
    ),
]
BlockRows = Annotated[
    int | None,
    typer.Option(
        help="Rows per block. Default: 32, fewer on many columns. Other blocks round otherwise.",
        rich_help_panel=_RUNNING,
        show_default=False,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="With --executor ray: the cluster to join, or auto. Default: start one on this machine.",
        rich_help_panel=_RUNNING,
        show_default=False,
    ),
]
BlockTimeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="A process or Ray worker that takes longer for a block counts as hung and is replaced. Default: twenty "
        "times the longest block so far, at least a minute.",
        rich_help_panel=_RUNNING,
        show_default=False,
    ),
]
JournalOption = Annotated[
    Path | None,
    typer.Option(
        "--journal",
        metavar="FOLDER",
        help="Keep every finished block in FOLDER. The same command again goes on from there, whatever ended the run.",
        rich_help_panel=_RUNNING,
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Insist on going on: it is an error if --journal does not exist yet.", rich_help_panel=_RUNNING
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(help="Blocks at a time. Default: one per processor.", rich_help_panel=_RUNNING, show_default=False),
]
Throw = Annotated[
    bool,
    typer.Option(
        "--throw/--no-throw",
        help="Stop if a row misses --tol, or write it, marked in rows.json.",
        rich_help_panel=_RUNNING,
    ),
]
Eps = Annotated[
    list[str],
    typer.Option(
        help="Radius of the box in ℓ∞, in units of the inputs; fractions such as 8/255 too. Repeat for several.",
        rich_help_panel=_ATTACKS,
    ),
]
PgdSteps = Annotated[int, typer.Option(help="Gradient steps of PGD.", rich_help_panel=_ATTACKS)]
AttackSamples = Annotated[
    int | None,
    typer.Option(
        help="Attack only the first so many test samples. Default: all.", rich_help_panel=_ATTACKS, show_default=False
    ),
]

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN", help="Folders that `simplicit fit` wrote, all from one baseline.", show_default=False
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        help="Take only so many test samples, drawn at random by --seed. Default: all.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
OtherBaseline = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        help="Folder of the baseline. Default: the one that the fits started from.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]
AnyData = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="digits, fashion-mnist, cifar-10, cifar-100, or a folder or .npz file. Default: that of the fits.",
        rich_help_panel=_DATA,
        show_default=False,
    ),
]


def check_resumable(journal: Path | None, *, resume: bool) -> None:
    """Refuse to resume where there is no journal.

    Raises
    ------
    InputError
        With `resume`, for no journal, or a folder that is none.
    """
    if not resume:
        return
    if journal is None:
        raise InputError("resume: name the journal to go on from with --journal")
    if not Journal.exists(journal):
        raise InputError(f"journal {journal}: there is none to go on from; leave --resume out to begin one")


def parse_part(text: str) -> tuple[int, int]:
    """``"3/16"`` to ``(3, 16)``.

    Raises
    ------
    InputError
        Anything but a number and a count with a slash between.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"part: expected I/N with 1 <= I <= N, such as 3/16, got {text!r}")
    return int(found[1]), int(found[2])


def parse_kappa(text: str) -> float | None:
    """A bound on ‖A‖∞, or None for ``"none"``.

    Raises
    ------
    InputError
        Neither a number nor none.
    """
    if text.strip().lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"kappa: expected a number or none, got {text!r}") from None


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """``"1x28x28"`` to ``(1, 28, 28)``.

    Raises
    ------
    InputError
        Anything but positive integers joined by x.
    """
    if text is None:
        return None
    parts = text.split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"input shape {text!r}: expected positive sizes joined by x, such as 1x28x28")
    return tuple(int(part) for part in parts)
