"""Where worker processes come from: a fresh interpreter that has imported what they need, and nothing else.

Importing torch takes a second and 140 MB. The fork server does it once; on Linux every worker is a fork of it, there in
milliseconds, and the memory of its imports is shared. It has no threads and never computes, so that forking is safe;
the caller's own process, which has threads and whatever else, is never forked. On other systems, whose libraries do not
survive a fork, the fork server starts a fresh interpreter for each worker.

It is also the parent of the workers, and knows how they ended. All of them are one process group, which can be ended at
once whatever they do.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import spawn
from pathlib import Path

from simplicit.executors.channel import Channel

#: Whether workers are forks of the fork server.
FORKS = sys.platform == "linux"
#: How long a message may take, before the other end counts as lost; and an answer.
SEND_SECONDS = 60.0
ANSWER_SECONDS = 10.0
#: Threads of every kernel library that a worker may load.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
#: What a fresh interpreter runs. The package is put in place without its own module, which imports everything there is:
#: a worker needs the row solver alone, and is there sooner and smaller without the rest.
_CODE = """
import signal, socket, sys, types
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:] = {paths!r}
sys.modules["simplicit"] = types.ModuleType("simplicit")
sys.modules["simplicit"].__path__ = {package!r}
from simplicit.executors.{module} import {function}
{function}(socket.socket(fileno={descriptor}))
"""


@dataclass
class ForkServer:
    """The fork server as its parent sees it."""

    process: subprocess.Popen[bytes]
    channel: Channel  # ends when the fork server does

    @classmethod
    def started(cls, module: str) -> ForkServer:
        """A new one, which imports a module that its workers are going to need."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = _interpreter("forkserver", "serve_forks", theirs.fileno())
        server = cls(process, Channel(ours, send_seconds=SEND_SECONDS))
        server.channel.send(("import", module))
        return server

    def fork(self) -> Channel:
        """The near end of a new worker, which will be there in a while and say so."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.suppress(OSError):  # if the fork server is gone, the other end is, too
            self.channel.send(("fork",), [theirs.fileno()])
        return Channel(ours, send_seconds=SEND_SECONDS)

    def end(self, worker: int) -> int | None:
        """End a worker by its process id and return how it ended, as ``Popen.returncode``; None if that is unknown."""
        try:
            self.channel.send(("end", worker))
            answer = self.channel.receive(wait=True, seconds=ANSWER_SECONDS)
        except (OSError, EOFError):
            answer = None
        return None if answer is None else int(answer[1])

    def close(self) -> int | None:
        """End the fork server and all its workers; returns its exit code if it had ended before, by itself."""
        before = self.process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.channel.close()
        return before


def _interpreter(module: str, function: str, descriptor: int) -> subprocess.Popen[bytes]:
    """A fresh interpreter that runs a function of this package on a socket."""
    package = [str(Path(__file__).parents[1])]
    code = _CODE.format(paths=_search_path(), package=package, module=module, function=function, descriptor=descriptor)
    return subprocess.Popen(
        # -P: python -c would otherwise look for modules in the working folder first.
        [os.fsdecode(spawn.get_executable() or sys.executable), "-P", "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[descriptor],
        env=os.environ | dict.fromkeys(_ONE_THREAD, "1"),
        process_group=0 if function == "serve_forks" else None,  # Ctrl-C is for the caller alone
    )


def _search_path() -> list[str]:
    """Where this process looks for modules, with the working folder last.

    This process has imported most modules before a script, or an interactive session, put that folder first. A fresh
    interpreter that looked there first would run files that merely lie there, such as another ``types.py``.
    """
    here = Path.cwd().resolve()
    return sorted((path for path in sys.path if isinstance(path, str)), key=lambda path: Path(path).resolve() == here)


def serve_forks(end: socket.socket) -> None:
    """Be the fork server for the process at the other end of a socket; never returns."""
    channel = Channel(end)
    while True:
        try:
            kind, *content = channel.receive(wait=True)
        except EOFError:
            os._exit(0)
        if kind == "import" and FORKS:
            importlib.import_module("simplicit.executors.child")
            importlib.import_module(*content)
            gc.collect()
            gc.freeze()  # what is there now is never looked through again, and so stays shared
        elif kind == "fork":
            _fork(channel, channel.descriptor())
        elif kind == "end":
            channel.send(("ended", _ended(*content)))


def _fork(channel: Channel, descriptor: int) -> None:
    """Start a worker that serves the socket of this descriptor."""
    try:
        if FORKS and os.fork() == 0:
            from simplicit.executors.child import serve_blocks

            channel.close()
            serve_blocks(socket.socket(fileno=descriptor))
        elif not FORKS:  # pragma: no cover - not on Linux
            _interpreter("child", "serve_blocks", descriptor)
    except OSError as error:  # no more processes: the worker's socket ends, and the caller sees that
        print(f"simplicit: a worker process cannot be started ({error})", file=sys.stderr)
    os.close(descriptor)


def _ended(worker: int) -> int:
    """End a worker, unless it has ended, and say how it did."""
    # It is our child, and nobody has waited for it: the number is still its own.
    os.kill(worker, signal.SIGKILL)
    _, status = os.waitpid(worker, 0)
    return os.waitstatus_to_exitcode(status)
