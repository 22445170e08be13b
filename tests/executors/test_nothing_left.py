"""Nothing is left of a run: no process, no shared memory, no half-written file, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import simplicit as sp
from simplicit import machine
from simplicit.cli import main
from simplicit.executors import memory, run_blocks
from simplicit.executors.memory import Segment, map_segment
from simplicit.runs.solutions import load_coefficients
from toy import ToyWork

KILL_TEST = Path(__file__).parents[2] / "benchmarks" / "kill_test.py"
COMMAND = [sys.executable, "-c", "import sys; from simplicit.cli import main; sys.exit(main())"]
SOLVE = ["solve", "f.npy", "t.npy", "--beta", "2", "--block-rows", "5", "--journal", "journal"]


def descendants(pid: int) -> set[int]:
    """The children of a process, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def lives(pid: int) -> bool:
    """Whether a process is there, and not only its entry until its new parent has asked how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        time.sleep(0.02)


def abandoned() -> set[str]:
    """Shared memory with a name that no living process has mapped; what other tests hold meanwhile is mapped."""
    held = runpy.run_path(str(KILL_TEST.with_name("shared_memory.py")))["held"]
    return {str(path) for path in Path("/dev/shm").iterdir()} - held()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 120))
    np.save(tmp_path / "f.npy", features)
    np.save(tmp_path / "t.npy", features @ rng.normal(size=(120, 500)))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_an_interrupt_ends_all_and_the_journal_is_whole(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = abandoned()
    words = ["--executor", "processes", "--workers", "2", "--output", "out"]
    run = subprocess.Popen(
        [*COMMAND, *SOLVE, *words],
        cwd=files,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell that starts the tests in the background has them ignore it, and what they start would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: len(list(files.glob("journal/*/*.safetensors"))) >= 3)
    workers = descendants(run.pid)
    assert len(workers) == 3  # two, and the process that they come from
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert out == ""
    *lines, last = err.splitlines()
    assert last == "Error: interrupted"
    assert all(line.startswith("rows: ") for line in lines)  # of progress, where it took a moment
    wait_for(lambda: not any(lives(pid) for pid in workers))  # killed they are; the kernel takes its time under load
    wait_for(lambda: abandoned() <= before)
    assert not list(files.rglob("*.partial"))
    done = len(list(files.glob("journal/*/*.safetensors")))
    assert 3 <= done < 100
    monkeypatch.chdir(files)
    assert main([*SOLVE, "--executor", "serial", "--resume", "--output", "again"]) == 0
    ((again, _),) = load_coefficients(files / "again")
    features, targets = (np.load(files / name) for name in ("f.npy", "t.npy"))
    whole = sp.solve_rows(features, targets, penalty=sp.L1(2.0), block_rows=5).coefficients
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")
def test_kill_9_at_random_moments(tmp_path: Path) -> None:
    """The short version of the study of 200 kills, ``benchmarks/kill_test.py``."""
    command = [sys.executable, str(KILL_TEST), "--kills", "8", "--rows", "400", "--output", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "kill_test.json").read_text())
    assert report["killed"] == 8
    assert report["broken"] == []
    assert report["runs_that_ended_well"] >= 1


# --- shared memory --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memfd", "without memfd"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "memfd" and not hasattr(os, "memfd_create"):
        pytest.skip("this system has no memfd")
    if request.param != "memfd":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    return str(request.param)


def test_a_segment_is_shared_read_only_and_has_no_name(kind: str) -> None:
    before = {path.name for path in memory.SHARED_FOLDER.iterdir()}
    segment = Segment(10_000)
    segment.memory[:5] = b"hello"
    segment.freeze()
    shown = map_segment(os.dup(segment.descriptor), segment.nbytes)
    assert shown[:5] == b"hello"
    with pytest.raises(TypeError):
        shown[:5] = b"other"
    segment.memory[:5] = b"world"
    assert shown[:5] == b"world"
    if kind == "memfd":
        with pytest.raises(PermissionError):
            os.ftruncate(segment.descriptor, 10)
    assert {path.name for path in memory.SHARED_FOLDER.iterdir()} == before
    segment.close()
    assert shown[:5] == b"world"


@pytest.mark.slow
def test_blocks_are_solved_without_memfd_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    work = ToyWork(4)
    with sp.Processes(workers=1) as executor:
        found = {block.number for block, _ in run_blocks(executor, work, work.blocks)}
    assert found == {0, 1, 2, 3}


def test_too_little_shared_memory_is_told_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=2**26, free=2**24))
    told = r"'processes' shares 1 GiB, and 0\.0156 GiB of the 0\.0625 GiB of .* are free; make room"
    with pytest.raises(sp.InputError, match=told):
        Segment(2**30)


def test_more_shared_memory_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no memfd")
    monkeypatch.setattr(machine, "available_memory", lambda: 2**30)
    with pytest.raises(sp.InputError, match=r"'processes' shares about 2 GiB, and 1 GiB are free; make room"):
        Segment(2**31)
    monkeypatch.setattr(machine, "available_memory", lambda: None)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(sp.InputError, match=r"which could not be had \(No space left on device\); make room"):
        Segment(2**20)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_an_executor_that_nothing_refers_to_ends_its_workers() -> None:
    before = descendants(os.getpid())
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(30, 20)), rng.normal(size=(30, 3))
    seen: list[int] = []

    def count(_: sp.progress.Progress) -> None:
        seen.append(len(descendants(os.getpid()) - before))

    sp.solve_rows(features, targets, penalty=sp.L1(2.0), executor=sp.Processes(workers=2), progress=count)
    assert seen[-1] == 3  # two, and the process that they come from
    assert not descendants(os.getpid()) - before
    executor = sp.Processes(workers=1)
    for _ in range(2):
        sp.solve_rows(features, targets, penalty=sp.L1(2.0), executor=executor)
        assert len(descendants(os.getpid()) - before) == 2
    executor.close()
    assert not descendants(os.getpid()) - before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_no_worker_holds_the_socket_of_another() -> None:
    """Otherwise its end would not be seen when it dies. All are asked for at once, before their parent is there."""
    with sp.Processes(workers=4) as executor:
        work = ToyWork(8, do=dict.fromkeys(range(8), "slow"))
        list(run_blocks(executor, work, work.blocks))
        processes = [worker.process for worker in executor._pool.workers.values() if worker.process is not None]
        sockets = [socket_numbers(process) for process in processes]
    assert len(processes) == 4
    assert all(sockets)
    assert sum(map(len, sockets)) == len(set().union(*sockets))


def socket_numbers(process: int) -> set[str]:
    """The sockets that a process holds open."""
    found = set()
    for entry in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            if (name := os.readlink(entry)).startswith("socket:"):  # noqa: PTH115
                found.add(name)
    return found


@pytest.mark.slow
def test_descriptors_do_not_pile_up() -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("looks into /proc")
    counts = []
    with sp.Processes(workers=1) as executor:
        for _ in range(3):
            work = ToyWork(2)
            list(run_blocks(executor, work, work.blocks))
            counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert len(set(counts)) == 1
