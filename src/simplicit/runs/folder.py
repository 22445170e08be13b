"""A run and its folder: written whole or not at all, with a manifest that lets it be repeated.

``run.json`` holds the command, every setting, the seeds inside them, versions, hashes of all inputs, timings and
results. Paths in it are relative to its own folder, so that a tree of runs can be moved.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simplicit.errors import DataError, InputError
from simplicit.files import drafted, read_json, write_json, writing
from simplicit.machine import versions

MANIFEST = "run.json"
#: 2: accuracies are shares.
FORMAT = 2


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Manifest:
    """What ``run.json`` says about a run.

    Parameters
    ----------
    kind : str
        The command, such as ``fit``.
    command : list of str
        The command line as it was typed; empty for a run from Python.
    settings : dict
        Every setting, defaults included.
    inputs : dict
        What was read, with hashes.
    seconds : dict
        Wall-clock time of each stage.
    results : dict
        The figures.
    packages : tuple of str
        Whose versions are told besides those of every run.
    started : str
        UTC, ISO 8601.
    """

    kind: str
    command: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    started: str = field(default_factory=_now)

    def to_config(self) -> dict[str, Any]:
        """The document, with the versions and the machine of this process."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "started": self.started,
            "command": self.command,
            "settings": self.settings,
            "inputs": self.inputs,
            "versions": {"python": platform.python_version()} | versions(*self.packages),
            "machine": {"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count()},
            "seconds": {stage: round(seconds, 3) for stage, seconds in self.seconds.items()},
            "results": self.results,
        }

    def write(self, folder: Path) -> None:
        """Write ``run.json`` into `folder`."""
        write_json(folder / MANIFEST, self.to_config())


def check_output(target: Path, *, overwrite: bool, kind: str | None = None, inputs: Iterable[Path] = ()) -> None:
    """Refuse an output folder that is taken or cannot be written, before any work is done.

    Parameters
    ----------
    target : Path
    overwrite : bool
        Allow `target` to be the folder of an earlier run.
    kind : str, optional
        The command that is going to write; only a run of the same command is replaced. Default: of any command.
    inputs : iterable of Path, optional
        What the run reads: a folder that is or holds one of them is not replaced.

    Raises
    ------
    InputError
        `target` exists and `overwrite` is false, or it exists and is not the folder of an earlier run of this kind, or
        replacing it would remove an input: nothing but a run's own folder is ever removed.
    DataError
        The place cannot be written.
    """
    with writing(f"output {target}"):
        taken = os.path.lexists(target)
        if taken and overwrite:
            _check_replaceable(target, kind, inputs)
        elif taken:
            remedy = "" if target.is_symlink() or not target.is_dir() else ", or replace it with --overwrite"
            raise InputError(f"output {target}: exists already; choose another --output{remedy}")
        _probe(target.absolute())


def _check_replaceable(target: Path, kind: str | None, inputs: Iterable[Path]) -> None:
    refused = f"output {target}: not the folder of an earlier run"
    if target.is_symlink() or not target.is_dir():
        raise InputError(f"{refused}, so it is not removed")
    place = target.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(place):
            raise InputError(f"output {target}: is or holds {path}, which this run reads; choose another --output")
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise InputError(f"{refused} (no {MANIFEST}), so it is not removed")
    try:
        manifest = read_json(target / MANIFEST)
        found, version = manifest.get("kind"), manifest.get("format")
        if not (isinstance(found, str) and isinstance(version, int)):
            raise DataError(f"its {MANIFEST} names no command of simplicit and no format")
        # What an earlier version wrote cannot be read any more, but it can be replaced.
        check_manifest(manifest | {"format": FORMAT if version < FORMAT else version}, found, target / MANIFEST)
    except DataError as error:
        raise InputError(f"{refused} ({error}), so it is not removed") from error
    if kind is not None and found != kind:
        raise InputError(
            f"output {target}: written by `simplicit {found}`, so `simplicit {kind}` does not replace it; choose "
            "another --output"
        )


def _probe(target: Path) -> None:
    """Make and remove a folder where `target` is going to be: access rights alone do not tell of read-only discs."""
    place = next(parent for parent in target.parents if os.path.lexists(parent))
    probe = Path(tempfile.mkdtemp(prefix=".simplicit.", suffix=".partial", dir=place))
    try:
        for name in target.relative_to(place).parts:
            (probe / name).exists()  # raises where the name is too long for this place
    finally:
        probe.rmdir()


@contextmanager
def run_folder(
    target: Path, *, overwrite: bool = False, kind: str | None = None, inputs: Iterable[Path] = ()
) -> Iterator[Path]:
    """A folder to write a run into; it appears at `target` complete, or not at all.

    Yields a temporary folder beside `target`. It is renamed when the block ends, and removed where the block raises,
    on Ctrl-C too. An earlier run is replaced only by one of its own kind, that of the ``run.json`` written.

    Raises
    ------
    InputError
        See :func:`check_output`.
    DataError
        The place cannot be written, or no longer: the disc is full.
    """
    inputs = tuple(inputs)
    check_output(target, overwrite=overwrite, kind=kind, inputs=inputs)
    with writing(f"output {target}"), drafted(target) as draft:
        draft.mkdir()
        yield draft
        if kind is None and (draft / MANIFEST).is_file():
            kind = str(read_json(draft / MANIFEST)["kind"])
        check_output(target, overwrite=overwrite, kind=kind, inputs=inputs)  # it may have appeared meanwhile


def relative_to(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`; absolute where there is no way between them (another drive)."""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """The manifest of a run of the given kind.

    Raises
    ------
    DataError
        No such folder, no or a damaged ``run.json``, another kind of run, or a newer format.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one that `simplicit {kind}` wrote")
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder}: has no {MANIFEST}; expected a folder that `simplicit {kind}` wrote")
    manifest = read_json(folder / MANIFEST)
    check_manifest(manifest, kind, folder / MANIFEST)
    return manifest


def check_manifest(manifest: dict[str, Any], kind: str, path: Path) -> None:
    """Refuse a manifest of another kind or format, or with sections missing.

    Raises
    ------
    DataError
        Naming the file and the defect.
    """
    if manifest.get("kind") != kind:
        raise DataError(f"{path}: written by `simplicit {manifest.get('kind')}`, expected one of `simplicit {kind}`")
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path}: format {manifest.get('format')}, this version reads {FORMAT}; run it again")
    for section in ("settings", "inputs"):
        if not isinstance(manifest.get(section), dict):
            raise DataError(f"{path}: damaged, no section {section!r}")
