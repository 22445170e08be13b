"""Executors, journals and parts on the command line: ``solve``, ``fit`` and ``journal`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import simplicit as sp
from command_line import Run, manifest, one_line

SOLVE = ("solve", "f.npy", "t.npy", "--beta", 5)


@pytest.fixture
def run(run: Run) -> Run:
    """Run a command in a folder with a problem of 100 rows; returns code, standard output and standard error."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(60, 40))
    np.save("f.npy", features)
    np.save("t.npy", features @ (rng.normal(size=(40, 100)) * (rng.random((40, 100)) < 0.3)))
    return run


def coefficients(folder: str) -> bytes:
    return Path(folder, "coefficients.safetensors").read_bytes()


def blocks(journal: str = "j") -> list[Path]:
    return sorted(Path(journal).glob("*/*.safetensors"))


def test_a_journal_is_kept_and_gone_on_from(run: Run) -> None:
    words = (*SOLVE, "--journal", "j", "--output")
    assert run(*SOLVE, "--output", "plain")[0] == 0
    assert run(*words, "first")[::2] == (0, "")
    assert len(blocks()) == 4
    blocks()[2].unlink()
    assert run(*words, "second", "--resume", "--executor", "serial")[::2] == (0, "")
    assert coefficients("first") == coefficients("second") == coefficients("plain")
    assert manifest("second")["settings"]["executor"] == "serial"
    assert manifest("second")["settings"]["block_rows"] is None


