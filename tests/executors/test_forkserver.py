"""Where workers come from: whatever lies in the working folder, they import what this process has imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
import numpy as np
import simplicit as sp

sys.path[:0] = {before}
rng = np.random.default_rng(0)
features, targets = rng.normal(size=(30, 20)), rng.normal(size=(30, 3))
solutions = [
    sp.solve_rows(features, targets, penalty=sp.L1(2.0), executor=executor)
    for executor in ("serial", sp.Processes(workers=1))
]
one, other = (solution.coefficients.toarray() for solution in solutions)
print((one == other).all())
"""


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("[]", marks=pytest.mark.slow, id="elsewhere"),
        pytest.param("['']", id="interactive"),
        pytest.param("[os.getcwd()]", marks=pytest.mark.slow, id="a script here"),
    ],
)
def test_the_working_folder_shadows_nothing(tmp_path: Path, before: str) -> None:
    folder, script = tmp_path / "folder", tmp_path / "script" / "main.py"
    for path in (folder, script.parent):
        path.mkdir()
    script.write_text(SCRIPT.format(before=before))
    for name in ("signal", "select", "operator", "types", "socket", "queue", "numpy", "torch", "simplicit"):
        (folder / f"{name}.py").write_text("open('was-run', 'w').close()\nraise SystemExit(9)\n")
    ran = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True)
    assert ran.stdout == "True\n", ran.stderr
    assert not (folder / "was-run").exists()
