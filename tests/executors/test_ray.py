"""Ray: what is refused before the start, and a cluster of our own as a user starts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplicit as sp
from families import random_case
from simplicit.executors import Executor, run_blocks
from simplicit.executors.ray import actor, cluster
from simplicit.executors.ray import executor as module
from simplicit.executors.records import total_bytes
from simplicit.machine import versions
from toy import ToyWork

ray = pytest.importorskip("ray")


def use(executor: Executor) -> int:
    """Solve three blocks."""
    work = ToyWork(3)
    return len(list(run_blocks(executor, work, work.blocks)))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(sp.errors.MissingExtraError, match=r"executor='ray' needs Ray: pip install 'simplicit\[ray\]'"):
        use(sp.Ray())


@pytest.mark.parametrize("address", ["here", "10.0.0.1", "10.0.0.1:", ":", "ray://10.0.0.1:10001", "a b:c"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(sp.InputError, match="address: expected host:port") as caught:
        sp.Ray(address=address)
    assert caught.value.argument == "address"


def test_an_address_where_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(sp.InputError, match=rf"address {address}: cannot be reached \(.*refused"):
        use(sp.Ray(address=address))
    with pytest.raises(sp.InputError, match=r"address no-such-host\.invalid:6379: cannot be reached"):
        use(sp.Ray(address="no-such-host.invalid:6379"))
    with pytest.raises(sp.InputError, match="cannot be reached"):
        use(sp.Ray(address="127.0.0.1:99999"))


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_an_address_where_nobody_answers(stranger: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.3)
    with pytest.raises(sp.InputError, match=r"cannot be reached \(no answer within 0 s\); give host:port of the head"):
        use(sp.Ray(address=f"127.0.0.1:{stranger.getsockname()[1]}"))


def test_an_address_where_somebody_else_answers(stranger: socket.socket) -> None:
    def answer() -> None:
        connection, _ = stranger.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.recv(1000)

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(sp.InputError, match="what answers there is not Ray"):
        use(sp.Ray(address=f"127.0.0.1:{stranger.getsockname()[1]}"))
    thread.join()


@pytest.mark.slow
def test_the_bits_of_a_serial_solve(pools: Any) -> None:
    case = random_case(17, rows=40, largest=40, penalty="L1", ball="slice", support="own", regime="normal")
    found, expected = (case.solve(executor=executor) for executor in (pools["ray"], "serial"))
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(found.coefficients, name), getattr(expected.coefficients, name))
    np.testing.assert_array_equal(found.dual_gap, expected.dual_gap)


@pytest.mark.slow
def test_one_process_has_one_cluster(pools: Any) -> None:
    executor = pools["ray"]
    assert use(executor) == 3  # it connects when it is first used
    with pytest.raises(sp.InputError, match="connected to a Ray cluster already"):
        use(sp.Ray(address=pools.cluster.address))
    node = pools.cluster.add_node(num_cpus=2)  # the others' processors are taken by the workers of ``executor``
    try:
        with sp.Ray(workers=2) as other:  # on the cluster that it is connected to
            assert use(other) == 3
    finally:
        pools.cluster.remove_node(node)
    assert ray.is_initialized()
    assert use(executor) == 3


@pytest.mark.slow
def test_an_object_store_that_is_too_small(pools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADROOM", 1e6)
    told = r"object store on node 127\.0\.0\.1 holds 0\.\d+ GiB, and the shared arrays .*--object-store-memory=\d+ or"
    with pytest.raises(sp.InputError, match=told):
        use(pools["ray"])


def test_other_versions_on_the_nodes_are_refused() -> None:
    ours = versions()
    actor.check_versions(ours)
    with pytest.raises(sp.InputError, match=r"has torch 1\.0 instead of .*install the same everywhere"):
        actor.check_versions(ours | {"torch": "1.0"})


def test_only_the_rows_of_a_block_travel_with_it() -> None:
    work = ToyWork(4)
    # Three rows of one float64 each, and three entries of int64.
    assert total_bytes(work.arrays.own(work.blocks[2])) == 3 * 8 + 3 * 8


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks into /proc")
def test_a_cluster_of_our_own(tmp_path: Path) -> None:
    """As a user starts it: on the loopback, with a token that is nowhere, and nothing left of it."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 50))
    targets = features @ rng.normal(size=(50, 70))
    np.save(tmp_path / "f.npy", features)
    np.save(tmp_path / "t.npy", targets)
    (tmp_path / "tmp").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp"), "SIMPLICIT_RAY_TEST": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found == {"open": [], "same": True, "workers": 2, "environment": []}
    assert not list(tmp_path.glob(".ray"))
    assert not list((tmp_path / "tmp").iterdir())


SCRIPT = """
import contextlib, json, os
from pathlib import Path
import numpy as np
import simplicit as sp

def listening():
    "Ports beyond the loopback on which a process of this run listens."
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    local = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    ports = {line[9]: line[1] for line in lines if line[3] == "0A" and line[1].split(":")[0] not in local}
    ours, own = set(), 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"SIMPLICIT_RAY_TEST=1" in (process / "environ").read_bytes():
                own += 1
                ours |= {os.readlink(link)[8:-1] for link in (process / "fd").iterdir()}
    assert own > 5, own
    return sorted(ports[inode] for inode in ours & set(ports))

features, targets = np.load("f.npy"), np.load("t.npy")
with sp.Ray(workers=2) as executor:
    one = sp.solve_rows(features, targets, penalty=sp.L1(3.0), executor=executor)
    beyond = listening()
other = sp.solve_rows(features, targets, penalty=sp.L1(3.0), executor="serial")
pairs = [(getattr(one.coefficients, name), getattr(other.coefficients, name)) for name in ("data", "indices", "indptr")]
same = all((a == b).all() for a, b in pairs)
left = [name for name in os.environ if name.startswith(("RAY_AUTH", "RAY_ENABLE", "RAY_USAGE"))]
print(json.dumps({"open": beyond, "same": bool(same), "workers": executor.n_workers, "environment": left}))
"""
