"""Files and folders that are there as a whole or not at all, whatever happens to the process, the machine or the disk.

Everything that simplicit writes goes through :func:`drafted`: it is written beside its place under another name and
renamed when it is complete. A :class:`Sealed` folder holds ``config.json`` and one file of arrays, and in the first a
SHA-256 or a CRC-32 of both: of the object without "sha256" or "crc32", as compact JSON with sorted keys in ASCII,
followed by the other file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import hashlib
import json
import math
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from simplicit.errors import DataError, InputError, SimplicitError

#: Suffix of files and folders that are not finished.
PARTIAL = ".partial"
#: What says how the arrays of a sealed folder are read.
CONFIG = "config.json"
#: Characters of the target's name that temporary names repeat: the whole name might make one that is too long.
_LONG_NAME = 40


@contextmanager
def drafted(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """A path beside ``target`` to write a file or a folder at; it takes the place of ``target`` when the block ends.

    Where the block raises, on Ctrl-C too, the draft is removed and ``target`` stays as it was. Folders above
    ``target`` are made, and removed again where nothing came of it. A ``durable`` file, and the folder that it is in,
    are flushed to the disk, so that it survives a power cut. What cannot be written raises OSError; see
    :func:`writing`.
    """
    place = target.absolute()
    made = [parent for parent in place.parents if not parent.exists()]
    draft = place.with_name(f".{place.name[:_LONG_NAME]}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        if durable:
            _flush(draft)
        _publish(draft, place)
        if durable:
            _flush(place.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
        for parent in made:
            with contextlib.suppress(OSError):  # it was never made, or somebody else has put something into it
                parent.rmdir()
        raise


def _publish(draft: Path, target: Path) -> None:
    """Rename the draft; a folder that is replaced is put back if that fails."""
    if not target.is_dir():
        draft.replace(target)
        return
    old = draft.with_name(f"{draft.name}.old")
    target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Flush a file or folder to the disk, where the system can open folders."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def writing(what: object, remedy: str = "") -> Iterator[None]:
    """Tell a failure of the file system as one :class:`DataError` about ``what``, with a remedy if there is one."""
    try:
        yield
    except (SimplicitError, BrokenPipeError):  # a pipe is of whoever reads our output
        raise
    except OSError as error:
        raise DataError(f"{what}: cannot be written ({error.strerror or error}){remedy and f'; {remedy}'}") from error


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a file as a whole; OSError where it cannot be written."""
    with drafted(path, durable=durable) as draft:
        draft.write_bytes(content)


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Write strict JSON as a whole; OSError where it cannot be written."""
    write_bytes(path, (dumps(value) + "\n").encode(), durable=durable)


def dumps(value: Any) -> str:
    """Strict JSON, indented."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: dataclasses, enums, paths, NumPy scalars and arrays; NaN and infinity are null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.as_posix() if isinstance(value, Path) else value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; DataError where it is missing, unreadable, not JSON, too deep or no object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except RecursionError as error:
        raise DataError(f"{path}: damaged, nested too deeply") from error
    except ValueError as error:  # bad JSON and bad UTF-8 alike
        raise DataError(f"{path}: damaged, not a JSON document ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: damaged, expected a JSON object, got {type(value).__name__}")
    return value


