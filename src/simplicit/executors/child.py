"""What a worker process does: map the arrays that it is given, solve block after block, end with its parent.

A thread listens all the time. When the parent is gone, in whatever way, the socket ends, and so does this process, also
in the middle of a block.
"""

from __future__ import annotations

import gc
import os
import queue
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

from threadpoolctl import threadpool_limits

from simplicit.executors.channel import Channel
from simplicit.executors.memory import map_segment
from simplicit.executors.records import Layout
from simplicit.executors.work import Arrays, Block, Failure, Solve, attempt
from simplicit.machine import prepare_thread


def serve_blocks(end: socket.socket) -> None:
    """Be a worker for the process at the other end of a socket; never returns."""
    channel = Channel(end)
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, messages), daemon=True).start()
    threadpool_limits(limits=1)
    prepare_thread()
    worker = _Worker(channel)
    worker.report("ready", os.getpid())
    while True:
        kind, *content = messages.get()
        getattr(worker, kind)(*content)


def _listen(channel: Channel, messages: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            kind, *content = channel.receive(wait=True)
            messages.put((kind, *content, channel.descriptor()) if kind == "load" else (kind, *content))
    except EOFError:
        os._exit(0)
    except BaseException:  # a message that cannot be read: a process that no longer listens must not live on
        traceback.print_exc()
        os._exit(1)


class _Worker:
    """The work that is loaded; the methods are the messages."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.loaded: tuple[Arrays[Any, Any, Any], Solve[Any]] | None = None

    def report(self, *message: Any) -> None:
        try:
            self.channel.send(message)
        except OSError:  # the parent does not listen any more
            os._exit(0)

    def load(self, opener: Callable[[Any], Solve[Any]], layout: Layout[Arrays[Any, Any, Any]], descriptor: int) -> None:
        arrays = layout.record(map_segment(descriptor, layout.nbytes))
        self.loaded = arrays, opener(arrays.shared)

    def unload(self) -> None:
        self.loaded = None

    def solve(self, block: Block) -> None:
        assert self.loaded is not None
        arrays, solve = self.loaded
        outcome = attempt(solve, block, *arrays.own(block))
        self.report("finished", outcome)
        if isinstance(outcome, Failure):
            del outcome
            gc.collect()  # the frames of an exception refer to each other, and to memory that others share
