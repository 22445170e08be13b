"""Memory that several processes share and nobody has to clean up.

A segment is anonymous: a ``memfd`` where the system has it, otherwise a file without a name in ``/dev/shm`` or the
temporary folder. Other processes get its descriptor over a socket and map it for reading. It has no name by which it
could be left behind: the last process that ends, in whatever way, takes it along. It is sealed, so that nobody can
shrink it under the others, and, once it is filled, nobody can map it for writing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import tempfile
from pathlib import Path

from simplicit.checks import refused
from simplicit.errors import InputError
from simplicit.machine import check_memory, gib

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where the executor with processes refuses itself
    fcntl = None  # type: ignore[assignment]

SHARED_FOLDER = Path("/dev/shm")
_REMEDY = "make room, take executor='threads', or solve the targets in parts"
#: Of Linux 5.1; Python's module fcntl does not name it yet.
_SEAL_FUTURE_WRITE = 0x0010


class Segment:
    """Anonymous shared memory of so many bytes, mapped here for writing; InputError where there is no room.

    Other processes get its ``descriptor``, and map it by :func:`map_segment`.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.sealable = hasattr(os, "memfd_create")  # on Linux
        self._check_room()
        if self.sealable:
            self.descriptor = os.memfd_create("simplicit", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile(dir=_folder()) as file:
                self.descriptor = os.dup(file.fileno())
        try:
            self._reserve()
            if self.sealable:
                fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self.memory = mmap.mmap(self.descriptor, nbytes)
        except BaseException:
            os.close(self.descriptor)
            raise

    def _check_room(self) -> None:
        """Refuse beforehand what does not fit: to try would leave nothing for others meanwhile."""
        if self.sealable:
            check_memory("executor", self.nbytes, "'processes' shares", _REMEDY)
            return
        usage = shutil.disk_usage(_folder())
        if self.nbytes > usage.free:
            raise _no_room(self.nbytes, f"and {gib(usage.free)} of the {gib(usage.total)} of {_folder()} are free")

    def _reserve(self) -> None:
        """Take the bytes now: a mapping without them behind it would kill whoever touches it."""
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.descriptor, 0, self.nbytes)
            else:  # pragma: no cover - macOS
                os.ftruncate(self.descriptor, self.nbytes)
        except OSError as error:
            raise _no_room(self.nbytes, f"which could not be had ({error.strerror})") from error

    def freeze(self) -> None:
        """From now on it can be mapped for reading only, where the system knows how to say so."""
        if self.sealable:
            with contextlib.suppress(OSError):  # before Linux 5.1
                fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEAL_FUTURE_WRITE)

    def close(self) -> None:
        """Let go of it; it is gone when the others have, too, and no array here shows it any more."""
        os.close(self.descriptor)
        with contextlib.suppress(BufferError):  # arrays still show it: it goes with the last of them
            self.memory.close()


def map_segment(descriptor: int, nbytes: int) -> mmap.mmap:
    """A segment of another process, for reading; the descriptor is closed."""
    try:
        return mmap.mmap(descriptor, nbytes, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


def _folder() -> Path:
    return SHARED_FOLDER if SHARED_FOLDER.is_dir() else Path(tempfile.gettempdir())


def _no_room(nbytes: int, found: str) -> InputError:
    return refused("executor", f"'processes' shares {gib(nbytes)}, {found}; {_REMEDY}")
