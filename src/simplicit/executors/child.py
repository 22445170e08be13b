"""What a worker process does: map the arrays that it is given, solve block after block, end with its parent.

A thread listens all the time. When the parent is gone, in whatever way, the socket ends, and so does this process, also
in the middle of a block.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import socket
import threading
from typing import Any

__all__ = ["serve"]


def serve(descriptor: int) -> None:
    """Be a worker, for the parent at the other end of a socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to deal with
    from simplicit.executors.channel import Channel

    channel = Channel(socket.socket(fileno=descriptor))
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, messages), daemon=True).start()

    from threadpoolctl import threadpool_limits

    from simplicit.executors.limits import prepare_thread

    threadpool_limits(limits=1)
    prepare_thread()
    worker = _Worker(channel)
    worker.tell("ready")
    while True:
        kind, *content = messages.get()
        getattr(worker, kind)(*content)


def _listen(channel: Any, messages: queue.SimpleQueue[Any]) -> None:
    try:
        while True:
            kind, *content = channel.receive(wait=True)
            messages.put((kind, *content, channel.descriptor()) if kind == "load" else (kind, *content))
    except EOFError:
        os._exit(0)
    except BaseException:  # a message that cannot be read: without an ear this process must not live on
        import traceback

        traceback.print_exc()
        os._exit(1)


class _Worker:
    """The work that is loaded; the methods are the messages."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.unload()

    def tell(self, *message: Any) -> None:
        try:
            self.channel.send(message)
        except OSError:  # the parent does not listen any more
            os._exit(0)

    def load(self, recipe: Any, layout: Any, descriptor: int) -> None:
        from simplicit.executors.memory import map_segment

        self.recipe, self.arrays = recipe, layout.arrays(map_segment(descriptor, layout.nbytes))
        self.solve_block = recipe.open(self.arrays)

    def unload(self) -> None:
        self.recipe = self.arrays = self.solve_block = None
        gc.collect()  # the memory is shared, and the others count on it

    def solve(self, block: Any) -> None:
        from simplicit.executors.work import attempt

        self.tell("finished", attempt(self.solve_block, block, self.recipe.own(self.arrays, block)))
