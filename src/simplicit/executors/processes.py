"""Processes of this machine: arrays in memory that they share, blocks and results over sockets, nothing left behind.

A worker knows simplicit, one socket, and the arrays of a work, mapped for reading only; it comes from a fresh
interpreter (:mod:`simplicit.executors.forkserver`), so that the caller's main module is not imported again. It ends
when the socket does. There is no queue, no semaphore and no name in the file system: after a kill -9 of whichever
processes nothing has to be cleaned up (:mod:`simplicit.executors.memory`).
"""

from __future__ import annotations

import selectors
import signal
import socket
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from simplicit.checks import refused
from simplicit.executors.base import Executor, Finished, Lost, Report
from simplicit.executors.channel import Channel
from simplicit.executors.forkserver import ForkServer
from simplicit.executors.memory import Segment
from simplicit.executors.records import Layout
from simplicit.executors.work import Arrays, Block, Solve, Work
from simplicit.machine import available_processors, flushed_denormals, one_thread_each


@dataclass(frozen=True)
class _Loaded:
    """A work in shared memory, and what workers must know of it."""

    opener: Callable[[Any], Solve[Any]]
    layout: Layout[Arrays[Any, Any, Any]]
    segment: Segment
    module: str  # to be imported before workers are forked


@dataclass
class _Worker:
    """A worker as this process sees it."""

    server: ForkServer
    channel: Channel
    process: int | None = None  # its id, once it has come up
    block: Block | None = None

    def load(self, loaded: _Loaded) -> None:
        self.send(("load", loaded.opener, loaded.layout), [loaded.segment.descriptor])

    def send(self, message: tuple[object, ...], descriptors: Sequence[int] = ()) -> bool:
        """Whether the message could be sent."""
        try:
            self.channel.send(message, descriptors)
        except OSError:
            return False
        return True


class _Pool:
    """The fork server and the workers that have come from it; without the fork server they are nothing."""

    def __init__(self) -> None:
        self.server: ForkServer | None = None
        self.workers: dict[int, _Worker] = {}

    def fork(self, number: int, module: str) -> _Worker:
        """A new worker of this number."""
        if self.server is None:
            self.server = ForkServer.started(module)
        self.workers[number] = _Worker(self.server, self.server.fork())
        return self.workers[number]

    def end(self, number: int) -> str:
        """End a worker, if it has not ended, and say how it did."""
        worker = self.workers.pop(number)
        worker.channel.close()
        if worker.server is not self.server:
            return "was ended with the process that all workers come from"
        code = None if worker.process is None else self.server.end(worker.process)
        if code is not None:
            return _how_it_ended(code)
        # It never came up, or nobody can say: the fork server is of no use any more, and with it all its workers.
        ended, self.server = self.server.close(), None
        how = "is gone" if worker.process else "never came up"
        return how if ended is None else f"{how}: the process that all workers come from {_how_it_ended(ended)}"

    def close(self) -> None:
        """End all of them."""
        if self.server is not None:
            self.server.close()
        self.server = None
        for worker in self.workers.values():
            worker.channel.drain()
            worker.channel.close()
        self.workers.clear()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    return f"was killed by signal {-code}, {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


@dataclass(eq=False, kw_only=True)
class Processes(Executor):
    """Solve blocks of rows in processes of this machine, one BLAS thread each, on arrays in memory that they share.

    Processes pay where threads would wait for each other, and survive what kills one of them: a worker that dies or
    hangs is replaced, and its block solved elsewhere. They come up in about a second, while the first solve prepares
    its arrays.

    Parameters
    ----------
    workers : int, optional
        How many blocks are solved at a time; the number of processors when left out.
    block_timeout : float, optional
        Seconds after which a worker that is still at a block counts as hung. When left out, twenty times what the
        longest block took so far, at least a minute.

    Raises
    ------
    InputError
        For fewer than one worker, a time-out that is not positive, or a system whose processes cannot be handed open
        memory: Windows.
    """

    replaces = True

    workers: int | None = None
    block_timeout: float | None = None
    _pool: _Pool = field(init=False, repr=False, default_factory=_Pool)
    _loaded: _Loaded | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(socket, "send_fds"):  # pragma: no cover - Windows
            raise refused("executor", "'processes' needs a POSIX system; take executor='threads'")
        weakref.finalize(self, self._pool.close)

    @property
    def copies(self) -> int:
        return self.n_workers

    def load(self, work: Work[Any]) -> None:
        self.unload()
        module = type(work).__module__
        for number in range(self.n_workers):
            if number not in self._pool.workers:
                self._pool.fork(number, module)
        layout = Layout.of(work.arrays)
        segment = Segment(layout.nbytes)
        self._loaded = _Loaded(work.opener, layout, segment, module)
        with one_thread_each(), flushed_denormals():
            work.fill(layout.record(segment.memory), available_processors())
        segment.freeze()
        for worker in self._pool.workers.values():
            worker.load(self._loaded)

    def unload(self) -> None:
        if self._loaded is None:
            return
        segment, self._loaded = self._loaded.segment, None
        for number, worker in list(self._pool.workers.items()):
            if worker.block is not None or not worker.send(("unload",)):
                self._pool.end(number)
        segment.close()

    def close(self) -> None:
        super().close()
        self._pool.close()

    def idle(self) -> list[int]:
        workers = sorted(self._pool.workers.items())
        return [number for number, worker in workers if worker.process is not None and worker.block is None]

    def start(self, worker: int, block: Block) -> None:
        self._pool.workers[worker].block = block
        self._pool.workers[worker].send(("solve", block))  # if that fails, its socket has ended: `wait` will see it

    def wait(self, seconds: float | None) -> list[Report]:
        with selectors.DefaultSelector() as selector:
            for number, worker in self._pool.workers.items():
                selector.register(worker.channel, selectors.EVENT_READ, number)
            readable = [key.data for key, _ in selector.select(seconds)]
        return [report for number in readable for report in self._reports(number)]

    def _reports(self, number: int) -> list[Report]:
        """What a worker has sent so far."""
        worker, reports = self._pool.workers[number], list[Report]()
        try:
            while (message := worker.channel.receive(wait=False)) is not None:
                if message[0] == "ready":
                    worker.process = message[1]
                else:
                    worker.block = None
                    reports.append(Finished(number, message[1]))
        except EOFError:
            reports.append(Lost(number, self._pool.end(number)))
        return reports

    def replace(self, worker: int) -> None:
        if worker in self._pool.workers:
            self._pool.end(worker)
        assert self._loaded is not None
        self._pool.fork(worker, self._loaded.module).load(self._loaded)
