"""Processes of this machine: arrays in memory that they share, blocks and results over sockets, nothing left behind.

A worker is a fresh interpreter (nothing is forked, and the caller's main module is not imported again) that knows
simplicit, one socket, and the arrays of a work, mapped for reading only. It ends when the socket does. There is no
pool, no queue, no semaphore and no name in the file system: after a kill -9 of whichever processes nothing has to be
cleaned up (:mod:`simplicit.executors.memory`).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import weakref
from dataclasses import dataclass
from multiprocessing import spawn

from simplicit.errors import InputError
from simplicit.executors.base import Executor, Finished, Lost, Report
from simplicit.executors.channel import Channel
from simplicit.executors.limits import available_processors, flushed_denormals, one_thread_each
from simplicit.executors.memory import Segment
from simplicit.executors.work import Block, Layout, Recipe, Work

__all__ = ["ProcessExecutor"]

#: How long a message to a worker may take, before the worker counts as lost.
SEND_SECONDS = 60.0
#: How long a worker whose socket has ended may take to end itself.
END_SECONDS = 5.0
#: Threads of every kernel library that a worker may load.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


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
        self._crew: dict[int, _Worker] = {}
        self._loaded: tuple[Recipe, Layout, Segment] | None = None
        self._end = weakref.finalize(self, _end_all, self._crew)

    @property
    def copies(self) -> int:
        return self.workers

    def load(self, work: Work) -> None:
        self.unload()
        for worker in range(self.workers):
            if worker not in self._crew:
                self._crew[worker] = _Worker.started()
        layout = Layout.of(work.shared, work.rows, work.entries)
        segment = Segment(layout.nbytes)
        self._loaded = work.recipe, layout, segment
        with one_thread_each(), flushed_denormals():
            work.fill(layout.arrays(segment.memory), available_processors())
        segment.freeze()
        for process in self._crew.values():
            process.load(*self._loaded)

    def unload(self) -> None:
        if self._loaded is None:
            return
        _, _, segment = self._loaded
        self._loaded = None
        for worker, process in list(self._crew.items()):
            if process.block is not None or not process.send(("unload",)):
                process.end()
                del self._crew[worker]
        segment.close()

    def close(self) -> None:
        super().close()
        _end_all(self._crew)

    def idle(self) -> list[int]:
        return [worker for worker, process in sorted(self._crew.items()) if process.ready and process.block is None]

    def start(self, worker: int, block: Block) -> None:
        self._crew[worker].block = block
        self._crew[worker].send(("solve", block))  # if that fails, its socket has ended: `wait` will see it

    def wait(self, seconds: float | None) -> list[Report]:
        with selectors.DefaultSelector() as selector:
            for worker, process in self._crew.items():
                selector.register(process.channel, selectors.EVENT_READ, worker)
            heard = [self._heard(key.data) for key, _ in selector.select(seconds)]
        return [report for reports in heard for report in reports]

    def _heard(self, worker: int) -> list[Report]:
        """What a worker has said."""
        process, reports = self._crew[worker], list[Report]()
        try:
            while (message := process.channel.receive(wait=False)) is not None:
                if message[0] == "ready":
                    process.ready = True
                else:
                    process.block = None
                    reports.append(Finished(worker, message[1]))
        except EOFError:
            reports.append(Lost(worker, process.end()))
        return reports

    def replace(self, worker: int) -> None:
        self._crew[worker].end()
        self._crew[worker] = process = _Worker.started()
        if self._loaded is not None:
            process.load(*self._loaded)


@dataclass
class _Worker:
    """A process and the socket to it."""

    process: subprocess.Popen[bytes]
    channel: Channel
    ready: bool = False  # it has come up
    block: Block | None = None

    @classmethod
    def started(cls) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                _command(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | dict.fromkeys(_ONE_THREAD, "1"),
                process_group=0,  # Ctrl-C is for this process alone
            )
        return cls(process, Channel(ours, send_seconds=SEND_SECONDS))

    def load(self, recipe: Recipe, layout: Layout, segment: Segment) -> None:
        self.send(("load", recipe, layout), [segment.descriptor])

    def send(self, message: tuple[object, ...], descriptors: list[int] | None = None) -> bool:
        """Whether the message could be sent."""
        try:
            self.channel.send(message, descriptors or [])
        except OSError:
            return False
        return True

    def end(self) -> str:
        """End the process, if it has not ended, and say how it did."""
        self.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process.poll() is None and self.block is None and not self.ready:
                self.process.wait(END_SECONDS)
        if self.process.poll() is None:
            self.process.kill()
        return _ended(self.process.wait())


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    return f"was killed by signal {-code}, {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _command(descriptor: int) -> list[str]:
    executable = spawn.get_executable()
    paths = [path for path in sys.path if isinstance(path, str)]
    code = f"import sys; sys.path[:] = {paths!r}; from simplicit.executors.child import serve; serve({descriptor})"
    return [os.fsdecode(executable or sys.executable), "-c", code]


def _end_all(crew: dict[int, _Worker]) -> None:
    for process in crew.values():
        process.process.kill()
    for process in crew.values():
        process.end()
    crew.clear()
