"""What `import simplicit` gives: its names, what they show of themselves, and what it loads."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import simplicit as sp

SOURCE = Path(sp.__file__).parent


def test_the_public_names_are_those_that_are_handed_on() -> None:
    imports = ast.parse((SOURCE / "_names.py").read_text(encoding="utf-8")).body
    homes = {
        alias.asname: node.module
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("simplicit")
        for alias in node.names
    }
    assert set(homes) == set(sp.__all__)
    for name, home in homes.items():
        assert getattr(sp, name) is getattr(importlib.import_module(home or ""), name or "")


def test_dir_has_the_public_names_alone() -> None:
    assert set(dir(sp)) == {*sp.__all__, "__version__"}


def test_modules_are_loaded_by_their_names_and_others_refused() -> None:
    assert sp.rows.L1 is sp.L1
    for name in ("nothing", "_nothing", "fits"):
        with pytest.raises(AttributeError, match=f"module 'simplicit' has no attribute '{name}'"):
            getattr(sp, name)
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from simplicit import nothing")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["journal", "--help"], ["fitt"]])
def test_what_names_no_command_loads_no_torch(words: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['simplicit']\n"
        "import simplicit; from simplicit.cli import main\n"
        f"main({words!r})\n"
        "print(sorted({'torch', 'numpy', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("program", "command"),
    [("simplicit", True), ("bin/simplicit.exe", True), ("-m", True), ("train.py", False), ("-c", False), ("", False)],
)
def test_only_the_command_line_is_loaded_without_torch(
    monkeypatch: pytest.MonkeyPatch, program: str, command: bool
) -> None:
    """Elsewhere the first call would pay for the import of torch."""
    monkeypatch.setattr(sys, "argv", [program])
    assert sp._is_command() is command


def large() -> dict[str, object]:
    """A public object of each kind, large enough that its arrays would fill a screen."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(layer for _ in range(5) for layer in (torch.nn.Linear(20, 20), torch.nn.ReLU())), torch.nn.Linear(20, 10)
    ).eval()
    inputs, features, targets = torch.rand(100, 20), rng.normal(size=(60, 30)), rng.normal(size=(60, 100))
    labels, per_row = net(inputs).argmax(1), np.linspace(0.1, 1, 100)
    model, result = sp.from_torch(net, inputs), sp.fit(net, inputs, sp.Sparse(50))
    radii = [0.01 * step for step in range(1, 9)]
    return {
        "model": model,
        "FitResult": result,
        "RowFigures": result.rows,
        "graph": result.graph,
        "student": result.student,
        "States": sp.extract_states(net, inputs),
        "Equilibrium": sp.equilibrium(model, inputs),
        "AttackResult": sp.attack(model, inputs[:9], labels[:9], radii, attacks="fgsm", steps=1, restarts=1),
        "Certificates": sp.certify(model, inputs[:9], labels[:9], radii, method="interval"),
        "Solution": sp.solve_rows(features, targets, penalty=sp.L1(per_row)),
        "Gram": sp.Gram.from_batches([(features, targets)]),
        "L1": sp.L1(per_row),
        "ElasticNet": sp.ElasticNet(per_row, per_row),
        "Perspective": sp.Perspective(per_row, per_row),
        "Ball": sp.Ball(per_row, np.arange(20) > 3),
        "KeptZeros": sp.keep_zeros(result.network()),
        "Certified": sp.Certified(),
        "Matching": sp.Matching(sp.L1(per_row)),
        "Sparse": sp.Sparse(90, candidates=sp.L1(per_row), layers={"0": None, "2": 60}),
        "Processes": sp.Processes(workers=2),
    }


def test_representations_are_short_and_say_what_matters(tmp_path: Path) -> None:
    shown = {name: repr(thing) for name, thing in large().items()}
    net = torch.nn.Linear(30, 40)
    shown["SavedWeights"] = repr(sp.save(net, tmp_path / "weights"))
    assert max(map(len, shown.values())) < 300 + len(str(tmp_path)), shown
    assert not [name for name, text in shown.items() if "\n" in text or "array([" in text or "tensor(" in text]
    counts = r"1\d{3} of 2200 weights, 5\d\.\d\d % sparse, 110 of 110 rows certified"
    assert re.fullmatch(rf"FitResult\(Sparse on 100 samples, {counts}\)", shown["FitResult"])
    assert shown["RowFigures"].startswith("RowFigures(110 rows of 6 layers, 110 converged, ")
    assert shown["States"] == "States(U (100, 20), Z (100, 100), X (100, 100), Y (100, 10), float32, 5 groups)"
    assert shown["Equilibrium"].startswith("Equilibrium((100, 100), substitution, 0 iterations, error at most ")
    assert shown["L1"] == "L1(beta=<array of shape (100,)>)"
    assert shown["Ball"] == "Ball(radius=<array of shape (100,)>, columns=<array of shape (20,)>)"
    radii = ".* % at 0.01, .* % at 0.02, .* at 0.03, …, .* at 0.08"
    assert re.fullmatch(rf"AttackResult\(9 samples, 100.0 % right, under attack {radii}; fgsm\)", shown["AttackResult"])
    assert "% at 0.03, …, " in shown["Certificates"]
    assert "1 more]" in shown["model"]
