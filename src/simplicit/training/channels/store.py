r"""Where values are kept that are as many as the samples: in memory, or on disk where they do not fit.

A fit has one :class:`Store`. It keeps the inputs, the states that a walk carries from one layer to the next, and what
positions count. Without a folder all of it is in memory. With one, values are in memory while those that are alive have
no more than a budget together, and the others in files of a folder of the fit's own inside: one file for a node of the
graph on one side (baseline or student), one batch after another. So what is in memory at any time is

    weights and Gram matrices,  the budget,  a batch of each value that the pass at hand reads or makes

whatever the number of samples. A file goes as soon as nothing refers to it any more, and the folder with the fit,
however that ends; what a fit left behind that was killed is removed by the next one that keeps its values there.

Nothing that comes out depends on where a value was. Its bytes come back with the shape, the strides and the alignment
that they had, for kernels choose by these, and rounding with them. Values that share bytes (views) share them in
the file, so that a view costs nothing.

Files are written by ``write`` and read through memory maps. A disk that is full is an error of the write and no signal
at some later touch of a page; a map reads no more than what is used, and its pages are the system's to drop.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from simplicit.checks import as_path, refused
from simplicit.files import writing
from simplicit.machine import available_memory

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock: what a killed fit left behind stays there
    fcntl = None  # type: ignore[assignment]

#: Bytes that a fit with a folder keeps in memory all the same, at most, and at most this share of what is free.
BUDGET, SHARE = 2**30, 0.25
#: What torch aligns its memory by.
ALIGNED = 64
# Where the platform knows of it: maps that are shared with children count otherwise.
_PRIVATE: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
#: Begin of the names of the folders inside, and how old in seconds one is before it can count as left behind.
PREFIX, SETTLED = "simplicit-", 60.0
#: What helps where a file cannot be written.
REMEDY = (
    "make room or name another folder; with a journal (journal=, --journal) the same fit goes on from the rows that "
    "are solved"
)


class Piece:
    """The bytes of one storage, ``offset`` bytes into a file or a map of the store's own, or still the tensors'."""

    def __init__(self, nbytes: int, offset: int = 0, file: _File | None = None, own: mmap.mmap | None = None) -> None:
        self.nbytes, self.offset, self.file, self.own = nbytes, offset, file, own

    def storage(self) -> torch.UntypedStorage | None:
        """The store's own; None where the tensors have it."""
        found, skipped = self.own, self.offset
        if self.file is not None:
            skipped = self.offset % mmap.ALLOCATIONGRANULARITY  # where a map may begin
            first = self.offset - skipped
            with self.file.path.open("rb") as file:
                # A private map, for torch wants to be allowed to write; nobody does.
                found = mmap.mmap(file.fileno(), skipped + self.nbytes, access=mmap.ACCESS_COPY, offset=first)
        if found is None:
            return None
        return torch.frombuffer(found, dtype=torch.uint8, offset=skipped, count=self.nbytes).untyped_storage()


def _in_memory(storage: torch.UntypedStorage) -> Piece:
    """A piece in memory: a copy in a map of its own, aligned alike, or the storage itself where there can be none.

    What stays must not lie among what goes. Aligned memory that was freed beside it is not used again by glibc's
    allocator, so that a process would hold several times what is alive. Not even an object of torch stays.
    """
    nbytes, skipped = storage.nbytes(), storage.data_ptr() % ALIGNED
    if not nbytes:
        return Piece(0)
    try:
        own = mmap.mmap(-1, skipped + nbytes, **_PRIVATE)
    except OSError:  # a process may have so many maps and no more
        return Piece(nbytes)
    piece = Piece(nbytes, skipped, own=own)
    torch.frombuffer(own, dtype=torch.uint8, offset=skipped).copy_(_bytes(storage))
    return piece


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


#: Pieces by the addresses of their storages, all of which are alive; None for what is not the store's to keep.
Known = dict[int, Piece | None]


