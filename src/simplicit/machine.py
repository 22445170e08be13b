"""This machine: its processors and memory, the threads of its libraries, denormal numbers, installed versions."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

from simplicit.errors import InputError

A = TypeVar("A")
B = TypeVar("B")

#: The version of a package that is imported from its source alone: a fit that ran for long must not end at this.
NOT_INSTALLED = "not installed"
#: Packages that decide which bits come out.
_PACKAGES = ("simplicit", "torch", "numpy", "scipy")


def versions(*more: str) -> dict[str, str]:
    """The versions of the packages that decide which bits come out, and of those named besides."""
    return {name: _version(name) for name in (*_PACKAGES, *more)}


@cache
def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def available_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that may still be allocated; None where the platform does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def gib(nbytes: float) -> str:
    """``3.2e9`` as ``2.98 GiB``."""
    amount = nbytes / 2**30
    return f"{amount:,.0f} GiB" if amount >= 1000 else f"{amount:.3g} GiB"


def check_memory(argument: str, nbytes: float, what: str, remedy: str) -> None:
    """Refuse before the start, with an InputError, what needs more than this machine has free, if it says how much.

    ``nbytes`` estimates the peak; ``what`` needs so much, as the subject of the message ("300 rows x 900 columns
    need"), and ``remedy`` would need less ("take fewer samples").
    """
    free = available_memory()
    if free is not None and nbytes > free:
        found = f"{what} about {gib(nbytes)}, and {gib(free)} are free"
        raise InputError(f"{argument}: {found}; {remedy}", argument=argument)


def prepare_thread() -> None:
    """Set the calling thread, which does nothing else any more, to one kernel thread and flushed denormals."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def side_by_side(work: Callable[[A], B], items: Iterable[A], workers: int) -> Iterator[B]:
    """What the work makes of each of the items, in their order, on so many threads, and no more than one ahead of them.

    Each item is worked on by a thread of its own, with one kernel thread under :func:`one_thread_each`, so that their
    number changes nothing but the time.
    """
    if isinstance(items, Sized) and len(items) == 1:
        for item in items:  # to hand a single one over takes longer than most of them do
            with flushed_denormals():
                found = work(item)
            yield found
        return
    with ThreadPoolExecutor(workers, initializer=prepare_thread) as pool:
        begun: deque[Future[B]] = deque()
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) > workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers count as zero in this thread meanwhile: they are worthless here and up to 100 times slower.

    The setting is the processor's, so the caller's own is found out and put back.
    """
    half_of_smallest_normal = torch.full((), torch.finfo(torch.float64).tiny, dtype=torch.float64) / 2
    before = float(half_of_smallest_normal) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class _OneThread:
    """The process's thread limits while at least one caller wants them."""

    def __init__(self) -> None:
        self.lock, self.users, self.restore = threading.Lock(), 0, ExitStack()
        self.found: tuple[int, ThreadpoolController] | None = None

    def libraries(self) -> ThreadpoolController:
        """The BLAS and OpenMP libraries of this process.

        Looking for them takes 8 ms, as long as a small solve, so that is done again only when modules have been
        imported since: nothing else brings a library along.
        """
        modules = len(sys.modules)
        if self.found is None or self.found[0] != modules:
            self.found = modules, ThreadpoolController()
        return self.found[1]

    def __enter__(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.restore.enter_context(self.libraries().limit(limits=1))
                self.restore.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self.restore.close()


_ONE_THREAD = _OneThread()


def one_thread_each() -> AbstractContextManager[None]:
    """One BLAS and OpenMP thread per worker: more would fight for the same processors and change the rounding.

    The setting is the process's: of callers that overlap, the first sets it and the last puts it back.
    """
    return _ONE_THREAD
