"""A run and its folder: written whole or not at all, with a manifest that lets it be repeated.

``run.json`` holds the command, every setting, the seeds inside them, versions, hashes of all inputs, timings and
results. Paths in it are relative to its own folder, so that a tree of runs can be moved.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simplicit.checks import refused
from simplicit.errors import DataError, InputError
from simplicit.files import drafted, read_json, write_json, writing
from simplicit.machine import versions

MANIFEST = "run.json"
#: 2: accuracies are shares.
FORMAT = 2


@dataclass
class Manifest:
    """What ``run.json`` says about a run.

    ``kind`` is the command, ``command`` the line as it was typed (empty for a run from Python), ``settings`` has all of
    them, defaults included, ``inputs`` what was read, with hashes, ``seconds`` the wall-clock time of each stage, and
    ``packages`` those whose versions are kept besides the ones of every run. ``written`` in the document is the time of
    writing, in UTC, ISO 8601.
    """

    kind: str
    command: Sequence[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()

    def to_config(self) -> dict[str, Any]:
        """The document, with the versions and the machine of this process."""
        return {
            "format": FORMAT,
            "kind": self.kind,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": list(self.command),
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
    """Refuse an output folder that is taken (InputError) or cannot be written (DataError), before any work is done.

    It may not be or hold one of the `inputs`, which the run reads. With `overwrite`, the folder of an earlier run may
    be there, of the same command where `kind` names that: nothing but a run's own folder is ever removed.
    """
    with writing(f"output {target}"):
        taken = os.path.lexists(target)
        if taken and not overwrite:
            remedy = "" if target.is_symlink() or not target.is_dir() else ", or replace it with --overwrite"
            raise refused("output", f"exists already; choose another --output{remedy}", target)
        for path in inputs:
            if path.resolve().is_relative_to(target.resolve()):
                raise refused("output", f"is or holds {path}, which this run reads; choose another --output", target)
        if taken:
            _check_replaceable(target, kind)
        _probe(target.absolute())


def _check_replaceable(target: Path, kind: str | None) -> None:
    stranger = "not the folder of an earlier run{}, so it is not removed"
    if target.is_symlink() or not target.is_dir():
        raise refused("output", stranger.format(""), target)
    if not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise refused("output", stranger.format(f" (no {MANIFEST})"), target)
    try:
        manifest = read_json(target / MANIFEST)
        found, version = manifest.get("kind"), manifest.get("format")
        if not (isinstance(found, str) and isinstance(version, int)):
            raise DataError(f"its {MANIFEST} names no command of simplicit and no format")
        # What an earlier version wrote cannot be read any more, but it can be replaced.
        check_manifest(manifest | {"format": max(version, FORMAT)}, target / MANIFEST, found)
    except DataError as error:
        raise refused("output", stranger.format(f" ({error})"), target) from error
    if kind is not None and found != kind:
        what = f"written by `simplicit {found}`, so `simplicit {kind}` does not replace it; choose another --output"
        raise refused("output", what, target)


def _probe(target: Path) -> None:
    """Make and remove a folder where `target` is going to be: access rights alone do not tell of read-only disks."""
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
    """A folder to write a run into; it appears at `target` complete, or not at all: see ``files.drafted``.

    What :func:`check_output` refuses is refused here. An earlier run is replaced only by one of its own kind, that of
    the ``run.json`` written. DataError is raised where the place cannot be written, or no longer: the disk is full.
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


def check_folders(folders: Sequence[Path], *kinds: str) -> None:
    """Refuse no folders of runs of some kinds, or one that is named twice."""
    if not folders:
        raise InputError(f"name at least one folder that {_commands(kinds)} wrote")
    twice = next((folder for place, folder in enumerate(folders) if folder in folders[:place]), None)
    if twice is not None:
        raise InputError(f"{twice}: named twice")


def kind_of(folder: Path) -> object:
    """The command that wrote a folder, as its manifest says it; None where there is no manifest."""
    return read_json(folder / MANIFEST).get("kind") if (folder / MANIFEST).is_file() else None


def read_manifest(folder: Path, *kinds: str) -> dict[str, Any]:
    """The manifest of a run of some kinds; DataError where there is none, or :func:`check_manifest` refuses it."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name those that {_commands(kinds)} wrote")
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder}: has no {MANIFEST}; name folders that {_commands(kinds)} wrote")
    manifest = read_json(folder / MANIFEST)
    check_manifest(manifest, folder / MANIFEST, *kinds)
    return manifest


def _commands(kinds: Sequence[str]) -> str:
    """``(fit, attack)`` as ```simplicit fit` or `simplicit attack```."""
    return " or ".join(f"`simplicit {kind}`" for kind in kinds)


def check_manifest(manifest: dict[str, Any], path: Path, *kinds: str) -> None:
    """Refuse a manifest of none of some kinds, of another format, or with sections missing, by a DataError."""
    if manifest.get("kind") not in kinds:
        raise DataError(f"{path}: written by `simplicit {manifest.get('kind')}`, expected one of {_commands(kinds)}")
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path}: format {manifest.get('format')}, this version reads {FORMAT}; run it again")
    for section in ("settings", "inputs"):
        if not isinstance(manifest.get(section), dict):
            raise DataError(f"{path}: damaged, no section {section!r}")
