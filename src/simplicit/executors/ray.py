"""Actors of a Ray cluster, on this machine or many: the shared arrays are put once, each block's own rows go with it.

A cluster of our own listens on the loopback alone, asks for a token that never leaves this process, and is gone with
it. A cluster that is joined by its address has been set up by somebody else, on their terms.

An actor is one worker: it maps the shared arrays of its node's object store, without a copy, and keeps what it
computes from them (the inverses of ADMM). One block at a time is under way on each, so that what travels is bounded.
Ray restarts nothing by itself: which block goes where after an actor, or a node, is lost is decided where it is for all
executors. Nothing waits without a limit, for a resource that is gone would never come: an actor that has no place is
just not idle.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from simplicit.errors import InputError, MissingExtraError
from simplicit.executors.base import Executor, Finished, Lost, Report
from simplicit.executors.work import (
    Arrays,
    Block,
    Failure,
    Layout,
    Recipe,
    Result,
    Solve,
    Work,
    attempt,
    private_arrays,
    private_memory,
)
from simplicit.machine import (
    available_memory,
    available_processors,
    flushed_denormals,
    one_thread_each,
    prepare_thread,
    versions,
)

__all__ = ["RayExecutor"]

#: How long a cluster may take to answer at its address.
CONNECT_SECONDS = 10.0
#: How long what an actor has finished may take to arrive.
ARRIVE_SECONDS = 120.0
#: How long one wait lasts at most, so that interrupts are heard.
TICK_SECONDS = 1.0
#: The object store should be larger than what is put into it by this factor: near its limit it spills to disk.
HEADROOM = 1.2

_log = logging.getLogger(__name__)
#: Of clusters that this process starts; Ray reads it once per process.
_TOKEN = secrets.token_hex(32)
#: The first client bytes of HTTP/2, which gRPC speaks, with empty settings.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4  # the type of the frame that answers it


class RayExecutor(Executor):
    """Actors of a Ray cluster.

    Parameters
    ----------
    workers : int, optional
        Actors, each on one processor; as many as the cluster has processors when left out.
    address : str, optional
        ``host:port`` of a cluster, or ``"auto"``; a new one on this machine when left out, or the one that this process
        is connected to already.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    InputError
        If nothing answers at the address, or the cluster refuses.
    """

    name = "ray"
    replaces = True

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        super().__init__(workers)
        self._ray = _import_ray(local=address is None)
        self._ours: _LocalCluster | None = None
        self._joined = False
        self._actors: dict[int, _Actor] = {}
        self._loaded: _Loaded | None = None
        self._asked = workers
        if address is not None:
            self._join(address)
        if self._ray.is_initialized() and workers is None:
            self.workers = max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def _join(self, address: str) -> None:
        _check_answers(address)
        if self._ray.is_initialized():
            raise InputError("ray_address: this process is connected to a Ray cluster already; leave ray_address out")
        try:
            self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise InputError(
                f"ray_address {address}: the cluster cannot be joined ({_first_line(error)}); see that it runs the "
                "same Ray and Python, and that RAY_AUTH_MODE and the token are the same everywhere"
            ) from error
        self._joined = True

    def close(self) -> None:
        super().close()
        for actor in self._actors.values():
            self._kill(actor)
        self._actors.clear()
        if self._joined:
            self._ray.shutdown()
        if self._ours is not None:
            self._ours.stop()
        self._joined, self._ours = False, None

    @property
    def copies(self) -> int:
        return 1 if self._joined else self.workers

    def load(self, work: Work) -> None:
        self.unload()
        shared_bytes = sum(spec.nbytes for spec in work.shared.values())
        own_bytes = max(_own_bytes(work, block) for block in work.blocks)
        need = int(HEADROOM * (shared_bytes + 2 * self.workers * own_bytes))
        if not self._ray.is_initialized():
            self._ours = _LocalCluster(self._ray, self.workers, need)
        self._check_budget(need)
        for worker in range(self.workers):
            if worker not in self._actors:
                self._actors[worker] = self._started()
        layout, rows = Layout.of(work.shared), private_arrays(work.rows, work.entries)
        memory = private_memory(layout.nbytes)
        with one_thread_each(), flushed_denormals():
            work.fill(layout.arrays(memory) | rows, available_processors())
        # As one array, so that those in it are aligned.
        self._loaded = _Loaded(work.recipe, layout, self._ray.put(memory), rows)
        for actor in self._actors.values():
            self._tell(actor)

    def _check_budget(self, need: int) -> None:
        """Refuse before the start what would spill, or not fit, on any node that has workers."""
        for node in self._ray.nodes():
            resources = node["Resources"]
            room = int(resources.get("object_store_memory", 0))
            if node["Alive"] and resources.get("CPU", 0) and room < need:
                raise InputError(
                    f"executor: Ray's object store on node {node['NodeManagerAddress']} holds {room / 2**30:.3g} GiB, "
                    f"and the shared arrays with {self.workers} blocks need {need / 2**30:.3g} GiB; start Ray with "
                    f"--object-store-memory={need} or more, take fewer samples or workers, or smaller blocks"
                )

    def _started(self) -> _Actor:
        """A new actor, which comes up when there is a place for it."""
        remote = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)
        handle = remote.remote([path for path in sys.path if isinstance(path, str)])
        return _Actor(handle, [handle.ready.remote()])

    def _tell(self, actor: _Actor) -> None:
        assert self._loaded is not None
        actor.coming.append(actor.handle.load.remote(self._loaded.recipe, self._loaded.layout, self._loaded.reference))

    def unload(self) -> None:
        if self._loaded is None:
            return
        self._loaded = None
        for worker, actor in list(self._actors.items()):
            if actor.running is not None:
                self._kill(actor)
                del self._actors[worker]
            else:
                actor.handle.unload.remote()

    def idle(self) -> list[int]:
        return [worker for worker, actor in sorted(self._actors.items()) if not actor.pending()]

    def start(self, worker: int, block: Block) -> None:
        assert self._loaded is not None
        actor, own = self._actors[worker], self._loaded.recipe.own(self._loaded.rows, block)
        actor.running = actor.handle.solve.remote(block, own)

    def wait(self, seconds: float | None) -> list[Report]:
        owners = {ref: worker for worker, actor in self._actors.items() for ref in actor.pending()}
        tick = TICK_SECONDS if seconds is None else min(seconds, TICK_SECONDS)
        done, _ = self._ray.wait(list(owners), num_returns=1, timeout=tick) if owners else ([], [])
        return [report for ref in done for report in self._heard(owners[ref], ref)]

    def _heard(self, worker: int, ref: Any) -> list[Report]:
        actor = self._actors[worker]
        try:
            value = self._ray.get(ref, timeout=ARRIVE_SECONDS)
        except self._ray.exceptions.RayError as error:
            return [Lost(worker, f"was lost ({_first_line(getattr(error, 'cause', None) or error)})")]
        if ref != actor.running:
            actor.coming.remove(ref)
            _check_versions(value)
            return []
        actor.running = None
        return [Finished(worker, value)]

    def replace(self, worker: int) -> None:
        self._kill(self._actors[worker])
        self._actors[worker] = self._started()
        if self._loaded is not None:
            self._tell(self._actors[worker])

    def _kill(self, actor: _Actor) -> None:
        with contextlib.suppress(Exception):  # it may be gone, and its node with it
            self._ray.kill(actor.handle, no_restart=True)


@dataclass(frozen=True)
class _Loaded:
    """A work in the object store, and what goes with its blocks."""

    recipe: Recipe
    layout: Layout
    reference: Any
    rows: Arrays


@dataclass
class _Actor:
    """An actor as the driver sees it."""

    handle: Any
    coming: list[Any]  # its answers to whether it has come up and knows the work
    running: Any = None  # the result of its block

    def pending(self) -> list[Any]:
        """What it has still to answer; with nothing, it is idle."""
        return self.coming if self.running is None else [*self.coming, self.running]


class _Worker:
    """What an actor does; its class lives in the workers."""

    def __init__(self, paths: list[str]) -> None:
        from threadpoolctl import threadpool_limits

        sys.path += [path for path in paths if path not in sys.path]
        threadpool_limits(limits=1)
        self.solver: Solve | None = None

    def ready(self) -> dict[str, str]:
        return versions()

    def load(self, recipe: Recipe, layout: Layout, memory: npt.NDArray[np.uint8]) -> dict[str, str]:
        prepare_thread()
        self.solver = recipe.open(layout.arrays(memory))
        return versions()

    def unload(self) -> None:
        self.solver = None

    def solve(self, block: Block, own: Arrays) -> Result | Failure:
        assert self.solver is not None
        prepare_thread()  # Ray's own setting is that of whoever had this process before
        return attempt(self.solver, block, own)


class _LocalCluster:
    """A cluster of our own: on the loopback, with a token, and with a folder that goes with it."""

    def __init__(self, ray: Any, workers: int, store_bytes: int) -> None:
        self._ray = ray
        # Its sockets lie in it, and their names have 107 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="sp-ray-", dir=None if len(tempfile.gettempdir()) < 25 else "/tmp"))
        self._added = [name for name in _ENVIRONMENT if _IMPORTED_HERE and name not in os.environ]
        os.environ.update({name: _ENVIRONMENT[name] for name in self._added})
        memory = available_memory()
        usual = memory is None or store_bytes < 0.25 * memory  # Ray takes 0.3 of it unasked
        try:
            ray.init(
                num_cpus=workers,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=None if usual else store_bytes,
                _temp_dir=str(self._folder),
            )
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self._ray.shutdown()
        for name in self._added:
            os.environ.pop(name, None)
        shutil.rmtree(self._folder, ignore_errors=True)


#: Of a cluster of our own, unless the user has said otherwise. Ray reads the first three when it is imported.
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the name tells of laptops; what it does is to listen on 127.0.0.1 alone
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": _TOKEN,  # otherwise Ray writes one to the home folder, where all may read it
    "RAY_USAGE_STATS_ENABLED": "0",
}
#: Whether Ray was imported with these settings.
_IMPORTED_HERE = False


def _import_ray(*, local: bool) -> Any:
    """Ray, imported with the settings of a cluster of our own if we are the first and are going to start one."""
    global _IMPORTED_HERE
    first = local and "ray" not in sys.modules
    added = [name for name in _ENVIRONMENT if first and name not in os.environ]
    os.environ.update({name: _ENVIRONMENT[name] for name in added})
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("executor='ray' needs Ray: pip install 'simplicit[ray]'") from error
    finally:
        for name in added:
            os.environ.pop(name)
    _IMPORTED_HERE = _IMPORTED_HERE or first  # what the user has set in the environment is the user's choice
    if local and not _IMPORTED_HERE and not ray.is_initialized():
        _log.warning("Ray was imported before: its ports will be open on all interfaces, though not without a token")
    return ray


def _check_answers(address: str) -> None:
    """Refuse an address at which no Ray answers: Ray itself would try for minutes, and then end the process."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise InputError(f"ray_address: expected host:port, such as 10.0.0.1:6379, or auto, got {address!r}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                connection.sendall(_GREETING)
                answer = connection.recv(9)
                if len(answer) < 4 or answer[3] != _SETTINGS:
                    raise ConnectionError("what answers there is not Ray")
    except (OSError, OverflowError) as error:
        why = f"no answer within {CONNECT_SECONDS:.0f} s" if isinstance(error, TimeoutError) else str(error)
        raise InputError(
            f"ray_address {address}: cannot be reached ({why}); give host:port of the head node"
        ) from error


def _check_versions(theirs: dict[str, str]) -> None:
    ours = versions()
    if theirs != ours:
        named = ", ".join(
            f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if theirs[name] != ours[name]
        )
        raise InputError(f"executor: a worker of the Ray cluster has {named}; install the same everywhere")


def _own_bytes(work: Work, block: Block) -> int:
    """Bytes that travel with a block."""
    rows = sum(spec.nbytes // max(1, spec.shape[0]) for spec in work.rows.values())
    entries = sum(spec.nbytes // max(1, spec.shape[0]) for spec in work.entries.values())
    return len(block) * rows + (block.entries[1] - block.entries[0]) * entries


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
