"""Where the files of data sets come from, and what is said of a file that is missing, damaged or another one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from simplicit.errors import DataError, SimplicitError, first_line

T = TypeVar("T")


@contextmanager
def reading(what: object, kind: str, remedy: str) -> Iterator[None]:
    """Report every failure to read ``what`` as one :class:`DataError`, "damaged or truncated ``kind``", with a remedy.

    Readers of damaged files may fail in any way, so that every exception counts but simplicit's own.
    """
    try:
        yield
    except SimplicitError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{what}: cannot be read ({error.strerror})") from error
        raise DataError(f"{what}: damaged or truncated {kind} ({first_line(error)}); {remedy}") from error


def select(values: Mapping[str, T], keys: Sequence[str], what: object) -> list[T]:
    """The values of ``keys``, in that order; DataError naming those that ``what`` lacks and all that it has."""
    if missing := [key for key in keys if key not in values]:
        raise DataError(f"{what}: no key {', '.join(missing)}, has {', '.join(sorted(values)) or 'none'}")
    return [values[key] for key in keys]


def candidate_folders(data_dir: Path | None, name: str) -> tuple[Path, ...]:
    """The folders where the files of the data set ``name`` may lie: ``data_dir``/``name`` and ``data_dir``.

    The environment variable ``SIMPLICIT_DATA`` stands in for `data_dir`. There are none where neither is given: then
    the files are downloaded into the user's cache.
    """
    folder = data_dir or os.environ.get("SIMPLICIT_DATA")
    return (Path(folder) / name, Path(folder)) if folder else ()


def not_found(folder: Path, name: str, files: str) -> DataError:
    """The error that ``folder`` holds no data set ``name``, in which ``files`` were looked for."""
    return DataError(
        f"{folder}: no {name} here, nor in its subfolder {name} (looked for {files}); name the right folder with "
        "--data-dir or SIMPLICIT_DATA, or leave both out to download"
    )


def check_md5(path: Path, md5: str) -> None:
    """Refuse a file that cannot be read or that has another MD5 sum than the published one, by a DataError."""
    with reading(path, "file", "download it again"), path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise DataError(f"{path}: MD5 is {found}, the published file has {md5}; delete it and download it again")


def download(url: str, md5: str, *, name: str, by_hand: str) -> Path:
    """Download a published file of the data set ``name`` into the user's cache by pooch, unless it is there already.

    DataError is raised where that fails, or what came has another sum; it asks to fetch ``by_hand``.
    """
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # stdout and stderr belong to the caller
    file, folder = url.rsplit("/", 1)[-1], pooch.os_cache("simplicit") / name
    try:
        return Path(pooch.retrieve(url=url, known_hash=f"md5:{md5}", fname=file, path=folder))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError is pooch's hash mismatch
        raise DataError(
            f"{name} could not be downloaded ({file}: {_cause(error, url)}); fetch {by_hand} by hand and name the "
            "folder with --data-dir or SIMPLICIT_DATA, or use --data digits"
        ) from error


def _cause(error: Exception, url: str) -> str:
    """Why a download failed, in a few words; requests would tell of its pools and retries."""
    host = urlsplit(url).netloc
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"{host} answered {status}"
    kind = type(error)
    if "Timeout" in kind.__name__:
        return f"{host} did not answer in time"
    if kind.__module__.startswith("requests") and kind.__name__ in ("ConnectionError", "SSLError", "ProxyError"):
        return f"no connection to {host}"
    if "hash" in str(error):
        return "what came is not the published file, its MD5 sum is another one; nothing was kept"
    return first_line(error)
