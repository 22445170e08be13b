"""Round trips bit for bit, atomic writing, and every kind of damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.testing import assert_array_equal

from simplicit.errors import DataError, InputError
from simplicit.implicit import (
    Activation,
    Block,
    CsrMap,
    GatherMap,
    ImplicitModel,
    StateGroup,
    load,
    save,
    storage,
)
from simplicit.implicit.groups.program import Step, Value
from simplicit.implicit.maps import files as mapfiles


def make(dtype: type = np.float64, seed: int = 0) -> ImplicitModel:
    rng = np.random.default_rng(seed)
    groups = [StateGroup("tänh/1", 3, Activation("tanh")), StateGroup("b", 4, Activation.of("elu", alpha=0.3))]
    blocks = {
        ("b", "input"): CsrMap(rng.normal(size=(4, 300)).astype(dtype)),
        ("b", "b"): CsrMap((0.1 * np.eye(4)).astype(dtype)),
        ("tänh/1", "b"): CsrMap(rng.normal(size=(3, 4)).astype(dtype)),
        ("output", "tänh/1"): CsrMap(rng.normal(size=(2, 3)).astype(dtype)),
    }
    biases = {"state_bias": rng.normal(size=7), "output_bias": rng.normal(size=2)}
    return ImplicitModel(groups, blocks, n_inputs=300, n_outputs=2, input_shape=(3, 100), output_shape=(1, 2), **biases)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_exact(dtype: type, tmp_path: Path) -> None:
    model = make(dtype)
    save(model, tmp_path / "model")
    again = load(str(tmp_path / "model"))
    assert again.groups == model.groups
    assert again.dtype == model.dtype
    assert (again.input_shape, again.output_shape) == ((3, 100), (1, 2))
    assert list(again.blocks) == list(model.blocks)
    for ours, theirs in zip("ABCD", "ABCD", strict=True):
        first, second = getattr(model, ours), getattr(again, theirs)
        assert_array_equal(first.toarray(), second.toarray())
        assert first.dtype == second.dtype == dtype
    assert_array_equal(again.state_bias, model.state_bias)
    assert_array_equal(again.output_bias, model.output_bias)
    U = np.random.default_rng(1).normal(size=(4, 300))
    assert_array_equal(again.predict(U), model.predict(U))


def test_a_model_without_states_or_blocks(tmp_path: Path) -> None:
    save(ImplicitModel([], {}, n_inputs=2, n_outputs=1, output_bias=np.array([0.5], np.float32)), tmp_path / "empty")
    assert load(tmp_path / "empty").predict(np.ones((1, 2))) == np.float32(0.5)
    assert load(tmp_path / "empty").dtype == np.float32


def test_indices_are_as_narrow_as_they_can_be(tmp_path: Path) -> None:
    save(make(), tmp_path / "model")
    arrays = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    blocks = json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))["blocks"]
    wide = blocks.index(["b", "input"])
    assert arrays[f"block.{wide}.indices"].dtype == np.uint16  # 300 columns
    assert arrays[f"block.{wide}.indptr"].dtype == np.uint16  # 1200 entries
    assert arrays[f"block.{blocks.index(['tänh/1', 'b'])}.indices"].dtype == np.uint8


def test_an_existing_folder_is_refused_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    first, second, folder = make(seed=0), make(seed=1), tmp_path / "model"
    save(first, folder)
    with pytest.raises(DataError, match=r"model exists; choose another folder or pass overwrite=True"):
        save(second, folder)
    assert_array_equal(load(folder).B.data, first.B.data)
    save(second, folder, overwrite=True)
    assert_array_equal(load(folder).B.data, second.B.data)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_not_a_model_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="file is not a folder"):
        save(make(), tmp_path / "file", overwrite=True)
    with pytest.raises(DataError, match=r"holds more than a model \(thesis.tex\)"):
        save(make(), tmp_path / "folder", overwrite=True)
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["write_bytes", "write_text", "publish"])
def test_an_interrupted_save_leaves_nothing_behind(
    step: str, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    if overwrite:
        save(make(), folder)
    method = ("rename" if overwrite else "replace") if step == "publish" else step
    original = getattr(Path, method)

    def fail(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if step == "publish" and (not path.name.startswith(".model") or path.name.endswith(".old")):
            return original(path, *arguments, **keywords)
        if step != "publish":
            original(path, arguments[0][:10], **keywords)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, fail)
        with pytest.raises(DataError, match=r"model: cannot be written \(No space left on device\)"):
            save(make(seed=1), folder, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if overwrite else [])
    if overwrite:
        assert_array_equal(load(folder).B.data, make().B.data)


def test_what_cannot_be_written_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="model: cannot be written"):
        save(make(), tmp_path / "file" / "model")


def write(folder: Path, config: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """A folder whose checksum is right, whatever else is wrong with it."""
    payload = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    (folder / "model.safetensors").write_bytes(payload)
    rest = {key: value for key, value in config.items() if key != "sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")
    text = json.dumps(rest | {"sha256": hashlib.sha256(canonical + payload).hexdigest()})
    (folder / "config.json").write_text(text, encoding="utf-8")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]]:
    folder = tmp_path / "model"
    save(make(), folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return folder, config, safetensors.numpy.load_file(folder / "model.safetensors")


Arrays = dict[str, np.ndarray]


def put(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], None]:
    def apply(arrays: Arrays) -> None:
        arrays[name] = change(arrays[name].copy())

    return apply


def entry(place: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda arrays: arrays.pop("state_bias"), "lacks the array 'state_bias'"),
        (lambda arrays: arrays.pop("block.1.indptr"), "lacks the array 'block.1.indptr'"),
        (lambda arrays: arrays.update(extra=np.zeros(1)), "holds the array 'extra'"),
        (put("block.0.values", lambda a: a.astype(np.float32)), "has dtype float32, config.json says float64"),
        (put("output_bias", lambda a: a.astype(np.int64)), "'output_bias' has dtype int64"),
        (put("block.0.indices", lambda a: a.astype(np.float64)), "has dtype float64, expected unsigned integers"),
        (put("block.0.indices", lambda a: a.astype(np.int32)), "has dtype int32, expected unsigned integers"),
        (put("block.0.indices", entry(3, 200)), "'block.0.indices' goes to 200, but there are 4 columns"),
        (put("block.0.indices", entry(1, 0)), "'block.0.indices' does not rise within a row"),
        (put("block.0.indices", lambda a: a[:-1]), r"has shape \(11,\), expected \(12,\)"),
        (put("block.0.indptr", entry(1, 11)), "'block.0.indptr' does not rise from 0 to 12"),
        (put("block.0.indptr", entry(0, 1)), "'block.0.indptr' does not rise"),
        (put("block.0.indptr", entry(-1, 11)), "'block.0.indptr' does not rise"),
        (put("block.0.indptr", lambda a: a[:-1]), r"has shape \(3,\), expected \(4,\)"),
        (put("block.0.indices", lambda a: np.full(12, 2**64 - 1, np.uint64)), "'block.0.indices' goes to"),
        (put("block.0.values", entry(2, np.nan)), "'block.0.values' holds NaN or infinite values"),
        (put("state_bias", entry(2, np.inf)), "'state_bias' holds NaN or infinite values"),
        (put("state_bias", lambda a: a[:-1]), r"'state_bias' has shape \(6,\), expected \(7,\)"),
        (put("block.0.values", lambda a: a.reshape(3, 4)), r"has shape \(3, 4\)"),
    ],
)
def test_damaged_arrays(damage: Callable[[Arrays], object], message: str, saved: Any) -> None:
    folder, config, arrays = saved
    damage(arrays)
    write(folder, config, arrays)
    with pytest.raises(DataError, match=rf"model\.safetensors.*{message}"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "something else"}, '"format" is not'),
        ({"version": 5}, "has format version 5, this simplicit reads versions up to 4"),
        ({"dtype": "float16"}, '"dtype" must be float32 or float64'),
        ({"dtype": "nonsense"}, "nonsense"),
        ({"dtype": None}, "the entry 'dtype' must be a JSON text, got None"),
        ({"surplus": 1}, "has the unknown entry 'surplus'"),
        ({"n_outputs": True}, "must be a JSON integer"),
        ({"input_shape": [10**30]}, "does not describe a model"),
        ({"groups": [{"name": "b", "size": 10**30, "activation": {"name": "relu", "parameters": {}}}]}, "does not"),
        (
            {"groups": [{"name": "b", "size": 4, "activation": {"name": "elu", "parameters": {}}}]},
            "lacks the parameter 'alpha'",
        ),
        ({"groups": [{"name": "b", "size": 4, "activation": {"name": "relu"}}]}, "an activation is"),
        ({"groups": [{"name": "b", "size": 4, "activation": {}, "more": 1}]}, "group 0 has the unknown entry 'more'"),
        ({"n_inputs": "many"}, "does not describe a model"),
        ({"n_inputs": 0}, "n_inputs must be an integer"),
        ({"input_shape": [2, 100]}, "input_shape"),
        ({"groups": []}, "does not describe a model"),
        ({"groups": 5}, "does not describe a model"),
        ({"groups": [{"name": "b"}]}, "lacks the entry 'size'"),
        ({"groups": [{"name": "b", "size": 4, "activation": {"name": "nope", "parameters": {}}}]}, "'nope' is unknown"),
        ({"blocks": [["tänh/1", "b"], ["tänh/1", "b"]]}, "stands there twice"),
        ({"blocks": [["c", "b"]]}, "is not one of a group"),
        ({"blocks": [["b"]]}, "does not describe a model"),
    ],
)
def test_damaged_config(changes: dict[str, Any], message: str, saved: Any) -> None:
    folder, config, arrays = saved
    if changes.get("n_inputs") == 0:
        changes = changes | {"blocks": []}
        arrays = {name: array for name, array in arrays.items() if name.endswith("bias")}
    write(folder, config | changes, arrays)
    with pytest.raises(DataError, match=rf"config\.json.*({message})"):
        load(folder)


@pytest.mark.parametrize("key", ["dtype", "n_inputs", "n_outputs", "input_shape", "output_shape", "groups", "blocks"])
def test_missing_entries(key: str, saved: Any) -> None:
    folder, config, arrays = saved
    del config[key]
    write(folder, config, arrays)
    with pytest.raises(DataError, match=rf"config\.json does not describe a model: the file lacks the entry '{key}'"):
        load(folder)


@pytest.mark.parametrize("text", ["", "{", "\x00\xff", "[]", "null"])
def test_config_that_is_no_object(text: str, saved: Any) -> None:
    folder, *_ = saved
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"config\.json(: damaged| does not describe a model)"):
        load(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_arrays(kept: int, saved: Any) -> None:
    folder, *_ = saved
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"model\.safetensors is damaged or truncated"):
        load(folder)


def test_a_flipped_bit(saved: Any) -> None:
    folder, *_ = saved
    file = folder / "model.safetensors"
    payload = bytearray(file.read_bytes())
    payload[-1] ^= 1
    file.write_bytes(payload)
    with pytest.raises(DataError, match=r"is damaged: the SHA-256"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_files(name: str, saved: Any) -> None:
    folder, *_ = saved
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: is not there; a model is a folder with"):
        load(folder)
    with pytest.raises(DataError, match="is not there; a model is a folder with"):
        load(folder / "nowhere")


@pytest.mark.parametrize(("was", "is_now"), [("0.3", "9.0"), ('"elu"', '"celu"'), ("tänh/1", "other")])
def test_a_changed_config(was: str, is_now: str, saved: Any) -> None:
    folder, *_ = saved
    file = folder / "config.json"
    text = file.read_text("utf-8")
    assert was in text
    file.write_text(text.replace(was, is_now), "utf-8")
    with pytest.raises(DataError, match=r"is damaged: the SHA-256"):
        load(folder)


def test_parameters_under_another_name(saved: Any) -> None:
    folder, config, arrays = saved
    config["groups"][1]["activation"]["qarameters"] = config["groups"][1]["activation"].pop("parameters")
    write(folder, config, arrays)
    with pytest.raises(DataError, match=r"an activation is"):
        load(folder)


def test_a_deeply_nested_config(saved: Any) -> None:
    folder, *_ = saved
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"config\.json(: damaged| does not describe a model)"):
        load(folder)


@pytest.mark.parametrize("call", [lambda: save(make(), None), lambda: load(None), lambda: load(3)])
def test_no_path(call: Callable[[], object]) -> None:
    with pytest.raises(InputError, match="folder must be a path"):
        call()


def test_what_is_no_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model must be an ImplicitModel, got Linear; see simplicit\.from_torch"):
        save(torch.nn.Linear(2, 2), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_format_is_documented() -> None:
    assert storage.__doc__ is not None
    assert mapfiles.__doc__ is not None
    assert "block.k." in storage.__doc__
    assert all(name in mapfiles.__doc__ for name in ("values", "indices", "indptr", "columns"))


def test_a_block_of_an_unknown_operation(tmp_path: Path) -> None:
    block = Block(((3,),), (Step("softmax.int", (Value(0), 1)),), 3)
    blocks = {("s", "input"): GatherMap(np.arange(3), 3), ("output", "s"): GatherMap(np.arange(3), 3)}
    save(ImplicitModel([StateGroup("s", 3, block)], blocks, n_inputs=3, n_outputs=3), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text("utf-8"))
    config["groups"][0]["block"]["steps"][0]["operation"] = "system.default"
    write(tmp_path / "m", config, safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors"))
    with pytest.raises(DataError, match=r"config.json.*a block has the unknown operation 'system.default'; the model"):
        load(tmp_path / "m")
