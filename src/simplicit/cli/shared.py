"""Settings that several commands share: each is a dataclass that is defined and documented here alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from simplicit.checks import named, refused
from simplicit.cli.console import print_json, say
from simplicit.cli.invocation import invocation
from simplicit.data import DATASETS
from simplicit.executors import Journal
from simplicit.runs.folder import check_output


@dataclass(frozen=True)
class Output:
    """Where results go.

    Parameters
    ----------
    output : Path, optional
        Folder to write.
    overwrite : bool
        Replace the folder of an earlier run at --output, with all that is in it.
    json : bool
        Print one JSON document on standard output, and nothing else.
    """

    panel: ClassVar[str] = "Output"

    output: Path | None = None
    overwrite: bool = False
    json: bool = False

    @property
    def folder(self) -> Path:
        """The folder, of a command that always writes one."""
        assert self.output is not None
        return self.output

    def check(self, kind: str, inputs: Iterable[Path] = ()) -> None:
        """Refuse a folder that cannot be written before any work is done; see ``runs.folder.check_output``."""
        if self.output is not None:
            check_output(self.output, overwrite=self.overwrite, kind=kind, inputs=inputs)

    def saving(self) -> dict[str, Any]:
        """How a folder is written: the command line as it was typed, and whether an earlier run may be replaced."""
        return {"command": invocation().command, "overwrite": self.overwrite}

    def show(self, results: Mapping[str, Any], *things: Any) -> None:
        """Print the folder and the results as JSON where that is wanted, and otherwise texts and tables."""
        if self.json:
            print_json({"folder": self.output} | dict(results))
        else:
            say(*things)


@dataclass(frozen=True)
class Keeping:
    """Where finished blocks of rows are kept.

    Parameters
    ----------
    journal : Path, optional
        Keep every finished block in this folder. The same command again goes on from there, whatever ended the run.
    resume : bool
        Insist on going on: it is an error if --journal does not exist yet.
    """

    panel: ClassVar[str] = "Running"

    journal: Path | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.journal is None:
            raise refused("resume", "name the journal to go on from with --journal")
        if self.resume and self.journal is not None and not Journal.exists(self.journal):
            raise refused("journal", "there is none to go on from; leave --resume out to begin one", self.journal)


@dataclass(frozen=True)
class OtherSource:
    """Another baseline or other data than those that a fit started from.

    Parameters
    ----------
    baseline : Path, optional
        Folder of the baseline. Default: the one that the fits started from.
    data : str, optional
        A data set by its name, or a folder or .npz file. Default: that of the fits.
    data_dir : Path, optional
        Folder with the files of a named data set. Default: $SIMPLICIT_DATA, else they are downloaded.
    trust_pt2 : bool
        Allow a .pt2 program as the baseline. Loading one can run code that it carries: only from people you trust.
    """

    panel: ClassVar[str] = "Network and data"

    baseline: Path | None = None
    data: str | None = field(default=None, metadata=named(DATASETS))
    data_dir: Path | None = None
    trust_pt2: bool = False


@dataclass(frozen=True)
class Named:
    """Data by name or by path.

    Parameters
    ----------
    data : str
        A data set by its name, or a folder or .npz file with your own arrays.
    data_dir : Path, optional
        Folder with the files of a named data set. Default: $SIMPLICIT_DATA, else they are downloaded.
    """

    panel: ClassVar[str] = "Data"

    data: str = field(default="digits", metadata=named(DATASETS))
    data_dir: Path | None = None
