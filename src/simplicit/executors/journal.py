"""The journal: every finished block is a file before it counts, so that a run that is killed loses none.

A journal is a folder:

    journal.json            what it is a journal of: the hash of all inputs and settings, and versions
    lock                    held (flock) by the run that writes; gone with its process, however that ends
    <hash>/section.json     one solve; a fit has several
    <hash>/000012.safetensors     block 12: the arrays of its result, and their checksum in the metadata

A file is written under another name, flushed to the disk, renamed, and the folder flushed: it is there as a whole or
not at all. A block that is damaged all the same, by whatever happened to the disk, is not believed: its checksum covers
names, types, shapes, bytes and where it belongs. It is solved again. Nothing in a journal can run code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from simplicit.checks import refused
from simplicit.errors import DataError
from simplicit.executors.records import flatten, restore
from simplicit.files import PARTIAL, read_json, write_bytes, write_json, writing

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock: there two runs must be kept apart by hand
    fcntl = None  # type: ignore[assignment]

R = TypeVar("R")

#: Of the files: what a section says, and by which names a block's arrays are in its file.
FORMAT = 2
HEADER, SECTION, LOCK = "journal.json", "section.json", "lock"
#: Digits of a hash in the name of a section.
_DIGITS = 16
#: Bytes that are hashed at a time.
_CHUNK = 2**24

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """An array that comes in ``parts`` along its first axis, and is hashed as if it were whole."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[npt.NDArray[Any]]]