def file_hash(path: Path) -> str:
    """``"sha256:..."`` of a file's bytes; DataError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


@dataclasses.dataclass(frozen=True)
class Sealed:
    """A kind of folder with two files that belong together.

    ``what`` it holds in words, the name of its file of ``arrays``, its ``format`` as ``config.json`` has it, the
    ``versions`` that are read, and the ``seal``: "sha256", or "crc32", which finds damage as well, but for one in 2³²,
    and takes a third of the time.
    """

    what: str
    arrays: str
    format: str
    versions: range
    seal: str = "sha256"

    def text(self, config: Mapping[str, Any], payload: bytes, *, lines: bool = True) -> str:
        """What ``config.json`` is to hold, of a ``config`` without its seal; indented where ``lines``."""
        sealed = {**config, self.seal: self.digest(config, payload)}
        text = dumps(sealed) if lines else json.dumps(sealed, separators=(",", ":"), allow_nan=False)
        return f"{text}\n"

    def write(self, target: Path, text: str, payload: bytes, *, overwrite: bool) -> None:
        """Write both files, all or nothing.

        DataError is raised where ``target`` exists and ``overwrite`` is False, or it holds anything else, or writing
        fails.
        """
        with writing(target):
            self._check_target(target, overwrite)
            with drafted(target) as draft:
                draft.mkdir()
                (draft / self.arrays).write_bytes(payload)
                (draft / CONFIG).write_text(text, encoding="utf-8")

    def _check_target(self, target: Path, overwrite: bool) -> None:
        if not target.exists():
            return
        if not overwrite:
            raise DataError(f"{target} exists; choose another folder or pass overwrite=True")
        if not target.is_dir():
            raise DataError(f"{target} is not a folder; choose another name")
        others = sorted(path.name for path in target.iterdir() if path.name not in (CONFIG, self.arrays))
        if others:
            raise DataError(f"{target} holds more than {self.what} ({', '.join(others[:3])}) and is not overwritten")

    def read(self, folder: Path) -> tuple[dict[str, Any], bytes]:
        """The object in ``config.json`` and the bytes of the other file, which :meth:`check` has to compare.

        DataError is raised where a file is missing or cannot be read, of another format or an unknown version.
        """
        file, arrays = folder / CONFIG, folder / self.arrays
        for one in (file, arrays):
            if not one.is_file():
                raise DataError(f"{one}: is not there; {self.what} is a folder with {CONFIG} and {self.arrays}")
        config = read_json(file)
        if config.get("format") != self.format:
            raise DataError(f'{file} does not describe {self.what}: "format" is not {self.format!r}')
        if config.get("version") not in self.versions:
            raise DataError(
                f"{file} has format version {config.get('version')!r}, this simplicit reads versions up to "
                f"{self.versions[-1]}; use the version of simplicit that wrote it"
            )
        try:
            return config, arrays.read_bytes()
        except OSError as error:
            raise DataError(f"{arrays}: cannot be read ({error.strerror or error})") from error

    def check(self, folder: Path, config: dict[str, Any], payload: bytes) -> None:
        """Take the seal out of ``config``; DataError where the files are not those that were written together."""
        if config.pop(self.seal) != self.digest(config, payload):
            name = {"sha256": "SHA-256", "crc32": "CRC-32"}[self.seal]
            raise DataError(f"{folder} is damaged: the {name} of {CONFIG} and {self.arrays} is not the one in {CONFIG}")

    def digest(self, config: Mapping[str, Any], payload: bytes) -> str:
        """The seal of both files, of a ``config`` without it."""
        canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")
        if self.seal == "crc32":
            return f"{zlib.crc32(payload, zlib.crc32(canonical)):08x}"
        sha256 = hashlib.sha256(canonical)
        sha256.update(payload)
        return sha256.hexdigest()


def check_entries(found: Any, entries: Mapping[str, type], where: str) -> None:
    """Raise :class:`InputError` for what is no JSON object with these entries, of these types, and with no others."""
    if not isinstance(found, dict):
        raise InputError(f"{where} must be an object, got {found!r}")
    for key, kind in entries.items():
        if key not in found:
            raise InputError(f"{where} lacks the entry {key!r}")
        if type(found[key]) is not kind:
            raise InputError(f"{where}: the entry {key!r} must be a JSON {_JSON[kind]}, got {found[key]!r:.80}")
    unknown = sorted(set(found) - set(entries))
    if unknown:
        raise InputError(f"{where} has the unknown entry {unknown[0]!r}")


_JSON = {str: "text", int: "integer", list: "array", dict: "object"}
