"""Files that last: written as a whole or not at all, whatever happens to the process, the machine or the disk."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simplicit.errors import DataError

__all__ = ["PARTIAL", "read_json", "write_durably", "write_json"]

#: What the names of files end in that are not finished.
PARTIAL = ".partial"


def write_durably(path: Path, content: bytes) -> None:
    """Write a file under another name, flush it to the disk, rename it, and flush the folder.

    Raises
    ------
    DataError
        If it cannot be written: the disk is full, say. What was there before stays as it is.
    """
    draft = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}{PARTIAL}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); what was written before is safe, so make room and "
            "run again to go on"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can open folders."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, as :func:`write_durably`."""
    write_durably(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises
    ------
    DataError
        Missing, unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # bad JSON and bad UTF-8 alike
        raise DataError(f"{path}: damaged, not a JSON document ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: damaged, expected a JSON object, got {type(value).__name__}")
    return value
