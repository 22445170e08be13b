"""Finished runs that are opened together: what they share, and what is told where they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from command_line import manifest
from simplicit.data import load_dataset
from simplicit.errors import DataError, InputError
from simplicit.runs.baseline import make_baseline, save_baseline
from simplicit.runs.mlp import MlpSettings
from simplicit.runs.subjects import BASELINE, choose_samples, open_subjects


def test_the_baseline_first(base: Path, fitted: Any) -> None:
    runs = [fitted("sparse"), fitted("matching")]
    subjects = open_subjects(runs)
    assert [member.name for member in subjects.members] == [BASELINE, *map(str, runs)]
    assert subjects.baseline.sparsity == 0
    assert subjects.members[1].sparsity == pytest.approx(50, abs=0.2)
    assert set(subjects.inputs["models"]) == set(map(str, runs))
    assert [member.name for member in open_subjects([base]).members] == [BASELINE]


def another(base: Path, fit: Path, folder: Path) -> Path:
    """A fit that says it is of another baseline."""
    shutil.copytree(base, folder / "base")
    shutil.copytree(fit, folder / "fit")
    path = folder / "base" / "weights.safetensors"
    save_file({name: value * np.float32(1.5) for name, value in load_file(path).items()}, path)
    changed = manifest(folder / "fit") | {"inputs": {}}
    (folder / "fit" / "run.json").write_text(json.dumps(changed))
    return folder / "fit"


def test_runs_that_do_not_belong_together(base: Path, fitted: Any, tmp_path: Path) -> None:
    run = fitted("sparse")
    with pytest.raises(InputError, match="name at least one folder"):
        open_subjects([])
    with pytest.raises(DataError, match="no such folder"):
        open_subjects([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="named twice"):
        open_subjects([run, run])
    with pytest.raises(InputError, match=r"fit: of another baseline than .*sparse; .*--baseline"):
        open_subjects([run, another(base, run, tmp_path)])


def test_a_baseline_of_other_data(fitted: Any, tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).random((40, 5)).astype(np.float32)
    np.savez(tmp_path / "two.npz", inputs=inputs, labels=np.arange(40) % 2)
    small = make_baseline(load_dataset(tmp_path / "two.npz"), MlpSettings(arch=(3,), epochs=1))
    save_baseline(small, tmp_path / "small")
    with pytest.raises(InputError, match=r"has 64 inputs and 10 outputs, a sample of .* 5 values, of 2 classes"):
        open_subjects([fitted("sparse")], baseline=tmp_path / "small")


def test_a_damaged_model(base: Path, fitted: Any, tmp_path: Path) -> None:
    shutil.copytree(fitted("sparse"), tmp_path / "broken")
    path = tmp_path / "broken" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        open_subjects([tmp_path / "broken"], baseline=base)


def test_samples() -> None:
    data = load_dataset("digits")
    assert len(choose_samples(data, None, 0).labels) == 360
    samples = choose_samples(data, 30, 5)
    assert samples.places.tolist() == sorted(set(samples.places.tolist()))
    np.testing.assert_array_equal(samples.inputs, data.test_inputs[samples.places])
    for count in (0, 361):
        with pytest.raises(InputError, match="samples must be between 1 and the 360 test samples of digits"):
            choose_samples(data, count, 0)