def digest(parts: Mapping[str, Any]) -> str:
    """The hash of arrays and plain values under names: of types, shapes and bytes, in the order of the names.

    Arrays are read in parts, so that a memory map is never in memory as a whole.
    """
    sha = hashlib.sha256()
    for name in sorted(parts):
        value = parts[name]
        if isinstance(value, np.ndarray | Parts):
            sha.update(f"{name}:{value.dtype.str}:{value.shape}:".encode())
            for part in [value] if isinstance(value, np.ndarray) else value.parts():
                lines = np.atleast_1d(part)
                step = max(1, _CHUNK // max(1, lines[:1].nbytes))
                for first in range(0, len(lines), step):
                    sha.update(np.ascontiguousarray(lines[first : first + step]).data)
        else:
            sha.update(f"{name}:{json.dumps(value, sort_keys=True)}:".encode())
    return sha.hexdigest()


@dataclass(frozen=True)
class Section:
    """The blocks of one solve."""

    folder: Path
    key: str  # the hash of what is solved
    facts: Mapping[str, Any]  # what is said about it in ``section.json``

    def numbers(self) -> list[int]:
        """The blocks that have a file."""
        found = (path.stem for path in self.folder.glob("*.safetensors"))
        return sorted(int(stem) for stem in found if stem.isdecimal())

    def store(self, number: int, result: Any) -> None:
        """Write the record that came of a block, for good; DataError if it cannot be, and what is there stays."""
        arrays = {name: np.ascontiguousarray(array) for name, array in flatten(result).items()}
        metadata = {"section": self.key, "block": str(number), "sha256": self._checksum(number, arrays)}
        path = self._path(number)
        with writing(path, "what was written before is safe, so make room and run again to go on"):
            write_bytes(path, safetensors.numpy.save(arrays, metadata), durable=True)

    def load(self, number: int, kind: type[R]) -> R | None:
        """The record of a finished block; None where it is not :meth:`intact`."""
        arrays = self._read(number)
        return None if arrays is None else restore(kind, arrays)

    def intact(self, number: int) -> bool:
        """Whether a block has a file, and that is as it was written; a damaged one is logged as a warning."""
        return self._read(number) is not None

    def _read(self, number: int) -> dict[str, npt.NDArray[Any]] | None:
        path = self._path(number)
        try:
            with safetensors.safe_open(path, framework="np") as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
                found = (file.metadata() or {}).get("sha256")
            if found == self._checksum(number, arrays):
                return arrays
            why = "its checksum does not fit"
        except FileNotFoundError:
            return None
        except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
            why = str(error)
        _log.warning("journal: %s is damaged (%s); its rows are solved again", path, why)
        return None

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def _checksum(self, number: int, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
        return digest({f"array {name}": array for name, array in arrays.items()} | {"block": number, "key": self.key})


class Journal:
    """A folder of finished blocks, whose ``journal.json`` holds the ``facts``.

    Open it by :meth:`open` or :meth:`read` and close it, or use it in ``with``. Both raise InputError for a folder that
    is none, and for a journal of another version; DataError where it cannot be read, or its header is damaged.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], locks: contextlib.ExitStack) -> None:
        self.folder, self.facts, self._locks = folder, facts, locks

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        key: str,
        facts: Mapping[str, Any],
        *,
        part: tuple[int, int] | None = None,
    ) -> Journal:
        """Open a journal to write in it, or make one.

        ``key`` is the hash of all inputs and settings, and the header says the ``facts`` about them. Runs of different
        parts (number, of how many) share a journal; others have it alone. InputError is raised for a journal of another
        problem, and for one that is in use, DataError also where it cannot be written.
        """
        place = Path(folder)
        with contextlib.ExitStack() as locks, writing(f"journal {place}"):
            if place.is_dir() and not (place / HEADER).is_file() and any(_foreign(place)):
                raise refused("journal", "the folder holds other things; choose a new or an empty one", place)
            place.mkdir(parents=True, exist_ok=True)
            locks.enter_context(_locked(place, LOCK, shared=part is not None))
            if part is not None:
                locks.enter_context(_locked(place, f"part-{part[0]}-of-{part[1]}.{LOCK}"))
            else:
                for left in (*place.glob(f".*{PARTIAL}"), *place.glob(f"*/.*{PARTIAL}")):
                    left.unlink(missing_ok=True)
            if not (place / HEADER).is_file():
                write_json(place / HEADER, {"format": FORMAT, "key": key, **facts}, durable=True)
            found = read_json(place / HEADER)
            _check_format(place, found)
            _check_same(place, found, key, facts)
            held = locks.pop_all()
        return cls(place, found, held)

    @staticmethod
    def exists(folder: str | os.PathLike[str]) -> bool:
        """Whether the folder is a journal."""
        return (Path(folder) / HEADER).is_file()

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Journal:
        """Open a journal to read it, whatever it is of: what is there is whole, also while somebody writes."""
        place = Path(folder)
        if not (place / HEADER).is_file():
            raise refused("journal", f"is none, it has no {HEADER}", place)
        found = read_json(place / HEADER)
        _check_format(place, found)
        return cls(place, found, contextlib.ExitStack())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others use it."""
        self._locks.close()

    @property
    def key(self) -> str:
        """The hash of what it is a journal of."""
        return str(self.facts.get("key"))

    def section(self, key: str, facts: Mapping[str, Any]) -> Section:
        """The section of a solve, made if it is not there; DataError if it cannot be written, or is damaged."""
        place = self.folder / key[:_DIGITS]
        with writing(f"journal {self.folder}"):
            place.mkdir(exist_ok=True)
            if not (place / SECTION).is_file():
                write_json(place / SECTION, {"key": key, **facts}, durable=True)
            found = read_json(place / SECTION)
        if found.get("key") != key:
            raise DataError(f"journal {self.folder}: {place.name}/{SECTION} is damaged; remove the folder {place}")
        return Section(place, key, found)

    def sections(self) -> list[Section]:
        """All that there are."""
        headers = [(path.parent, read_json(path)) for path in sorted(self.folder.glob(f"*/{SECTION}"))]
        return [Section(folder, str(facts.get("key")), facts) for folder, facts in headers]


def _foreign(folder: Path) -> Iterator[Path]:
    """What a journal whose making was broken off cannot have left behind."""
    return (path for path in folder.iterdir() if not path.name.endswith((LOCK, PARTIAL)))


def _check_format(place: Path, found: Mapping[str, Any]) -> None:
    if found.get("format") != FORMAT:
        theirs = f"another version of simplicit, in format {found.get('format')} where this one has {FORMAT}"
        raise refused("journal", f"is of {theirs}; begin a new one", place)


def _check_same(place: Path, found: Mapping[str, Any], key: str, facts: Mapping[str, Any]) -> None:
    if found.get("key") == key:
        return
    theirs, ours = found.get("versions"), facts.get("versions")
    if theirs != ours:
        raise refused("journal", f"written with {_named(theirs)}, this is {_named(ours)}; begin a new one", place)
    raise refused(
        "journal", "is of another problem, the hash of inputs and settings differs; choose another folder", place
    )


def _named(versions: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) if isinstance(versions, dict) else "?"


@contextlib.contextmanager
def _locked(folder: Path, name: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock, which the system lets go of when this process ends, in whatever way."""
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace")
                what = f"in use by another run{holder and f' ({holder})'}; wait for its end, or choose another folder"
                raise refused("journal", what, folder) from None
            if not shared:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
        if not shared:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