class _File:
    """A file of pieces, which goes when no piece refers to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0

    def write(self, storage: torch.UntypedStorage) -> Piece:
        """Append the bytes of a storage, aligned as they are in memory."""
        begin = -(-self.size // ALIGNED) * ALIGNED + storage.data_ptr() % ALIGNED
        with self.path.open("r+b" if self.size else "w+b") as file:
            file.seek(begin)
            file.write(_bytes(storage).numpy().data)
        self.size = begin + storage.nbytes()
        return Piece(storage.nbytes(), begin, self)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A tensor: itself, or where its bytes are and how it lies in them. A piece that it has is alive as long as it."""

    piece: Piece | None
    tensor: Tensor | None
    dtype: torch.dtype
    form: tuple[int, torch.Size, tuple[int, ...]]  # offset, shape, strides

    def value(self) -> Tensor:
        if self.tensor is not None:
            return self.tensor
        assert self.piece is not None
        storage = self.piece.storage()
        assert storage is not None
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.form)


class Store:
    """Values in memory, up to ``budget`` bytes where there is a ``folder`` for the others; see the module.

    ``held`` and ``written`` are the bytes that are alive in memory and in files, ``most_held`` and ``most_written`` the
    most that were. Open one with a folder by :meth:`opened`.
    """

    def __init__(self, folder: Path | None = None, budget: int | None = None) -> None:
        self.folder = folder
        self.budget = _budget() if budget is None else budget
        self.held = self.written = self.most_held = self.most_written = 0
        self._files = 0
        self._lock = threading.RLock()  # a value may be let go of wherever memory is asked for

    @classmethod
    @contextlib.contextmanager
    def opened(cls, cache: str | os.PathLike[str] | None) -> Iterator[Store]:
        """A store with a folder of its own in ``cache``, which is made where it is not there, or one in memory.

        The folder is removed at the end, after an exception too. InputError is raised where ``cache`` is no folder,
        DataError where it cannot be written.
        """
        if cache is None:
            yield cls()
            return
        place = as_path("cache", cache)
        if place.exists() and not place.is_dir():
            raise refused("cache", "is no folder; name one, which is made where it is not there", place)
        made = not place.exists()
        with contextlib.ExitStack() as left:
            with writing(f"cache {place}", REMEDY):
                place.mkdir(parents=True, exist_ok=True)
                left.callback(_removed, place, made)
                own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
            left.callback(shutil.rmtree, own, ignore_errors=True)
            left.callback(os.close, _locked(own))
            for other in place.glob(f"{PREFIX}*"):
                _remove_left_behind(other)
            yield cls(own)

    def values(self, name: str) -> Values:
        """A place for the values of a node, or whatever has that ``name``, batch by batch."""
        return Values(self, name)

    def check_room(self, nbytes: float) -> None:
        """Refuse before the start what has no room on the disk; InputError."""
        if self.folder is None:
            return
        free = shutil.disk_usage(self.folder).free
        if nbytes > free:
            what = f"states need about {nbytes / 2**30:.3g} GiB on disk, and {free / 2**30:.3g} GiB are free"
            raise refused("cache", f"{what}; name a folder with more room, or give fewer samples", self.folder.parent)

    def keep(self, storage: torch.UntypedStorage, file: Callable[[], _File]) -> Piece:
        """Keep a storage, in memory or in a file; DataError where it cannot be written."""
        nbytes = storage.nbytes()
        with self._lock:
            in_memory = self.folder is None or not nbytes or self.held + nbytes <= self.budget
            if in_memory:
                self.held += nbytes
                self.most_held = max(self.most_held, self.held)
        if in_memory:
            piece = _in_memory(storage)
            weakref.finalize(piece, self._let_go, nbytes).atexit = False
            return piece
        assert self.folder is not None
        target = file()
        before = target.size
        with writing(f"cache {self.folder.parent}", REMEDY):
            piece = target.write(storage)
        with self._lock:
            self.written += target.size - before
            self.most_written = max(self.most_written, self.written)
        return piece

    def file(self, name: str) -> _File:
        """A new file, which is removed when no piece is in it any more."""
        assert self.folder is not None
        with self._lock:
            self._files += 1
            made = _File(self.folder / f"{self._files:06d}-{name[:100]}")
        weakref.finalize(made, self._remove, made.__dict__).atexit = False
        return made

    def _let_go(self, nbytes: int) -> None:
        with self._lock:
            self.held -= nbytes

    def _remove(self, file: dict[str, Any]) -> None:
        with self._lock:
            self.written -= file["size"]
        with contextlib.suppress(OSError):  # it may be gone with the folder
            file["path"].unlink()


