"""What was measured on this machine, kept in the user's cache folder, one JSON file a machine and thread count."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from functools import cache
from math import isfinite
from pathlib import Path

import torch

from simplicit.errors import DataError
from simplicit.files import read_json, write_json

#: Of what the numbers mean: another one ignores old files.
_EDITION = 1

Seconds = dict[str, float]


def cache_folder() -> Path:
    """Where this user keeps what may be lost: ``$SIMPLICIT_CACHE``, or "simplicit" in the system's place for it."""
    if given := os.environ.get("SIMPLICIT_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "simplicit"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "simplicit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simplicit"


class Measured:
    """Seconds of one call by key and format, as found on this machine with as many threads as torch has now.

    A file that cannot be read, is damaged, or is of another edition counts as empty, and is replaced at the next
    :meth:`keep`; where none can be written, measurements are made again next time.
    """

    def __init__(self) -> None:
        facts = (processor(), torch.__version__, str(torch.get_num_threads()))
        self.machine = " / ".join(facts)
        digest = hashlib.sha256(self.machine.encode()).hexdigest()[:12]
        self.path = cache_folder() / f"formats-{digest}.json"
        self.seconds: dict[str, Seconds] = self._read()
        self._new = False

    def _read(self) -> dict[str, Seconds]:
        try:
            found = read_json(self.path)
        except DataError:  # it is not there, or somebody has damaged it: it is only a cache
            return {}
        seconds = found.get("seconds")
        if found.get("edition") != _EDITION or found.get("machine") != self.machine or not isinstance(seconds, dict):
            return {}
        return {str(key): row for key, row in seconds.items() if _is_row(row)}

    def add(self, key: str, seconds: Seconds) -> None:
        """Note what was measured."""
        self.seconds[key] = seconds
        self._new = True

    def keep(self) -> None:
        """Write the file, as a whole, if there is something new; others' measurements since then stay."""
        if not self._new:
            return
        self.seconds = self._read() | self.seconds
        with contextlib.suppress(OSError):
            write_json(self.path, {"edition": _EDITION, "machine": self.machine, "seconds": self.seconds})
        self._new = False


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and all(isinstance(s, float) and isfinite(s) and s > 0 for s in row.values())


@cache
def processor() -> str:
    """The model of the processor, as precisely as the system says it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
