"""What all executors have in common: every block once, equal workers, failures told, settings left as they were."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simplicit as sp
from simplicit.executors import EXECUTORS, Block, Deadline, Executor, as_executor, run_blocks
from simplicit.machine import available_processors
from toy import ToyWork, expected

HERE = ["serial", "threads"]


def run(executor: Executor, work: ToyWork, *, seconds: float | None = None, thorough: bool = False) -> dict[int, Any]:
    blocks = run_blocks(executor, work, work.blocks, deadline=Deadline(seconds), thorough=thorough)
    return {block.number: result for block, result in blocks}


def test_every_block_is_solved_once_and_work_follows_work(executor: Executor) -> None:
    for work in (ToyWork(12), ToyWork(5, factor=2.0)):
        results = run(executor, work)
        assert {number: result.sums.tolist() for number, result in results.items()} == {
            block.number: expected(work, block) for block in work.blocks
        }
        for result in results.values():
            assert set(result.threads.tolist()) == {1}
            assert result.tiny.tolist() == [0.0]
            assert not result.writable.any()
            assert result.aligned.all()


def test_only_the_blocks_that_are_wanted(executor: Executor) -> None:
    work = ToyWork(6)
    wanted = [work.blocks[4], work.blocks[1]]
    assert {block.number for block, _ in run_blocks(executor, work, wanted)} == {1, 4}


def test_a_failing_block_ends_the_run_and_names_its_rows(executor: Executor) -> None:
    work = ToyWork(40, do={1: "raise"})
    seen: list[int] = []
    blocks = run_blocks(executor, work, work.blocks)
    with pytest.raises(
        sp.errors.ExecutionError, match=r"^rows 3 to 5: could not be solved \(ValueError: block 1 does not"
    ):
        seen.extend(block.number for block, _ in blocks)
    assert 0 in seen
    assert len(seen) < 39
    assert len(run(executor, ToyWork(3))) == 3  # the workers are as good as new


def test_all_others_are_solved_first_if_that_is_wanted(executor: Executor) -> None:
    work = ToyWork(9, do={2: "raise", 5: "raise"})
    seen: list[int] = []
    blocks = run_blocks(executor, work, work.blocks, thorough=True)
    with pytest.raises(sp.errors.ExecutionError, match=r"rows (6 to 8|15 to 17): could not be solved"):
        seen.extend(block.number for block, _ in blocks)
    assert sorted(seen) == [0, 1, 3, 4, 6, 7, 8]


def test_a_run_that_is_given_up_lets_go(executor: Executor) -> None:
    blocks = run_blocks(executor, ToyWork(30), ToyWork(30).blocks)
    next(blocks)
    blocks.close()
    assert len(run(executor, ToyWork(3))) == 3


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("flushing", [False, True])
def test_settings_of_the_process_are_as_before_afterwards(name: str, flushing: bool, pools: Any) -> None:
    def smallest() -> float:
        return float(torch.tensor(2.0**-1022, dtype=torch.float64) / 2)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_flush_denormal(flushing)
    try:
        with pools.new(name) as executor:
            run(executor, ToyWork(4))
        assert torch.get_num_threads() == 2
        assert (smallest() == 0.0) == flushing
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("simplicit")]


def test_workers_default_to_the_processors() -> None:
    assert sp.Threads().n_workers == sp.Processes().n_workers == available_processors()
    assert sp.Threads(workers=7).n_workers == 7
    assert sp.Serial().n_workers == 1


def test_an_unknown_name() -> None:
    for name in ("cluster", "Threads", 3, None):
        with pytest.raises(sp.InputError, match="is unknown; choose one of 'serial', 'threads'") as caught:
            as_executor(name)  # type: ignore[arg-type]
        assert caught.value.argument == "executor"


@pytest.mark.parametrize("kind", [sp.Threads, sp.Processes, sp.Ray])
def test_settings_out_of_range(kind: Any) -> None:
    for workers in (0, -1, True, 1.5):
        with pytest.raises(sp.InputError, match="workers must be an integer of at least 1"):
            kind(workers=workers)
    if kind.replaces:
        for seconds in (0, -1.0, float("nan"), "1"):
            with pytest.raises(sp.InputError, match="block_timeout must be positive"):
                kind(block_timeout=seconds)


def test_settings_are_the_fields_of_the_class() -> None:
    found = {name: [one.name for one in fields(kind) if one.init] for name, kind in EXECUTORS.items()}  # type: ignore[arg-type]
    assert found == {
        "serial": [],
        "threads": ["workers"],
        "processes": ["workers", "block_timeout"],
        "ray": ["workers", "address", "block_timeout"],
    }
    assert repr(sp.Processes(workers=2)) == "Processes(workers=2, block_timeout=None)"


@pytest.mark.slow
def test_to_make_one_starts_nothing() -> None:
    code = "import sys, threading, simplicit as sp; sp.Processes(), sp.Threads(), sp.Ray(address='127.0.0.1:1')\n"
    code += "from pathlib import Path; import os; print('ray' in sys.modules, threading.active_count())\n"
    code += "print(Path(f'/proc/self/task/{os.getpid()}/children').read_text())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "1"]


def test_a_kind_of_ones_own_works_under_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    class Toy(sp.Serial):
        def start(self, worker: int, block: Block) -> None:
            begun.append(block.number)
            super().start(worker, block)

    monkeypatch.setitem(EXECUTORS, "toy", Toy)
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(30, 20)), rng.normal(size=(30, 3))
    one = sp.solve_rows(features, targets, penalty=sp.L1(2.0), executor="toy")
    assert begun == [0]
    other = sp.solve_rows(features, targets, penalty=sp.L1(2.0))
    np.testing.assert_array_equal(one.coefficients.data, other.coefficients.data)
    with pytest.raises(sp.InputError, match="'ray', 'toy'"):
        as_executor("moon")


@pytest.mark.slow
def test_the_time_out_is_that_of_the_executor(tmp_path: Path) -> None:
    work = ToyWork(3, do={1: "hang once"}, folder=tmp_path)
    with sp.Processes(workers=1, block_timeout=1.0) as executor:
        assert len(list(run_blocks(executor, work, work.blocks))) == 3
