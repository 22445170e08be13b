"""Messages between a process and the workers that it has started: pickles and file descriptors over a socket pair.

Both ends are this library's own, and the socket has no address: nobody else can write to it. The parent never blocks on
a worker that has stopped in the middle of a message.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("<Q")
_READ_BYTES = 2**20
#: Descriptors that come with one message, at most.
_MOST_DESCRIPTORS = 4


class Channel:
    """One end of a socket pair.

    Sending may take ``send_seconds``, if the other end does not read. An end with two threads, one that listens and one
    that sends, does without, and waits for messages.
    """

    def __init__(self, end: socket.socket, *, send_seconds: float | None = None) -> None:
        self.end, self.send_seconds = end, send_seconds
        self._received = bytearray()
        self._descriptors: deque[int] = deque()

    def fileno(self) -> int:
        return self.end.fileno()

    def send(self, message: Any, descriptors: Sequence[int] = ()) -> None:
        """Send a message, with copies of the descriptors; OSError if the other end is gone or does not read in time."""
        content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        head = _LENGTH.pack(len(content))
        self.end.settimeout(self.send_seconds)
        if descriptors:
            socket.send_fds(self.end, [head], list(descriptors))
        else:
            self.end.sendall(head)
        self.end.sendall(content)

    def receive(self, *, wait: bool, seconds: float | None = None) -> Any:
        """The next message; None if it is not there as a whole yet, and `wait` is not wanted, or not any longer.

        EOFError says that the other end is gone.
        """
        while (message := self._complete()) is None:
            try:
                self.end.settimeout(seconds if wait else 0.0)
                data, descriptors, _, _ = socket.recv_fds(self.end, _READ_BYTES, _MOST_DESCRIPTORS)
            except (BlockingIOError, TimeoutError):
                return None
            except OSError as error:
                raise EOFError from error
            self._descriptors.extend(descriptors)
            if not data:
                raise EOFError
            self._received += data
        return message

    def _complete(self) -> Any:
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        content = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return pickle.loads(content)

    def descriptor(self) -> int:
        """The next descriptor that came with the messages so far."""
        return self._descriptors.popleft()

    def drain(self, seconds: float = 5.0) -> None:
        """Read until the other end is gone, which it is about to be."""
        try:
            while self.receive(wait=True, seconds=seconds) is not None:
                pass
        except EOFError:
            return

    def close(self) -> None:
        """Close this end, and whatever descriptors have come and were not asked for.

        One message may bring the descriptor of the next along. A fork that kept it would hold another worker's socket
        open, whose end would then not be seen.
        """
        self.end.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())