class Values(Sequence[Any]):
    """Values of one kind, batch by batch, in a store: tensors, tuples of them, numbers."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._kept: list[Any] = []
        self._file: weakref.ref[_File] | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, place: Any) -> Any:
        return self.load(place, {})

    def append(self, value: Any, known: Known | None = None) -> None:
        """Keep one more; its bytes may be those of storages that are ``known``, which learns of others."""
        known = {} if known is None else known
        self._kept.append(map_aggregate(value, lambda one: self._packed(one, known)))

    def load(self, place: int, known: Known) -> Any:
        """The value of a batch; ``known`` learns of its bytes, and holds while that value is alive."""

        def unpacked(one: Any) -> Any:
            if not isinstance(one, _Kept):
                return one
            tensor = one.value()
            known[tensor.untyped_storage().data_ptr()] = one.piece
            return tensor

        return map_aggregate(self._kept[place], unpacked)

    def drop(self, place: int) -> None:
        """Forget the value of a batch."""
        self._kept[place] = None

    def _packed(self, value: Any, known: Known) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.is_conj() or value.is_neg():  # of which nothing is to be seen in the bytes
            value, known = value.resolve_conj().resolve_neg(), {}
        storage, form = value.untyped_storage(), (int(value.storage_offset()), value.shape, value.stride())
        address = storage.data_ptr()
        if address not in known:
            known[address] = self._store.keep(storage, self._open_file)
        piece = known[address]
        of_the_tensors = piece is None or (piece.file is None and piece.own is None)
        return _Kept(piece, value if of_the_tensors else None, value.dtype, form)

    def _open_file(self) -> _File:
        """The file of these values; the pieces in it keep it alive."""
        file = None if self._file is None else self._file()
        if file is None:
            file = self._store.file(self._name)
            self._file = weakref.ref(file)
        return file


def taken(values: Sequence[Any], place: int, known: Known) -> Any:
    """The value of a batch, out of a store or not; what is not out of one is not for a store to keep either."""
    if isinstance(values, Values):
        return values.load(place, known)
    return not_kept(values[place], known)


def not_kept(value: Any, known: Known) -> Any:
    """A value that somebody else keeps; ``known`` learns of it."""

    def told(one: Any) -> Any:
        if isinstance(one, Tensor):
            known[one.untyped_storage().data_ptr()] = None
        return one

    return map_aggregate(value, told)


def _budget() -> int:
    free = available_memory()
    return BUDGET if free is None else min(BUDGET, int(SHARE * free))


def _removed(folder: Path, made: bool) -> None:
    """Remove a folder that was made for the store, unless somebody else has put something into it."""
    if made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _locked(folder: Path) -> int:
    """A lock on a folder, which goes with the process, whatever ends it; a descriptor to be closed."""
    descriptor = os.open(folder, os.O_RDONLY)
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks: nobody will take it for left behind
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _remove_left_behind(folder: Path) -> None:
    """Remove the folder of a store whose process is gone."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):  # in use, or somebody else's
        if time.time() - folder.stat().st_mtime < SETTLED:
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