def test_a_damaged_block_is_told_and_solved_again(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    words = (*SOLVE, "--journal", "j", "--output")
    assert run(*words, "first")[0] == 0
    blocks()[1].write_bytes(blocks()[1].read_bytes()[:-1])
    assert json.loads(run("journal", "show", "j", "--json")[1])["solves"][0]["damaged"] == 1
    assert run(*words, "second")[0] == 0
    assert f"{blocks()[1]} is damaged" in caplog.text
    assert coefficients("first") == coefficients("second")


def test_what_cannot_be_gone_on_from(run: Run) -> None:
    one_line(run(*SOLVE, "--resume"), "--resume: name the journal to go on from with --journal")
    one_line(run(*SOLVE, "--journal", "j", "--resume"), "journal j: there is none to go on from; leave --resume out")
    assert not Path("j").exists()
    assert run(*SOLVE, "--journal", "j", "--output", "a")[0] == 0
    one_line(run("solve", "f.npy", "t.npy", "--beta", 6, "--journal", "j", "--output", "b"), "j: is of another problem")
    np.save("t.npy", np.load("t.npy") + 1e-9)
    one_line(run(*SOLVE, "--journal", "j", "--output", "b"), "j: is of another problem")
    assert not Path("b").exists()
    Path("mine").mkdir()
    Path("mine", "thesis.txt").write_text("")
    one_line(run(*SOLVE, "--journal", "mine", "--output", "b"), "journal mine: the folder holds other things")


def test_the_output_may_not_replace_the_journal(run: Run) -> None:
    assert run(*SOLVE, "--output", "out")[0] == 0
    assert run(*SOLVE, "--journal", "out/j", "--output", "other")[0] == 0
    words = (*SOLVE, "--journal", "out/j", "--output", "out", "--overwrite")
    one_line(run(*words), "out: is or holds out/j, which this run reads")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--penalty", "perspective"), ("--rounds", 2, "--intercept", "--kappa", 1)])
def test_parts_in_one_journal_make_the_whole(run: Run, options: tuple[object, ...]) -> None:
    words = ("solve", "f.npy", "t.npy", *options)
    assert run(*words, "--output", "whole")[0] == 0
    for number in (1, 2, 3):
        code, out, _ = run(*words, "--part", f"{number}/3", "--journal", "j")
        assert code == 0
        assert f"Part {number} of 3 is solved. In j: {(2, 3, 4)[number - 1]} of 4 blocks, 100 rows x 40 columns." in out
    code, out, err = run("journal", "merge", "j", "--output", "merged")
    assert (code, err) == (0, "")
    assert "100 of 100" in out
    assert "Merged in" in out
    assert coefficients("merged") == coefficients("whole")
    whole, merged = manifest("whole"), manifest("merged")
    assert {name: merged["inputs"][name]["hash"] for name in merged["inputs"]} == {
        name: whole["inputs"][name]["hash"] for name in whole["inputs"]
    }
    counts = ("non_zeros", "rows_certified", "largest_relative_gap")
    ours, theirs = whole["results"]["members"][0], merged["results"]["members"][0]
    assert {name: ours[name] for name in counts} == {name: theirs[name] for name in counts}
    assert merged["settings"]["penalty"] == whole["settings"]["penalty"]


@pytest.mark.slow
def test_parts_in_journals_of_their_own_and_a_path(run: Run) -> None:
    words = ("solve", "f.npy", "t.npy", "--strengths", 3, "--smallest", 0.1)
    assert run(*words, "--output", "whole")[0] == 0
    for number in (1, 2):
        code, out, _ = run(*words, "--part", f"{number}/2", "--journal", f"j{number}", "--json")
        told = json.loads(out)
        assert (code, told["part"], told["blocks"]) == (0, [number, 2], 4)
        assert told["missing"] == [n for n in range(4) if n % 2 != number - 1]
    one_line(run("journal", "merge", "j1"), "2 of 4 blocks are missing or damaged (1, 3); solve their parts again")
    assert run("journal", "merge", "j2", "j1", "--output", "merged")[0] == 0
    assert coefficients("merged") == coefficients("whole")
    assert len(manifest("merged")["results"]["members"]) == 3
    # A whole run with the journal of a part solves what is missing.
    assert run(*words, "--journal", "j1", "--output", "rest")[0] == 0
    assert coefficients("rest") == coefficients("whole")


def test_rows_that_are_not_proved_are_told_when_merging(run: Run) -> None:
    words = ("solve", "f.npy", "t.npy", "--penalty", "basis-pursuit", "--part")
    for number in (1, 2):
        np.save("t.npy", np.random.default_rng(0).normal(size=(60, 40)))
        assert run(*words, f"{number}/2", "--journal", "j")[0] == 0
    one_line(run("journal", "merge", "j", "--output", "m"), "40 of 40 rows did not reach", "With --no-throw they are")
    code, out, _ = run("journal", "merge", "j", "--output", "m", "--no-throw")
    assert code == 0
    assert "(infeasible)" in out


def test_bad_parts_and_journals(run: Run) -> None:
    for text in ("0/3", "4/3", "1", "1/0", "-1/2", "a/b", "1/2/3"):
        one_line(run(*SOLVE, "--journal", "j", f"--part={text}"), "--part: expected I/N with 1 <= I <= N")
    one_line(run(*SOLVE, "--part", "1/2"), "--part: name the journal that keeps its blocks")
    one_line(run("journal", "show", "j"), "journal j: is none")
    one_line(run("journal", "merge", "f.npy"), "journal f.npy: is none")
    assert run(*SOLVE, "--part", "1/2", "--journal", "a")[0] == 0
    assert run("solve", "f.npy", "t.npy", "--beta", 6, "--part", "2/2", "--journal", "b")[0] == 0
    one_line(run("journal", "merge", "a", "b"), "b and a are of different solves")
    assert run(*SOLVE, "--part", "2/2", "--journal", "a")[0] == 0
    Path("a", "solve.json").unlink()
    one_line(run("journal", "merge", "a"), "has no solve.json", "simplicit.merge_journals")
    (solution,) = sp.merge_journals(["a"])
    mapped = [np.load(name, mmap_mode="r") for name in ("f.npy", "t.npy")]
    expected = sp.solve_rows(*mapped, penalty=sp.L1(5.0)).coefficients
    np.testing.assert_array_equal(solution.coefficients.toarray(), expected.toarray())
    Path("a", "solve.json").write_text("{}")
    one_line(run("journal", "merge", "a"), "solve.json: damaged")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--executor", "moon"),
            "--executor: 'moon' is unknown; choose one of 'serial', 'threads', 'processes', 'ray'",
        ),
        (("--executor", "processes", "--workers", 0), "--workers must be an integer of at least 1"),
        (("--block-rows", 0), "--block-rows must be an integer of at least 1"),
        (("--executor", "processes", "--block-timeout", 0), "--block-timeout must be positive"),
        (("--block-timeout", 9), "--block-timeout is an option of the executor processes or ray"),
        (("--address", "127.0.0.1:1"), "--address is an option of the executor ray; add --executor ray"),
        (("--executor", "ray", "--address", "127.0.0.1:1"), "address 127.0.0.1:1: cannot be reached"),
        (("--executor", "ray", "--address", "nowhere"), "--address: expected host:port"),
    ],
)
def test_bad_options(run: Run, words: tuple[object, ...], told: str) -> None:
    before = sorted(Path.cwd().rglob("*"))
    one_line(run(*SOLVE, *words, "--output", "out"), told)
    assert sorted(Path.cwd().rglob("*")) == before


def test_a_fit_goes_on_from_its_journal(run: Run, base: Path) -> None:
    words = ("fit", base, "--samples", 80, "--recipe", "matching", "--block-rows", 8)
    assert run(*words, "--output", "plain")[0] == 0
    one_line(run(*words, "--output", "fit", "--journal", "j", "--resume"), "journal j: there is none to go on from")
    assert run(*words, "--output", "fit", "--journal", "j")[0] == 0
    found = blocks()
    assert len(found) == 5
    for path in found[::2]:
        path.unlink()
    again = ("--output", "again", "--journal", "j", "--resume", "--executor", "serial")
    code, out, err = run(*words, *again)
    assert (code, err) == (0, "")
    models = [Path(folder, "model.safetensors").read_bytes() for folder in ("plain", "fit", "again")]
    assert models[0] == models[1] == models[2]
    assert blocks() == found
    assert manifest("again")["settings"]["block_rows"] == 8
    assert "journal" not in manifest("again")["settings"]
    code, out, _ = run("journal", "show", "j")
    assert code == 0
    assert "Journal of a fit" in out
    one_line(run("journal", "merge", "j"), "journal j: is of a fit; only solves are merged")
    one_line(run(*words, "--output", "other", "--journal", "j", "--kappa", 0.5), "journal j: is of another problem")
