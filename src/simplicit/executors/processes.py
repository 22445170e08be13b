"""Processes of this machine: arrays in memory that they share, blocks and results over sockets, nothing left behind.

A worker knows simplicit, one socket, and the arrays of a work, mapped for reading only; it comes from a fresh
interpreter (:mod:`simplicit.executors.forkserver`), so that the caller's main module is not imported again. It ends
when the socket does. There is no pool, no queue, no semaphore and no name in the file system: after a kill -9 of
whichever processes nothing has to be cleaned up (:mod:`simplicit.executors.memory`).
"""

from __future__ import annotations

import selectors
import signal
import socket
import weakref
from dataclasses import dataclass

from simplicit.errors import InputError
from simplicit.executors.base import Executor, Finished, Lost, Report
from simplicit.executors.channel import Channel
from simplicit.executors.forkserver import Nursery
from simplicit.executors.memory import Segment
from simplicit.executors.work import Block, Layout, Recipe, Work
from simplicit.machine import available_processors, flushed_denormals, one_thread_each

__all__ = ["ProcessExecutor"]


class ProcessExecutor(Executor):
    """Worker processes, one BLAS thread each.

    They are started when the first work is loaded, while this process fills its arrays.

    Raises
    ------
    InputError
        Where processes cannot be handed open memory: on Windows.
    """

    name = "processes"
    replaces = True

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        super().__init__(workers, address=address)
        if not hasattr(socket, "send_fds"):  # pragma: no cover - Windows
            raise InputError("executor: 'processes' needs a POSIX system; take executor='threads'")
        self._crew = _Crew()
        self._loaded: tuple[Recipe, Layout, Segment] | None = None
        weakref.finalize(self, self._crew.close)

    @property
    def copies(self) -> int:
        return self.workers

    def load(self, work: Work) -> None:
        self.unload()
        for worker in range(self.workers):
            if worker not in self._crew.workers:
                self._crew.bear(worker, work.opener.__module__)
        layout = Layout.of(work.shared, work.rows, work.entries)
        segment = Segment(layout.nbytes)
        self._loaded = work.recipe, layout, segment
        with one_thread_each(), flushed_denormals():
            work.fill(layout.arrays(segment.memory), available_processors())
        segment.freeze()
        for born in self._crew.workers.values():
            born.load(*self._loaded)

    def unload(self) -> None:
        if self._loaded is None:
            return
        _, _, segment = self._loaded
        self._loaded = None
        for number, worker in list(self._crew.workers.items()):
            if worker.block is not None or not worker.send(("unload",)):
                self._crew.end(number)
        segment.close()

    def close(self) -> None:
        super().close()
        self._crew.close()

    def idle(self) -> list[int]:
        workers = sorted(self._crew.workers.items())
        return [number for number, worker in workers if worker.process is not None and worker.block is None]

    def start(self, worker: int, block: Block) -> None:
        self._crew.workers[worker].block = block
        self._crew.workers[worker].send(("solve", block))  # if that fails, its socket has ended: `wait` will see it

    def wait(self, seconds: float | None) -> list[Report]:
        with selectors.DefaultSelector() as selector:
            for number, worker in self._crew.workers.items():
                selector.register(worker.channel, selectors.EVENT_READ, number)
            heard = [self._heard(key.data) for key, _ in selector.select(seconds)]
        return [report for reports in heard for report in reports]

    def _heard(self, number: int) -> list[Report]:
        """What a worker has said."""
        worker, reports = self._crew.workers[number], list[Report]()
        try:
            while (message := worker.channel.receive(wait=False)) is not None:
                if message[0] == "ready":
                    worker.process = message[1]
                else:
                    worker.block = None
                    reports.append(Finished(number, message[1]))
        except EOFError:
            reports.append(Lost(number, self._crew.end(number)))
        return reports

    def replace(self, worker: int) -> None:
        if worker in self._crew.workers:
            self._crew.end(worker)
        assert self._loaded is not None
        self._crew.bear(worker, self._loaded[0].opener.__module__)
        self._crew.workers[worker].load(*self._loaded)


@dataclass
class _Worker:
    """A worker as this process sees it."""

    nursery: Nursery
    channel: Channel
    process: int | None = None  # its id, once it has come up
    block: Block | None = None

    def load(self, recipe: Recipe, layout: Layout, segment: Segment) -> None:
        self.send(("load", recipe, layout), [segment.descriptor])

    def send(self, message: tuple[object, ...], descriptors: list[int] | None = None) -> bool:
        """Whether the message could be sent."""
        try:
            self.channel.send(message, descriptors or [])
        except OSError:
            return False
        return True


class _Crew:
    """The nursery and the workers that have come from it; without the nursery they are nothing."""

    def __init__(self) -> None:
        self.nursery: Nursery | None = None
        self.workers: dict[int, _Worker] = {}

    def bear(self, number: int, module: str) -> None:
        """A new worker of this number."""
        if self.nursery is None:
            self.nursery = Nursery.started(module)
        self.workers[number] = _Worker(self.nursery, self.nursery.bear())

    def end(self, number: int) -> str:
        """End a worker, if it has not ended, and say how it did."""
        worker = self.workers.pop(number)
        worker.channel.close()
        if worker.nursery is not self.nursery:
            return "was ended with the process that all workers come from"
        code = None if worker.process is None else self.nursery.end(worker.process)
        if code is not None:
            return _told(code)
        # It never came up, or nobody can say: the nursery is of no use any more, and with it all its workers.
        ended, self.nursery = self.nursery.close(), None
        how = "is gone" if worker.process else "never came up"
        return how if ended is None else f"{how}: the process that all workers come from {_told(ended)}"

    def close(self) -> None:
        """End all of them."""
        if self.nursery is not None:
            self.nursery.close()
        self.nursery = None
        for worker in self.workers.values():
            worker.channel.drain()
            worker.channel.close()
        self.workers.clear()


def _told(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    return f"was killed by signal {-code}, {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
