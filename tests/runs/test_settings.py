"""Settings survive the way through run.json and TOML, and nonsense does not."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from simplicit.errors import DataError, InputError
from simplicit.executors import Processes
from simplicit.rows import Perspective
from simplicit.runs.folder import Manifest
from simplicit.runs.options import build, flat, read_values
from simplicit.runs.running import Running
from simplicit.runs.settings import (
    FitSettings,
    Source,
    kept_of,
    parse_shape,
    read_settings,
    read_source,
    recorded_inputs,
)
from simplicit.training import RECIPES, Matching, Ridge, Robust, Sparse

BASE = Source(Path("base"))


def written(folder: Path, settings: FitSettings | dict[str, Any]) -> Path:
    """The folder of a finished fit, of which there is nothing but ``run.json``."""
    folder.mkdir(parents=True)
    values = settings.to_config(folder) if isinstance(settings, FitSettings) else settings
    Manifest("fit", settings=values).write(folder)
    return folder


def test_round_trip_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = Source(Path("base"), input_shape=(1, 8, 8), data="arrays", data_dir=Path("files"))
    run = written(tmp_path / "runs" / "fit", FitSettings(source, recipe=Sparse(65.0)))
    recorded = json.loads((run / "run.json").read_text())["settings"]
    assert (recorded["baseline"], recorded["input_shape"]) == ("../../base", "1x8x8")
    monkeypatch.chdir("/")
    again = build(FitSettings, read_settings(run))
    assert again.source.baseline == tmp_path / "base"
    assert again.source.data == str(tmp_path / "arrays")
    assert (again.source.input_shape, again.recipe) == ((1, 8, 8), Sparse(65.0))


def test_named_data_is_no_path(tmp_path: Path) -> None:
    settings = FitSettings(Source(Path("base"), data="digits"))
    assert settings.to_config(tmp_path)["data"] == "digits"
    assert settings.source.paths == [Path("base")]
    assert Source(None, "a:b", Path("w.pt"), data="mine").paths == [Path("w.pt"), Path("mine")]


RUNNING = Running(1e-8, False, Processes(workers=3, block_timeout=9.0), block_rows=7)


@pytest.mark.parametrize(
    "recipe",
    [
        *RECIPES.values(),
        Sparse(None, ridge=0.5, candidates=Perspective(2.0, 3.0)),
        Robust(hidden_strength=(1.0, 3.0), clip=(-1.0, 1.0), sparsity=50),
        Matching(Perspective(2.0, 3.0), states=("relu", "layer1.relu"), structure="dense", refit=Ridge(0.25, 0.5)),
        Matching(refit=Ridge(), kappa=0.5, propagate=True, rounds=3),
    ],
)
def test_every_recipe_comes_back(tmp_path: Path, recipe: Any) -> None:
    settings = FitSettings(BASE, samples=50, seed=7, recipe=recipe, running=RUNNING)
    again = build(FitSettings, read_settings(written(tmp_path / "f", settings)))
    assert type(again.recipe) is type(recipe)
    assert flat(again) | {"baseline": "base"} == flat(settings)


def test_a_recipe_is_recorded_by_its_name_as_long_as_it_has_its_settings() -> None:
    for name, recipe in RECIPES.items():
        assert flat(FitSettings(BASE, recipe=build(recipe, {})))["recipe"] == name
    assert flat(FitSettings(BASE, recipe=build(RECIPES["paper"], {"lambda1": 3.0})))["recipe"] == "matching"


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "fit.toml"
    path.write_text('baseline = "base"\nrecipe = "matching"\nsparsity = 80\nkappa = 0.5\nregenerate = false\n')
    recipe = build(FitSettings, read_settings(path)).recipe
    assert (recipe.sparsity, recipe.kappa, recipe.regenerate) == (80.0, 0.5, False)
    assert read_settings(path)["baseline"] == tmp_path / "base"
    assert recorded_inputs(path) == {}
    path.write_text("baseline = ")
    with pytest.raises(DataError, match="not a TOML document"):
        read_settings(path)


def test_what_a_file_does_not_say_is_the_default(tmp_path: Path) -> None:
    values = FitSettings(BASE, recipe=Matching(rounds=3), running=RUNNING).to_config(tmp_path)
    for name in ("penalty", "beta", "rounds", "throw", "kappa"):
        del values[name]
    again = build(FitSettings, read_settings(written(tmp_path / "f", values)))
    assert flat(again.recipe) == flat(Matching())
    assert again.running.throw


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"depth": 3}, "unknown setting 'depth'"),
        ({"alpha": 3}, "unknown setting 'alpha'"),  # of another penalty
        ({"trust_pt2": True}, "unknown setting 'trust_pt2'"),
        ({"samples": "many"}, "samples must be an integer or null, got 'many'"),
        ({"samples": True}, "samples must be an integer or null, got True"),
        ({"seed": None}, "seed must be an integer, got None"),
        ({"regenerate": 1}, "regenerate must be true or false, got 1"),
        ({"input_shape": [1, "x"]}, "input_shape must be a text or null"),
        ({"input_shape": "1,8,8"}, "input_shape: expected positive sizes joined by x"),
        ({"recipe": "fast"}, "recipe: 'fast' is unknown; choose one of 'sparse'"),
        ({"penalty": "lasso"}, "penalty: 'lasso' is unknown; choose one of 'l1', 'elastic-net'"),
    ],
)
def test_nonsense_in_a_file_names_the_file(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    folder = written(tmp_path / "f", {"baseline": "base", "recipe": "matching"} | values)
    with pytest.raises(DataError, match=rf"run\.json: {told}|f: {told}"):
        read_settings(folder)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"samples": 0}, "samples must be an integer of at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer in"),
        ({"model": "a:b"}, "name one network"),
        ({"baseline": None}, "name one network"),
        ({"baseline": None, "model": "a:b"}, "needs --data"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        build(FitSettings, {"baseline": Path("base")} | values)


def test_shapes() -> None:
    assert parse_shape("1x28x28") == (1, 28, 28)
    for text in ("", "8,8", "0x3", "-1x3", "3x"):
        with pytest.raises(InputError, match="expected positive sizes"):
            parse_shape(text)


def test_overrides_of_a_finished_fit(tmp_path: Path) -> None:
    run = written(tmp_path / "f", FitSettings(Source(model="a:b", weights=Path("w.pt"), data="digits")))
    source = read_source(run, baseline=Path("other"), data="fashion-mnist", data_dir=Path("files"))
    assert (source.baseline, source.model, source.weights) == (Path("other"), None, None)
    assert (source.data, source.data_dir) == ("fashion-mnist", Path("files"))


# --- settings of an earlier run, and others ---------------------------------------------------------------------------

#: Recipes with no setting left as it is by default.
CHANGED = {
    "sparse": Sparse(60, "dense", 0.5, 0.25, Perspective(2.0, 3.0)),
    "robust": Robust(0.5, 60, "feedforward", 3.0, 7, 0.01, (0.0, 2.0), 5.0, 6.0),
    "matching": Matching(
        Perspective(2.0, 3.0), 60, "feedforward", "blocks", 0.5, 3.0, 4.0, "both", 2, True, False, Ridge(0.5, 0.25)
    ),
}


def merged(settings: FitSettings, given: dict[str, Any]) -> FitSettings:
    """Recorded settings with others given."""
    recorded = read_values(FitSettings, flat(settings))
    found: FitSettings = build(FitSettings, kept_of(recorded, given) | given)
    return found


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in CHANGED for b in RECIPES if a != b])
def test_another_recipe_replaces_the_recorded_one_as_a_whole(first: str, second: str) -> None:
    settings = FitSettings(BASE, samples=50, recipe=CHANGED[first], running=RUNNING)
    found = merged(settings, {"recipe": second})
    assert flat(found.recipe) == flat(RECIPES[second])
    assert (found.samples, flat(found.running)) == (50, flat(RUNNING))
    kept = merged(settings, {"recipe": first})
    assert flat(kept.recipe) == flat(CHANGED[first])


def test_every_pair_of_recipes() -> None:
    for first, second in permutations(RECIPES, 2):
        found = merged(FitSettings(BASE, recipe=RECIPES[first]), {"recipe": second})
        assert flat(found.recipe) == flat(RECIPES[second])


def test_another_penalty_starts_from_its_own_numbers() -> None:
    settings = FitSettings(BASE, recipe=Matching(Perspective(2.0, 3.0), rounds=2))
    other = merged(settings, {"penalty": "elastic-net", "beta": 5.0}).recipe
    assert (other.penalty.beta, other.penalty.alpha, other.rounds) == (5.0, 1e-3, 2)
    assert merged(settings, {"penalty": "perspective", "gamma": 5.0}).recipe.penalty.alpha == 2.0


def test_another_executor_starts_from_its_own_settings() -> None:
    settings = FitSettings(BASE, running=RUNNING)
    assert merged(settings, {"executor": "threads"}).running.executor.workers is None
    assert merged(settings, {"workers": 5}).running.executor.block_timeout == 9.0


def test_another_network_replaces_all_that_is_said_of_the_recorded_one() -> None:
    recorded = {"model": "a:b", "weights": Path("w.pt"), "input_shape": (1, 8, 8), "data": "digits", "samples": 50}
    kept = kept_of(recorded, {"baseline": Path("b")})
    assert kept == {"data": "digits", "samples": 50}
    assert build(FitSettings, kept | {"baseline": Path("b")}).source == Source(Path("b"), data="digits")
    assert kept_of(recorded, {"data": "cifar-10"}) == recorded


def test_a_setting_of_what_was_off_switches_it_on() -> None:
    assert merged(FitSettings(BASE, recipe=Matching()), {"ridge": 0.5}).recipe.refit == Ridge(0.5)
    found = merged(FitSettings(BASE, recipe=Matching(refit=Ridge(0.5))), {"refit": False})
    assert found.recipe.refit is None


def test_texts_and_data_stand_for_each_other() -> None:
    texts = {"hf": Path("net"), "texts": Path("t.txt"), "labels": Path("l.txt"), "length": 9, "samples": 50}
    assert kept_of(texts, {"data": "digits"}) == {"hf": Path("net"), "samples": 50}
    assert kept_of(texts, {"baseline": Path("b")}) == {"samples": 50}
    assert kept_of(texts, {"hf": Path("other")}) == {name: texts[name] for name in texts if name != "hf"}
    assert kept_of(texts, {"texts": Path("u.txt")}) == {"hf": Path("net"), "samples": 50}
    assert kept_of({"model": "a:b", "data": "digits"}, {"hf": Path("net"), "texts": Path("t.txt")}) == {}
    source = build(FitSettings, texts).source
    assert source.paths == [Path("net"), Path("t.txt"), Path("l.txt")]
