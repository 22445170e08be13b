"""The journal: what is in it counts, whatever ended the run; what is damaged or of another problem does not."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

import simplicit as sp
from simplicit.executors import Journal, digest
from simplicit.executors.records import flatten
from simplicit.files import PARTIAL

Array = npt.NDArray[np.float64]
FACTS = {"kind": "test", "versions": {"simplicit": "1"}}


@dataclass(frozen=True, eq=False)
class Result:
    rows: npt.NDArray[np.intp]
    values: Array
    status: npt.NDArray[np.int8]


RESULT = Result(np.arange(3), np.array([0.1, -0.0, 1e300]), np.zeros(3, dtype=np.int8))


def rows_problem(r: int = 100) -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(40, 30))
    return features, features[:, : r % 30 + 1] @ rng.normal(size=(r % 30 + 1, r)) + 0.1 * rng.normal(size=(40, r))


def solve(journal: Path, **changes: Any) -> sp.Solution:
    features, targets = rows_problem()
    settings: dict[str, Any] = {"penalty": sp.L1(5.0), "journal": journal, "executor": "serial"}
    return sp.solve_rows(features, targets, **(settings | changes))


def same(one: sp.Solution, other: sp.Solution) -> None:
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(one.coefficients, name), getattr(other.coefficients, name))
    for name in ("dual_gap", "objective", "multiplier", "status", "intercepts", "residual"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def block_files(journal: Path) -> list[Path]:
    return sorted(journal.glob("*/*.safetensors"))


# --- blocks as files ------------------------------------------------------------------------------------------------


def test_a_block_comes_back_to_the_bit(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", "a" * 64, FACTS) as journal:
        section = journal.section("b" * 64, {"blocks": 2})
        section.store(1, RESULT)
        assert section.load(0, Result) is None
        found = section.load(1, Result)
        assert found is not None
        for name, array in flatten(RESULT).items():
            assert getattr(found, name).tobytes() == array.tobytes()
        assert section.numbers() == [1]
    (again,) = Journal.read(tmp_path / "j").sections()
    assert (again.key, again.facts["blocks"]) == ("b" * 64, 2)


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "header", "other block", "other solve", "no checksum"])
def test_a_damaged_block_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    with Journal.open(tmp_path / "j", "a" * 64, FACTS) as journal:
        section, other = (journal.section(key * 64, {}) for key in "bc")
        section.store(7, RESULT)
        (path,) = section.folder.glob("*7.safetensors")
        content = path.read_bytes()
        if damage == "cut":
            path.write_bytes(content[:-5])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "bit":
            path.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
        elif damage == "header":
            path.write_bytes(content.replace(b'"I64"', b'"U64"'))
        elif damage == "other block":
            section.store(8, RESULT)
            (section.folder / "000008.safetensors").replace(path)
        elif damage == "other solve":
            other.store(7, RESULT)
            next(other.folder.glob("*7.safetensors")).replace(path)
        else:
            path.write_bytes(safetensors.numpy.save(flatten(RESULT)))
        assert section.load(7, Result) is None
    assert "is damaged" in caplog.text


def test_the_hash_sees_names_types_shapes_and_values() -> None:
    array = np.arange(6.0)
    others: list[dict[str, Any]] = [
        {"b": array},
        {"a": array.astype(np.float32)},
        {"a": array.reshape(2, 3)},
        {"a": array + 1e-16 * (array == 1) * 2},
        {"a": array, "b": 1},
        {"a": array, "b": True},
        {"a": array, "b": 1.0},
        {"a": array, "b": None},
        {"a": array.reshape(2, 3)[:, :2]},
        {"a": np.float64(3.0) + np.zeros(())},
        {},
    ]
    assert len({digest(parts) for parts in ({"a": array}, *others)}) == len(others) + 1
    wide = np.arange(2000.0).reshape(40, 50)
    assert digest({"a": wide[:, ::2]}) == digest({"a": wide[:, ::2].copy()})
    assert digest({"a": array, "b": 1}) == digest({"b": 1, "a": array})


# --- whose journal it is --------------------------------------------------------------------------------------------


def test_a_journal_of_another_problem_is_refused(tmp_path: Path) -> None:
    solve(tmp_path / "j")
    before = [path.read_bytes() for path in block_files(tmp_path / "j")]
    for changes in ({"penalty": sp.L1(5.1)}, {"tol": 1e-7}, {"rounds": 2}, {"block_rows": 16}, {"intercept": True}):
        with pytest.raises(sp.InputError, match=r"j: is of another problem.*choose another folder"):
            solve(tmp_path / "j", **changes)
    assert [path.read_bytes() for path in block_files(tmp_path / "j")] == before
    for changes in ({"executor": "threads"}, {"executor": sp.Threads(workers=1)}, {"throw": False}):
        solve(tmp_path / "j", **changes)


def test_a_journal_of_other_versions_is_refused(tmp_path: Path) -> None:
    solve(tmp_path / "j")
    header = tmp_path / "j" / "journal.json"
    facts = json.loads(header.read_text())
    header.write_text(json.dumps(facts | {"key": "0" * 64, "versions": facts["versions"] | {"torch": "1.0"}}))
    with pytest.raises(sp.InputError, match=r"written with .*torch 1\.0.*, this is .*torch 2\..*begin a new one"):
        solve(tmp_path / "j")


def test_a_journal_in_the_format_of_another_version_is_refused(tmp_path: Path) -> None:
    solve(tmp_path / "j")
    header = tmp_path / "j" / "journal.json"
    facts = json.loads(header.read_text())
    for other in (1, 9, None):
        header.write_text(json.dumps(facts | {"format": other}))
        for use in (solve, Journal.read, lambda journal: sp.merge_journals([journal])):
            refusal = rf"^journal .*j: is of another version of simplicit, in format {other} where this one has 2;"
            with pytest.raises(sp.InputError, match=refusal):
                use(tmp_path / "j")


def test_a_folder_with_other_things_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(sp.InputError, match="holds other things"):
        solve(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "thesis.txt"]
    with pytest.raises(sp.errors.DataError, match=r"thesis\.txt: cannot be written"):
        solve(tmp_path / "thesis.txt")
    with pytest.raises(sp.InputError, match="journal must be a path"):
        solve(3)  # type: ignore[arg-type]
    with pytest.raises(sp.InputError, match=r"is none, it has no journal\.json"):
        Journal.read(tmp_path)


@pytest.mark.parametrize("name", ["journal.json", "*/section.json"])
def test_a_damaged_header_is_told(tmp_path: Path, name: str) -> None:
    solve(tmp_path / "j")
    (header,) = (tmp_path / "j").glob(name)
    for content in ("{", "[]", '{"key": 3}'):
        header.write_text(content)
        with pytest.raises((sp.errors.DataError, sp.InputError), match=r"damaged|another|format"):
            solve(tmp_path / "j")


def test_one_run_at_a_time_but_for_parts(tmp_path: Path) -> None:
    place = tmp_path / "j"
    with Journal.open(place, "a" * 64, FACTS):
        with pytest.raises(
            sp.InputError, match=rf"in use by another run \(process {os.getpid()} on .*wait for its end"
        ):
            Journal.open(place, "a" * 64, FACTS)
        with pytest.raises(sp.InputError, match="in use by another run"):
            Journal.open(place, "a" * 64, FACTS, part=(1, 2))
    with Journal.open(place, "a" * 64, FACTS, part=(1, 2)), Journal.open(place, "a" * 64, FACTS, part=(2, 2)):
        with pytest.raises(sp.InputError, match="in use by another run"):
            Journal.open(place, "a" * 64, FACTS, part=(2, 2))
        with pytest.raises(sp.InputError, match="in use by another run"):
            Journal.open(place, "a" * 64, FACTS)
    Journal.open(place, "a" * 64, FACTS).close()


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    solve(tmp_path / "j")
    for folder in (tmp_path / "j", block_files(tmp_path / "j")[0].parent):
        (folder / f".000001.safetensors.host-1{PARTIAL}").write_bytes(b"half")
    solve(tmp_path / "j")
    assert not list((tmp_path / "j").rglob(f".*{PARTIAL}"))


# --- runs that were broken off --------------------------------------------------------------------------------------


class StoppedError(Exception):
    """What ends a run from within its progress."""


def stop_after(blocks: int) -> Any:
    seen = []

    def tell(state: sp.progress.Progress) -> None:
        seen.extend([state] if state.of is None and state.done else [])
        if len(seen) == blocks:
            raise StoppedError

    return tell


@pytest.mark.parametrize("changes", [{}, {"rounds": 2}, {"intercept": True}, {"penalty": sp.Perspective(1.0, 5.0)}])
def test_a_run_goes_on_where_it_was_broken_off(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = solve(tmp_path / "whole", **changes)
    for blocks in (1, 2):
        with pytest.raises(StoppedError):
            solve(tmp_path / "j", progress=stop_after(blocks), **changes)
    assert len(block_files(tmp_path / "j")) == 2
    seen: list[sp.progress.Progress] = []
    again = solve(tmp_path / "j", progress=seen.append, **changes)
    same(again, whole)
    for one, other in zip(again.earlier, whole.earlier, strict=True):
        same(one, other)
    seen = [state for state in seen if state.of is None and state.done]
    assert seen[1].resumed == seen[-1].resumed == seen[1].done
    assert (seen[-1].done, seen[-1].total) == (seen[-1].total, 100 * changes.get("rounds", 1))
    assert "from the journal" in str(seen[-1])


@pytest.mark.slow
def test_a_path_goes_on_too(tmp_path: Path) -> None:
    features, targets = rows_problem()
    penalties = [sp.L1(beta) for beta in (20.0, 5.0, 1.0)]
    whole = sp.solve_path(features, targets, penalties)
    with pytest.raises(StoppedError):
        sp.solve_path(features, targets, penalties, journal=tmp_path / "j", progress=stop_after(1))
    for one, other in zip(sp.solve_path(features, targets, penalties, journal=tmp_path / "j"), whole, strict=True):
        same(one, other)


def test_a_finished_journal_needs_no_solving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = solve(tmp_path / "j")

    def unwanted(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("simplicit.solve.work.RowWork.fill", unwanted)
    same(solve(tmp_path / "j"), whole)


def test_damaged_blocks_are_solved_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = solve(tmp_path / "j")
    first, second, *_ = block_files(tmp_path / "j")
    first.write_bytes(first.read_bytes()[:100])
    second.unlink()
    same(solve(tmp_path / "j"), whole)
    assert "its rows are solved again" in caplog.text
    assert len(caplog.records) == 1
    same(solve(tmp_path / "j"), whole)


def test_a_failing_block_leaves_the_others_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import simplicit.solve.block as blocksolve

    whole, plain = solve(tmp_path / "whole"), blocksolve.RowSolver.__call__

    def broken(self: Any, block: Any, rows: Any, start: Any) -> Any:
        if block.number == 1:
            raise MemoryError("no room")
        return plain(self, block, rows, start)

    with monkeypatch.context() as patch:
        patch.setattr(blocksolve.RowSolver, "__call__", broken)
        with pytest.raises(
            sp.errors.ExecutionError, match=r"^rows \d+, .* and 19 more: could not be solved \(MemoryError"
        ):
            solve(tmp_path / "j")
    assert len(block_files(tmp_path / "j")) == 3
    same(solve(tmp_path / "j"), whole)


FULL = """
import resource, sys
sys.path[:] = {paths!r}
import numpy as np, simplicit as sp
from test_journal import rows_problem
features, targets = rows_problem()
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
try:
    sp.solve_rows(features, targets, penalty=sp.L1(0.01), journal={journal!r})
except sp.errors.DataError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_disk_that_really_takes_no_more(tmp_path: Path) -> None:
    """The system itself refuses to write files beyond a size: one clear error, nothing half-written."""
    paths = [str(Path(__file__).parent), *sys.path]
    code = textwrap.dedent(FULL.format(paths=paths, journal=str(tmp_path / "j")))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large); what was written before is safe" in ran.stdout, ran.stderr
    assert not list((tmp_path / "j").rglob(f"*{PARTIAL}"))
    features, targets = rows_problem()
    same(
        sp.solve_rows(features, targets, penalty=sp.L1(0.01), journal=tmp_path / "j"),
        sp.solve_rows(features, targets, penalty=sp.L1(0.01)),
    )
