"""A Ray cluster to work on: the one at an address, the one that this process is connected to, or a new one.

A cluster of our own listens on the loopback alone, asks for a token that never leaves this process, and is gone with
it. A cluster that is joined by its address has been set up by somebody else, on their terms.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from simplicit.checks import refused
from simplicit.errors import InputError, MissingExtraError, first_line
from simplicit.machine import available_memory, gib

#: The address of the cluster that runs on this machine.
AUTO = "auto"
#: How long a cluster may take to answer at its address.
CONNECT_SECONDS = 10.0
#: An object store that takes less than this share of the memory is not asked for: Ray's own takes 0.3.
_USUAL_STORE = 0.25

_log = logging.getLogger(__name__)
#: The first client bytes of HTTP/2, which gRPC speaks, with empty settings.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4  # the type of the frame that answers it
#: Of a cluster of our own, unless the user has said otherwise. Ray reads the first three when it is imported, once.
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the name is of laptops; what it does is to listen on 127.0.0.1 alone
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # otherwise Ray writes one to the home folder, where all may read it
    "RAY_USAGE_STATS_ENABLED": "0",
}
#: Whether Ray was imported with these settings.
_IMPORTED_HERE = False


class Cluster:
    """This process's connection to a cluster; there is none before the first call of :meth:`connect`."""

    def __init__(self) -> None:
        self.ray: Any = None  # the module
        self._joined = False  # by an address
        self._folder: Path | None = None  # of a cluster of our own
        self._added: list[str] = []  # to the environment, for it

    def connect(self, address: str | None) -> None:
        """Import Ray and join the cluster at the address, if there is one; nothing is done a second time.

        MissingExtraError is raised without Ray, InputError if nothing answers at the address, or the cluster refuses.
        """
        if self.ray is None:
            self.ray = _import_ray(local=address is None)
        if address is None or self._joined:
            return
        _check_answers(address)
        if self.ray.is_initialized():
            raise refused("address", "this process is connected to a Ray cluster already; leave it out")
        try:
            self.ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise InputError(
                f"address {address}: the cluster cannot be joined ({first_line(error)}); see that it runs the same Ray "
                "and Python, and that RAY_AUTH_MODE and the token are the same everywhere",
                argument="address",
            ) from error
        self._joined = True

    def start(self, processors: int, store_bytes: int) -> None:
        """Start a cluster on this machine, with an object store of so many bytes or more, unless there is one."""
        if self.ray.is_initialized():
            return
        # Its sockets lie in the folder, and their names have 107 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="sp-ray-", dir=None if len(tempfile.gettempdir()) < 25 else "/tmp"))
        self._added = _add_to_environment() if _IMPORTED_HERE else []
        memory = available_memory()
        usual = memory is None or store_bytes < _USUAL_STORE * memory
        try:
            self.ray.init(
                num_cpus=processors,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=None if usual else store_bytes,
                _temp_dir=str(self._folder),
            )
        except BaseException:
            self.close()
            raise

    @property
    def processors(self) -> int | None:
        """Those of all nodes; None before there is a cluster."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 1))) if self.ray.is_initialized() else None

    def check_room(self, store_bytes: int) -> None:
        """Refuse before the start what would spill, or not fit, on any node that has workers."""
        for node in self.ray.nodes():
            resources = node["Resources"]
            room = int(resources.get("object_store_memory", 0))
            if node["Alive"] and resources.get("CPU", 0) and room < store_bytes:
                raise refused(
                    "executor",
                    f"Ray's object store on node {node['NodeManagerAddress']} holds {gib(room)}, and the shared arrays "
                    f"with the blocks under way need {gib(store_bytes)}; start Ray with "
                    f"--object-store-memory={store_bytes} or more, take fewer samples or workers, or smaller blocks",
                )

    def close(self) -> None:
        """Leave a cluster that was joined, or end one of our own, with all that it has put on this machine."""
        if self._joined or self._folder is not None:
            self.ray.shutdown()
        _remove_from_environment(self._added)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._joined, self._folder, self._added = False, None, []


def _add_to_environment() -> list[str]:
    """Set what the user has not, and say what that was."""
    added = [name for name in _ENVIRONMENT if name not in os.environ]
    os.environ.update({name: _ENVIRONMENT[name] for name in added})
    return added


def _remove_from_environment(names: list[str]) -> None:
    for name in names:
        os.environ.pop(name, None)


def _import_ray(*, local: bool) -> Any:
    """Ray, imported with the settings of a cluster of our own if we are the first and are going to start one."""
    global _IMPORTED_HERE
    first = local and "ray" not in sys.modules
    added = _add_to_environment() if first else []
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("executor='ray' needs Ray: pip install 'simplicit[ray]'") from error
    finally:
        _remove_from_environment(added)
    _IMPORTED_HERE = _IMPORTED_HERE or first  # what the user has set in the environment is the user's choice
    if local and not _IMPORTED_HERE and not ray.is_initialized():
        _log.warning("Ray was imported before: its ports will be open on all interfaces, though not without a token")
    return ray


def split_address(address: str) -> tuple[str, int]:
    """``host:port`` as a pair; InputError for anything else."""
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not host or not port.isdecimal() or "/" in host:
        raise refused("address", f"expected host:port, such as 10.0.0.1:6379, or auto, got {address!r}")
    return host.strip("[]"), int(port)


def _check_answers(address: str) -> None:
    """Refuse an address at which no Ray answers: Ray itself would try for minutes, and then end the process."""
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            return
    try:
        with socket.create_connection(split_address(address), timeout=CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                connection.sendall(_GREETING)
                answer = connection.recv(9)
                if len(answer) < 4 or answer[3] != _SETTINGS:
                    raise ConnectionError("what answers there is not Ray")
    except (OSError, OverflowError) as error:
        why = f"no answer within {CONNECT_SECONDS:.0f} s" if isinstance(error, TimeoutError) else str(error)
        what = f"address {address}: cannot be reached ({why}); give host:port of the head node"
        raise InputError(what, argument="address") from error
