"""What all tests share: seeds, and the folder of real data."""

from __future__ import annotations

import gc
import io
import math
import os
import random
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from command_line import Run, invoker, unrendered
from simplicit.cli import main
from simplicit.data import Dataset, load_dataset
from simplicit.runs.mlp import MlpSettings, train_mlp

settings.register_profile("simplicit", deadline=None, derandomize=True, max_examples=50, print_blob=True)
settings.load_profile("simplicit")


def pytest_collection_finish() -> None:
    """What is there by now stays, thousands of modules: the garbage collector need not look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries that use the global generator
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands tell how far they are only where a test asks for it, however slow the machine is."""
    monkeypatch.setattr("simplicit.cli.console.FIRST_SECONDS", math.inf)


@pytest.fixture
def rendered() -> None:
    """For tests whose commands draw their pictures to the last pixel, which takes longer than all else they do."""


@pytest.fixture
def run(
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Run a command in an empty folder of its own; returns code, standard output and standard error.

    Its pictures are composed, but not rendered, where the test does not ask for `rendered`.
    """
    if "rendered" not in request.fixturenames:
        unrendered(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMPLICIT_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return invoker(capsys)


#: The fits that tests share: recipes, with options.
FITS: dict[str, tuple[str, ...]] = {
    "sparse": ("--sparsity", "50"),
    "robust": ("--hidden-strength", "0.3"),
    "certified": ("--attacks", "0"),
    "matching": ("--beta", "1e-3"),
    "paper": (),
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small baseline on digits, 64-12-8-10 without biases; for reading only."""
    folder = tmp_path_factory.mktemp("runs") / "base"
    words = ["baseline", "--arch", "12-8", "--no-bias", "--epochs", "10", "--batch-size", "64"]
    assert main([*words, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def fitted(base: Path) -> Callable[[str], Path]:
    """The folder of a finished fit of `base` on 100 samples, by recipe; for reading only."""

    @cache
    def made(recipe: str) -> Path:
        folder = base.with_name(recipe)
        words = ["fit", str(base), "--samples", "100", "--recipe", recipe, *FITS[recipe]]
        with redirect_stdout(io.StringIO()):
            assert main([*words, "--output", str(folder)]) == 0
        return folder

    return made


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SIMPLICIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set SIMPLICIT_DATA")
    return folder


@pytest.fixture(scope="session")
def fashion(data_dir: Path) -> Dataset:
    """Fashion-MNIST from the folder of real data."""
    return load_dataset("fashion-mnist", data_dir)


@pytest.fixture(scope="session")
def fashion_net(fashion: Dataset) -> torch.nn.Sequential:
    """The bias-free 784-64-32-16-10 network of the paper, trained here (some seconds)."""
    return train_mlp(fashion, MlpSettings(arch=(64, 32, 16), bias=False))
