"""What all executors have in common: every block once, equal workers, failures told, settings left as they were."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

import simplicit as sp
from simplicit.executors import EXECUTORS, Deadline, Executor, make_executor, run_blocks
from toy import ToyWork, expected, numbers

HERE = ["serial", "threads"]


def run(executor: Executor, work: ToyWork, *, seconds: float | None = None, thorough: bool = False) -> dict[int, Any]:
    blocks = run_blocks(executor, work, work.blocks, deadline=Deadline(seconds), thorough=thorough)
    return {block.number: result for block, result in blocks}


def test_every_block_is_solved_once_and_work_follows_work(executor: Executor) -> None:
    for work in (ToyWork(12), ToyWork(5, factor=2.0)):
        results = run(executor, work)
        assert {number: numbers(result) for number, result in results.items()} == {
            block.number: expected(work, block) for block in work.blocks
        }
        flags = {name: np.concatenate([result[name] for result in results.values()]) for name in results[0]}
        assert set(flags["threads"].tolist()) == {1}
        assert set(flags["tiny"].tolist()) == {0.0}
        assert not flags["writable"].any()
        assert flags["aligned"].all()


def test_only_the_blocks_that_are_wanted(executor: Executor) -> None:
    work = ToyWork(6)
    wanted = [work.blocks[4], work.blocks[1]]
    assert {block.number for block, _ in run_blocks(executor, work, wanted, deadline=Deadline())} == {1, 4}


def test_a_failing_block_ends_the_run_and_names_its_rows(executor: Executor) -> None:
    work = ToyWork(40, do={1: "raise"})
    seen: list[int] = []
    blocks = run_blocks(executor, work, work.blocks, deadline=Deadline())
    with pytest.raises(sp.ExecutionError, match=r"^rows 3 to 5: could not be solved \(ValueError: block 1 does not"):
        seen.extend(block.number for block, _ in blocks)
    assert 0 in seen
    assert len(seen) < 39
    assert len(run(executor, ToyWork(3))) == 3  # the workers are as good as new


def test_all_others_are_solved_first_if_that_is_wanted(executor: Executor) -> None:
    work = ToyWork(9, do={2: "raise", 5: "raise"})
    seen: list[int] = []
    blocks = run_blocks(executor, work, work.blocks, deadline=Deadline(), thorough=True)
    with pytest.raises(sp.ExecutionError, match=r"rows (6 to 8|15 to 17): could not be solved"):
        seen.extend(block.number for block, _ in blocks)
    assert sorted(seen) == [0, 1, 3, 4, 6, 7, 8]


def test_a_run_that_is_given_up_lets_go(executor: Executor) -> None:
    blocks = run_blocks(executor, ToyWork(30), ToyWork(30).blocks, deadline=Deadline())
    next(blocks)
    blocks.close()
    assert len(run(executor, ToyWork(3))) == 3


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("flushing", [False, True])
def test_settings_of_the_process_are_as_before_afterwards(name: str, flushing: bool) -> None:
    def smallest() -> float:
        return float(torch.tensor(2.0**-1022, dtype=torch.float64) / 2)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_flush_denormal(flushing)
    try:
        with make_executor(name, 2) as executor:
            run(executor, ToyWork(4))
        assert torch.get_num_threads() == 2
        assert (smallest() == 0.0) == flushing
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("simplicit")]


def test_workers_default_to_the_processors() -> None:
    assert make_executor("threads").workers >= 1
    assert make_executor("serial", 7).workers == 1


def test_unknown_name_and_bad_workers() -> None:
    with pytest.raises(sp.InputError, match="'cluster' is unknown; choose one of 'serial', 'threads'"):
        make_executor("cluster")
    for name in EXECUTORS:
        for workers in (0, -1, True, 1.5):
            with pytest.raises(sp.InputError, match="workers must be an integer of at least 1"):
                make_executor(name, workers)  # type: ignore[arg-type]
    for name in set(EXECUTORS) - {"ray"}:
        with pytest.raises(sp.InputError, match="ray_address: the executor"):
            make_executor(name, ray_address="127.0.0.1:6379")
