"""One fit as an experiment: what it is told of the data, and how far it says it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import simplicit as sp
from simplicit.errors import DataError
from simplicit.runs.fitting import run_fit, weights_of
from simplicit.runs.folder import Manifest
from simplicit.runs.settings import FitSettings, Source
from simplicit.runs.task import open_task


def test_a_robust_fit_takes_the_range_of_the_data(base: Path) -> None:
    settings = FitSettings(Source(base), samples=40, recipe=sp.Robust(attacks=0))
    run = run_fit(settings, open_task(settings.source))
    assert isinstance(run.result.recipe, sp.Robust)
    assert (run.settings.recipe, run.result.recipe.clip) == (settings.recipe, (0.0, 1.0))


def test_progress_of_a_search_names_the_trial(base: Path) -> None:
    settings = FitSettings(Source(base), samples=40, recipe=sp.Matching(sparsity=60))
    stages: list[str] = []
    run = run_fit(settings, open_task(settings.source), progress=lambda state: stages.append(state.chain[0].stage))
    assert run.result.trials > 1
    trials = list(dict.fromkeys(stage for stage in stages if "trial" in stage))
    assert trials == [f"strength, trial {number}" for number in range(1, run.result.trials + 1)]


def test_counts_of_a_damaged_run(tmp_path: Path) -> None:
    Manifest("fit", results={"non_zeros": 3, "baseline_weights": True}).write(tmp_path)
    with pytest.raises(DataError, match=r"run\.json: damaged, its results have no number of 'baseline_weights'"):
        weights_of(tmp_path)
