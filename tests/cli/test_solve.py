"""``simplicit solve`` as a user meets it: files in, certified rows out, one line for every mistake."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import Lasso

import simplicit as sp
from command_line import Run, files, one_line
from simplicit.runs.solutions import load_coefficients

Array = npt.NDArray[np.float64]
FILES = ["f.npy", "few.npy", "few_targets.npy", "t.npy"]


@pytest.fixture
def run(run: Run) -> Run:
    """Run a command in a folder with four files; returns code, standard output and standard error."""
    features, targets = problem()
    np.save("f.npy", features)
    np.save("t.npy", targets)
    np.save("few.npy", features[:12])
    np.save("few_targets.npy", targets[:12])
    return run


def problem(m: int = 60, d: int = 20, r: int = 5) -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(m, d))
    return features, features @ (rng.normal(size=(d, r)) * (rng.random((d, r)) < 0.3)) + 0.1 * rng.normal(size=(m, r))


def written(folder: str = "out") -> tuple[list[Array], dict[str, Any], dict[str, Any]]:
    """Dense coefficients of every member, rows.json and run.json."""
    coefficients = [csr.toarray() for csr, _ in load_coefficients(Path(folder))]
    rows, manifest = (json.loads(Path(folder, name).read_text()) for name in ("rows.json", "run.json"))
    return coefficients, rows, manifest


@pytest.mark.slow
def test_the_lasso_of_scikit_learn(run: Run) -> None:
    code, out, err = run("solve", "f.npy", "t.npy", "--beta", 30, "--intercept", "--output", "out")
    assert (code, err) == (0, "")
    features, targets = problem()
    peer = Lasso(alpha=30 / (2 * len(features)), tol=1e-10, max_iter=100_000).fit(features, targets)
    ((csr, intercepts),) = load_coefficients(Path("out"))
    np.testing.assert_allclose(csr.toarray(), peer.coef_, atol=1e-6)
    np.testing.assert_allclose(intercepts, peer.intercept_, atol=1e-6)
    assert "5 rows × 20 columns, 60 samples; L1, no ball" in out
    assert "5 of 5" in out
    assert "processor time: gram" in out


@pytest.mark.usefixtures("rendered")
def test_everything_is_in_the_folder(run: Run) -> None:
    np.save("s.npy", np.arange(20) != 7)
    words = ("--beta", 5, "--kappa", 0.5, "--ball-columns", "0:8", "--support", "s.npy", "--weight", 2, "--tol", 1e-7)
    code, out, err = run("solve", "f.npy", "t.npy", *words, "--output", "deep/out", "--json")
    assert (code, err) == (0, "")
    names = {"coefficients.safetensors", "picture.png", "rows.json", "run.json"}
    assert {path.name for path in Path("deep/out").iterdir()} == names
    (w,), rows, manifest = written("deep/out")
    features, targets = problem()
    sol = sp.solve_rows(
        features,
        targets,
        penalty=sp.L1(5.0),
        weight=2.0,
        ball=sp.Ball(0.5, slice(0, 8)),
        support=np.arange(20) != 7,
        tol=1e-7,
    )
    np.testing.assert_allclose(w, sol.coefficients.toarray(), atol=1e-9)
    assert not w[:, 7].any()
    assert abs(w[:, :8]).sum(axis=1).max() <= 0.5
    np.testing.assert_allclose(rows["objective"], sol.objective, rtol=1e-9)
    assert rows["status"] == ["converged"] * 5
    assert rows["nnz"] == np.count_nonzero(w, axis=1).tolist()
    assert max(rows["relative_gap"]) <= 1e-7
    assert max(rows["multiplier"]) > 0
    assert rows["cardinality_gap"] == [None] * 5
    assert all(len(column) == 5 for column in rows.values())
    settings = manifest["settings"]
    assert (settings["features"], settings["support"]) == ("../../f.npy", "../../s.npy")
    assert (settings["beta"], settings["kappa"], settings["rounds"], settings["device"]) == (5.0, 0.5, 1, "cpu")
    for name, file in (("features", "f.npy"), ("targets", "t.npy"), ("support", "s.npy")):
        assert manifest["inputs"][name]["hash"] == "sha256:" + hashlib.sha256(Path(file).read_bytes()).hexdigest()
    assert manifest["versions"]["simplicit"] == sp.__version__
    assert manifest["command"][:2] == ["simplicit", "solve"]
    figures = json.loads(out)
    assert figures["folder"] == "deep/out"
    assert figures["members"] == manifest["results"]["members"]
    assert figures["members"][0]["non_zeros"] == np.count_nonzero(w)


@pytest.mark.parametrize(
    ("words", "penalty"),
    [
        (("--penalty", "l1"), sp.L1(1e-3)),
        (("--penalty", "elastic-net", "--beta", 9, "--alpha", 2), sp.ElasticNet(9.0, 2.0)),
        (("--penalty", "perspective", "--alpha", 4, "--gamma", 3), sp.Perspective(4.0, 3.0)),
        (("--penalty", "perspective", "--alpha", 4, "--gamma", 0), sp.Perspective(4.0, 0.0)),
        (("--penalty", "none"), sp.NoPenalty()),
    ],
)
def test_every_penalty(run: Run, words: tuple[object, ...], penalty: sp.L1) -> None:
    assert run("solve", "f.npy", "t.npy", *words, "--output", "out")[0] == 0
    (w,), rows, _ = written()
    sol = sp.solve_rows(*problem(), penalty=penalty)
    np.testing.assert_allclose(w, sol.coefficients.toarray(), atol=1e-7)
    if isinstance(penalty, sp.Perspective):
        np.testing.assert_allclose(rows["cardinality_gap"], sol.cardinality_gap, atol=1e-6)


def test_exact_matching(run: Run) -> None:
    words = ("--penalty", "basis-pursuit", "--output", "out")
    assert run("solve", "few.npy", "few_targets.npy", *words)[0] == 0
    (w,), rows, _ = written()
    features, targets = problem()
    np.testing.assert_allclose(features[:12] @ w.T, targets[:12], atol=1e-6)
    np.testing.assert_allclose(rows["objective"], abs(w).sum(axis=1), rtol=1e-6)
    assert np.count_nonzero(w, axis=1).max() <= 12


def test_rows_that_cannot_be_matched(run: Run) -> None:
    before = files()
    words = ("solve", "f.npy", "t.npy", "--penalty", "basis-pursuit", "--output", "out")
    one_line(run(*words), "5 of 5 rows", "row 0", "no coefficients match", "With --no-throw they are written, marked")
    assert files() == before
    code, out, err = run(*words, "--no-throw")
    assert (code, err) == (0, "")
    assert "0 of 5" in out
    assert "Not certified: rows 0, 1, 2, 3, 4 (infeasible): no coefficients match" in out
    _, rows, manifest = written()
    assert rows["status"] == ["infeasible"] * 5
    assert manifest["results"]["members"][0]["status"] == {"infeasible": 5}
    features, targets = problem()
    least = np.linalg.norm(targets - features @ np.linalg.lstsq(features, targets, rcond=None)[0], axis=0)
    np.testing.assert_allclose(rows["residual"], least, rtol=1e-6)


def test_rounds(run: Run) -> None:
    assert run("solve", "f.npy", "t.npy", "--beta", 30, "--rounds", 3, "--output", "out")[0] == 0
    (w,), _, manifest = written()
    sol = sp.solve_rows(*problem(), penalty=sp.L1(30.0), rounds=3)
    np.testing.assert_allclose(w, sol.coefficients.toarray(), atol=1e-9)
    rounds = manifest["results"]["members"][0]["rounds"]
    assert [each["non_zeros"] for each in rounds] == [s.coefficients.nnz for s in (*sol.earlier, sol)]


@pytest.mark.slow
@pytest.mark.parametrize("penalty", ["l1", "elastic-net", "perspective"])
def test_a_path_from_zero_to_dense(run: Run, penalty: str) -> None:
    words = ("--penalty", penalty, "--strengths", 5, "--smallest", 0.01, "--output", "out")
    code, out, _ = run("solve", "f.npy", "t.npy", *words)
    assert code == 0
    members, rows, manifest = written()
    figures = manifest["results"]["members"]
    assert len(members) == len(figures) == 5
    assert rows["member"] == np.repeat(np.arange(5), 5).tolist()
    assert rows["row"] == np.tile(np.arange(5), 5).tolist()
    assert set(rows["status"]) == {"converged"}
    assert not members[0].any()
    assert np.count_nonzero(members[-1]) > np.count_nonzero(members[1]) > 0
    name = "gamma" if penalty == "perspective" else "beta"
    strengths = [member[name] for member in figures]
    np.testing.assert_allclose(np.diff(np.log(strengths)), np.log(0.01) / 4, rtol=1e-9)
    if penalty == "l1":
        assert strengths[0] == pytest.approx(sp.beta_max(*problem()).max(), rel=1e-12)
    assert out.count("5 of 5") == 5


@pytest.mark.usefixtures("rendered")
def test_the_first_member_of_a_path_is_the_weakest_that_is_zero(run: Run) -> None:
    words = ("--penalty", "perspective", "--alpha", 2, "--gamma", 5)
    assert run("solve", "f.npy", "t.npy", *words, "--strengths", 2, "--smallest", 0.999, "--output", "out")[0] == 0
    first, second = written()[0]
    assert not first.any()
    assert second.any()


def test_the_reference_solver(run: Run) -> None:
    pytest.importorskip("cvxpy")
    words = ("few.npy", "few_targets.npy", "--beta", 3, "--kappa", 0.7)
    assert run("solve", *words, "--output", "ours")[0] == 0
    assert run("solve", *words, "--solver", "reference", "--output", "theirs")[0] == 0
    (ours, rows, _), (theirs, others, manifest) = written("ours"), written("theirs")
    np.testing.assert_allclose(rows["objective"], others["objective"], rtol=1e-6)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert {"cvxpy", "clarabel"} <= set(manifest["versions"])


def test_the_same_coefficients_whatever_runs_them(run: Run) -> None:
    words = ("solve", "few.npy", "few_targets.npy", "--beta", 1)
    assert run(*words, "--output", "a")[0] == 0
    assert run(*words, "--executor", "serial", "--output", "b")[0] == 0
    name = "coefficients.safetensors"
    assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


def test_lines_tell_how_far_it_is_where_there_is_no_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplicit.cli.console.FIRST_SECONDS", 0.0)
    words = ("--block-rows", 2, "--executor", "serial", "--output", "out")
    code, _, err = run("solve", "f.npy", "t.npy", "--beta", 5, *words)
    assert code == 0
    lines = list(dict.fromkeys(line for line in err.splitlines() if ";" not in line))
    assert lines[0] == "rows: 0 of 5"
    assert re.match(r"rows: 2 of 5, .* a second, .* left, worst gap ", lines[1])
    assert lines[-1].startswith("rows: 5 of 5, ")
    assert "rows: 0 of 5; Gram matrix: 0 of 1" in err


def test_float32_files(run: Run) -> None:
    for name in ("f.npy", "t.npy"):
        np.save(name, np.load(name).astype(np.float32))
    assert run("solve", "f.npy", "t.npy", "--beta", 3, "--output", "out")[0] == 0
    sol = sp.solve_rows(*problem(), penalty=sp.L1(3.0))
    np.testing.assert_allclose(written()[0][0], sol.coefficients.toarray(), atol=1e-5)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled"),))


def test_files_that_are_no_arrays(run: Run) -> None:
    Path("text.npy").write_text("0.1 0.2\n")
    Path("empty.npy").write_bytes(b"")
    Path("cut.npy").write_bytes(Path("f.npy").read_bytes()[:500])
    Path("header.npy").write_bytes(Path("f.npy").read_bytes()[:30])
    Path("folder.npy").mkdir()
    np.savez("many.npz", features=np.eye(3))
    np.save("objects.npy", np.array([[Evil()]], dtype=object), allow_pickle=True)
    before = files()
    for name, told in (
        ("none.npy", "none.npy: cannot be read"),
        ("folder.npy", "folder.npy: cannot be read"),
        ("text.npy", "text.npy: not a .npy file"),
        ("empty.npy", "empty.npy: not a .npy file"),
        ("many.npz", "many.npz: not a .npy file"),
        ("cut.npy", "cut.npy: damaged or truncated"),
        ("header.npy", "header.npy: damaged or truncated"),
        ("objects.npy", "objects.npy: holds Python objects"),
    ):
        one_line(run("solve", name, "t.npy"), told)
        one_line(run("solve", "f.npy", name), told)
        one_line(run("solve", "f.npy", "t.npy", "--support", name), told)
    assert files() == before


def test_arrays_that_do_not_fit(run: Run) -> None:
    features, targets = problem()
    hole = features.copy()
    hole[3, 4] = np.nan
    arrays = {
        "hole": hole,
        "short": features[:59],
        "flat": features[:, 0],
        "cube": features[None],
        "whole": features.astype(np.int64),
        "none": features[:0],
        "words": np.full((60, 2), "a"),
        "names": np.zeros(60, dtype=[("a", "f8")]),
    }
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    before = files()
    one_line(run("solve", "hole.npy", "t.npy"), "features hole.npy: holds nan at index (3, 4)")
    one_line(run("solve", "f.npy", "hole.npy"), "targets hole.npy: holds nan")
    one_line(run("solve", "short.npy", "t.npy"), "targets t.npy: shape (60, 5) does not fit features (59, 20)")
    one_line(run("solve", "flat.npy", "t.npy"), "features flat.npy: expected 2 dimensions, got shape (60,)")
    one_line(run("solve", "f.npy", "flat.npy"), "targets flat.npy: shape (60,) is one target")
    one_line(run("solve", "cube.npy", "t.npy"), "features cube.npy: expected 2 dimensions")
    one_line(run("solve", "whole.npy", "t.npy"), "features whole.npy: expected floats, got int64")
    one_line(run("solve", "none.npy", "t.npy"), "features none.npy: is empty, shape (0, 20)")
    one_line(run("solve", "words.npy", "t.npy"), "features words.npy must hold real numbers")
    one_line(run("solve", "names.npy", "t.npy"), "features names.npy must hold real numbers")
    one_line(run("solve", "f.npy", "t.npy", "--support", "f.npy"), "support f.npy: expected booleans")
    np.save("zero.npy", 0 * targets)
    one_line(run("solve", "f.npy", "zero.npy", "--strengths", 3), "every target is zero")
    assert files() == sorted([*before, "zero.npy"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--penalty", "lasso"), "--penalty: 'lasso' is unknown; choose one of 'l1'"),
        (("--alpha", 1), "--alpha is an option of the penalty elastic-net or perspective; add --penalty elastic-net"),
        (("--penalty", "none", "--beta", 1), "--beta is an option of the penalty l1 or elastic-net"),
        (("--penalty", "elastic-net", "--gamma", 1), "--gamma is an option of the penalty perspective"),
        (("--beta", -1), "beta must be finite and >= 0"),
        (("--beta", "nan"), "beta must be finite"),
        (("--penalty", "perspective", "--alpha", 0), "alpha must be finite and > 0"),
        (("--weight", 0), "--weight must be finite and > 0"),
        (("--kappa", 0), "Error: --kappa must be positive and finite, got 0"),
        (("--ball-columns", "0:5"), "--ball-columns: there is no ball without kappa"),
        (("--kappa", 1, "--ball-columns", "5:5"), "expected START:STOP"),
        (("--kappa", 1, "--ball-columns", "-3:5"), "expected START:STOP"),
        (("--kappa", 1, "--ball-columns", "all"), "expected START:STOP"),
        (("--kappa", 1, "--ball-columns", "5:21"), "goes beyond the 20 columns"),
        (("--kappa", 1, "--ball-columns", "20:"), "goes beyond the 20 columns"),
        (("--tol", 0), "--tol"),
        (("--tol", 1), "--tol"),
        (("--rounds", 0), "--rounds must be"),
        (("--strengths", 1), "--strengths must be"),
        (("--smallest", 0.1), "--smallest: belongs to a path"),
        (("--strengths", 3, "--smallest", 1), "--smallest: must lie between 0 and 1"),
        (("--strengths", 3, "--beta", 1), "leave beta out"),
        (("--strengths", 3, "--rounds", 2), "--rounds: a path has no"),
        (("--strengths", 3, "--solver", "reference"), "--solver: a path"),
        (("--strengths", 3, "--penalty", "none"), "--strengths: NoPenalty() makes no row zero"),
        (("--strengths", 3, "--penalty", "basis-pursuit"), "--strengths: BasisPursuit() makes no"),
        (("--strengths", 3, "--penalty", "perspective", "--gamma", 0), "--strengths: Perspective("),
        (("--workers", 0), "--workers"),
        (("--executor", "moon"), "--executor"),
        (("--device", "abacus"), "--device"),
        (("--no-such-option",), "--no-such-option"),
    ],
)
def test_bad_options(run: Run, options: tuple[object, ...], told: str) -> None:
    one_line(run("solve", "f.npy", "t.npy", *options), told)
    assert files() == FILES


def test_nothing_is_overwritten_by_accident(run: Run) -> None:
    words = ("solve", "f.npy", "t.npy", "--beta", 3, "--output", "out")
    assert run(*words)[0] == 0
    one_line(run(*words), "output out: exists already")
    before = Path("out", "run.json").read_bytes()
    assert run(*words[:4], 9, *words[5:], "--overwrite")[0] == 0
    assert Path("out", "run.json").read_bytes() != before
    Path("mine").mkdir()
    Path("mine", "thesis.txt").write_text("")
    one_line(run(*words[:-1], "mine", "--overwrite"), "not the folder of an earlier run")
    Path("in").mkdir()
    Path("f.npy").rename("out/f.npy")
    one_line(run("solve", "out/f.npy", *words[2:], "--overwrite"), "which this run reads")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError("the disc is full")])
@pytest.mark.parametrize("place", ["rowfiles.solve_rows", "solutions.write_json"])
def test_nothing_half_written_remains(
    run: Run, monkeypatch: pytest.MonkeyPatch, failure: BaseException, place: str
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise failure

    words = ("solve", "f.npy", "t.npy", "--beta", 3, "--output", "deep/out")
    with monkeypatch.context() as patch:
        patch.setattr(f"simplicit.runs.{place}", broken)
        code, out, err = run(*words)
    assert code == (130 if failure is KeyboardInterrupt else 2)
    assert out == ""
    assert err.count("\n") == 1
    assert files() == FILES
    assert run(*words)[0] == 0


def test_without_matplotlib(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, out, _ = run("solve", "f.npy", "t.npy", "--beta", 3, "--output", "out")
    assert code == 0
    assert "no picture: pip install 'simplicit[report]'" in out
    assert not Path("out/picture.png").exists()


def test_without_cvxpy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    one_line(run("solve", "f.npy", "t.npy", "--solver", "reference"), "pip install 'simplicit[cvxpy]'")
    assert files() == FILES


def test_damaged_coefficients(run: Run) -> None:
    assert run("solve", "f.npy", "t.npy", "--beta", 3, "--output", "out")[0] == 0
    path = Path("out", "coefficients.safetensors")
    content = path.read_bytes()
    for broken in (content[:-9], content[:20], b""):
        path.write_bytes(broken)
        with pytest.raises(sp.errors.DataError, match="damaged or truncated"):
            load_coefficients(Path("out"))
    path.unlink()
    with pytest.raises(sp.errors.DataError, match="cannot be read"):
        load_coefficients(Path("out"))
