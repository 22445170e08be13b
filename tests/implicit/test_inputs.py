"""Several inputs as one U and back, and models that know what lies where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simplicit as sp
from mixed import model_and_samples
from simplicit.implicit import InputLayout, InputSpec, adjoint
from simplicit.implicit.storage import load, save

IDS, MASK, IMAGE, TIME = (
    InputSpec("ids", (5,), "int64"),
    InputSpec("mask", (5,), "bool"),
    InputSpec("image", (2, 3), "float32"),
    InputSpec("time", (), "float32"),
)
LAYOUT = InputLayout((IDS, MASK, IMAGE, TIME), (("use_cache", False), ("scale", None)))
ALONE = InputLayout((IDS,))
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


def inputs(m: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(0, 2**24, size=(m, 5)),
        "mask": torch.from_numpy(rng.random((m, 5)) > 0.5),
        "image": rng.normal(size=(m, 2, 3)).astype(np.float32),
        "time": torch.from_numpy(rng.random(m, dtype=np.float32)),
    }


def test_inputs_come_back_as_they_were() -> None:
    given = inputs()
    for form in (given, given | {"use_cache": False}, tuple(given.values()), [*given.values(), False, None]):
        U = LAYOUT.pack(form, F32)
        assert U.shape == (4, LAYOUT.width) == (4, 17)
        assert U.dtype == torch.float32
        for back, value in zip(LAYOUT.unpack(U), given.values(), strict=True):
            value = torch.as_tensor(value)
            assert back.dtype == value.dtype
            assert torch.equal(back, value)
    assert torch.equal(LAYOUT.pack(U.numpy(), F32), U)
    assert torch.equal(U[:, LAYOUT.columns["mask"]], given["mask"].float())


def test_one_input_keeps_its_shape() -> None:
    image = InputLayout((IMAGE,))
    assert image.shape == (2, 3)
    values = inputs()["image"]
    for form in (values, values.reshape(4, 6), (values,), {"image": values}):
        (back,) = image.unpack(image.pack(form, F64).reshape(4, 2, 3))
        np.testing.assert_array_equal(back, values)
    assert InputLayout((TIME,)).shape == (1,)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint64, ">i8", bool])
def test_integers_of_any_dtype_are_good_for_integers(dtype: Any) -> None:
    ids = np.arange(10).reshape(2, 5).astype(dtype)
    for form in (ids, {"ids": ids}):
        np.testing.assert_array_equal(ALONE.unpack(ALONE.pack(form, F32))[0], ids.astype(np.int64))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in inputs().items() if key != name}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (without("ids"), r"batch has no input 'ids'; the network was captured with 'ids' and 'mask' and"),
        (inputs() | {"labels": np.zeros(4)}, r"batch has the unknown input 'labels'; the network was captured with"),
        (inputs() | {"use_cache": True}, r"batch has another 'use_cache' than the example, which had False"),
        (inputs() | {"ids": np.zeros((4, 9), int)}, r"'ids' must have shape \(m, 5\).*got \(4, 9\); capture.*or cut"),
        (inputs() | {"ids": np.zeros((3, 5), int)}, r"as many samples in every array, got 3 in 'ids' and 4 in"),
        (inputs() | {"ids": np.ones((4, 5))}, r"'ids' must hold integers, as the example had \(int64\), got float64"),
        (inputs() | {"ids": torch.ones(4, 5)}, r"'ids' must hold integers.* got float32"),
        (inputs() | {"mask": np.ones((4, 5))}, r"'mask' must hold truth values.* got float64"),
        (inputs() | {"mask": np.full((4, 5), 2)}, r"'mask' holds numbers outside 0 to 1"),
        (inputs() | {"ids": np.full((4, 5), -(2**24) - 1)}, r"'ids' holds integers beyond 16,777,216.*use net.double"),
        (inputs() | {"ids": np.full((4, 5), 2**64 - 1, np.uint64)}, r"'ids' holds integers beyond 16,777,216"),
        (inputs() | {"image": np.full((4, 2, 3), np.nan)}, r"'image' must be finite in float32"),
        (inputs() | {"image": torch.zeros(4, 2, 3).to_sparse()}, r"'image' must be a dense tensor.*with .to_dense\(\)"),
        (inputs() | {"image": torch.zeros(4, 2, 3, device="meta")}, r"'image' must have values.* on the device meta"),
        (inputs() | {"image": np.ma.zeros((4, 2, 3))}, r"'image' must not be a masked array"),
        (inputs() | {"image": [[1.0]]}, r"'image' must be a NumPy array or a tensor, got list"),
        (inputs(0), r"at least one sample"),
        (tuple(without("ids").values()), r"batch must hold 4 arrays, 'ids' and 'mask' and 'image' and 'time', got 3"),
        (np.zeros((4, 16)), r"batch must have shape \(m, 17\), samples first, got \(4, 16\)"),
        (np.full((4, 17), 0.5), r"'ids' must hold integers.*got fractions"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(given: Any, message: str) -> None:
    with pytest.raises(sp.InputError, match=message) as caught:
        LAYOUT.pack(given, F32, "batch")
    assert caught.value.argument == "batch"
    assert "\n" not in str(caught.value)


def test_float64_holds_larger_integers() -> None:
    ids = np.full((1, 5), 2**53)
    assert ALONE.unpack(ALONE.pack(ids, F64))[0][0, 0] == 2**53
    with pytest.raises(sp.InputError, match=r"beyond 9,007,199,254,740,992, which float64"):
        ALONE.pack(ids + 1, F64)


@pytest.mark.parametrize(
    "make",
    [
        lambda: InputSpec("", (5,), "int64"),
        lambda: InputSpec("x", (0,), "int64"),
        lambda: InputSpec("x", (5,), "complex64"),
        lambda: InputLayout(()),
        lambda: InputLayout((IDS, IDS)),
        lambda: InputLayout((IDS,), (("ids", 1),)),
    ],
)
def test_layouts_that_say_nothing_are_refused(make: Any) -> None:
    with pytest.raises(sp.InputError):
        make()


def model(layout: InputLayout | None = LAYOUT) -> sp.ImplicitModel:
    rng = np.random.default_rng(1)
    B, C = rng.normal(size=(3, 17)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    zero = np.zeros((3, 3), np.float32), np.zeros((2, 17), np.float32)
    return sp.ImplicitModel.from_matrices(zero[0], B, C, zero[1]).with_inputs(layout)


def test_a_model_predicts_in_the_form_of_its_inputs() -> None:
    given, known = inputs() | {"ids": np.arange(20).reshape(4, 5)}, model()
    U = LAYOUT.pack(given, F32)
    expected = model(None).predict(U)
    assert torch.equal(known.predict(U), expected)
    tensors = {name: torch.as_tensor(value) for name, value in given.items()}
    assert torch.equal(known.predict(tensors), expected)
    np.testing.assert_array_equal(known.predict(tuple(given.values())), expected)
    assert isinstance(known.predict(given), np.ndarray)
    for other in (known.astype(np.float64), known.with_matrix(known.matrix), sp.rescale(known)):
        assert other.inputs == LAYOUT
    with pytest.raises(sp.InputError, match=r"inputs: the layout holds 5 numbers, the model has 17 inputs"):
        sp.ImplicitModel(known.groups, known.blocks, n_inputs=17, n_outputs=2, inputs=ALONE)


def test_a_file_holds_the_layout(tmp_path: Path) -> None:
    save(model(), tmp_path / "known")
    found = load(tmp_path / "known")
    assert found.inputs == LAYOUT
    assert json.loads((tmp_path / "known" / "config.json").read_text())["version"] == 3
    save(model(None), tmp_path / "plain")
    assert load(tmp_path / "plain").inputs is None
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["version"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": []}, "must hold lists of arrays and constants"),
        ({"arrays": 3}, "must hold lists of arrays and constants"),
        ({"arrays": [{"name": "x", "shape": [17], "dtype": "float32", "code": "exec"}]}, "and nothing else"),
        ({"arrays": [{"name": "x", "shape": 17, "dtype": "float32"}]}, "a shape of positive integers"),
        ({"constants": [["use_cache", {}]]}, "a constant input must be a name and a value"),
        ({"arrays": [], "constants": []}, "at least one input"),
    ],
)
def test_a_damaged_description_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        InputLayout.from_config(LAYOUT.to_config() | change)
    assert InputLayout.from_config(json.loads(json.dumps(LAYOUT.to_config()))) == LAYOUT


@pytest.mark.parametrize("change", [{"version": 2}, {"inputs": []}], ids=["older version", "another kind"])
def test_an_unknown_entry_of_a_file_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save(model(), tmp_path / "known")
    file = tmp_path / "known" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(sp.errors.DataError, match="inputs"):
        load(tmp_path / "known")


def test_everything_takes_what_predict_takes() -> None:
    net, known, given = model_and_samples()
    U = known.batch(given)
    states = sp.equilibrium(known, given).states
    assert torch.equal(states, sp.equilibrium(known, U).states)
    Y_bar = torch.rand(7, 3)
    gradient = adjoint(known, given, Y_bar)
    image = given["image"].requires_grad_()
    (expected,) = torch.autograd.grad((net(**given)["logits"] * Y_bar).sum(), image)
    columns = known.inputs.columns["image"]  # type: ignore[union-attr]
    torch.testing.assert_close(gradient[:, columns], expected.flatten(1))
    module = sp.to_torch(known)
    tensors = tuple(value for value in given.values() if isinstance(value, torch.Tensor))
    rest = dict(zip(("mask", "image", "kinds"), tensors[1:], strict=True))
    calls: list[Any] = [
        lambda: module(**given),
        lambda: module(given),
        lambda: module(*tensors),
        lambda: module(*tensors, False),
        lambda: module(tensors),
        lambda: module(tensors[0], **rest),
    ]
    for call in calls:
        outputs = call()
        torch.testing.assert_close(outputs, known.predict(U), rtol=0.0, atol=1e-6)
        (found,) = torch.autograd.grad((outputs * Y_bar).sum(), image)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(module(U), known.predict(U), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("in_order", "by_name", "message"),
    [
        ((), {}, r"inputs must be one tensor, got none"),
        ((torch.zeros(2, 5),), {"ids": torch.zeros(2, 5)}, r"inputs: 'ids' is given twice; give all of them by name"),
        ((torch.zeros(2, 17), *[torch.zeros(2)] * 4), {"mask": torch.zeros(2, 5)}, r"inputs: 'mask' is given twice"),
        ((), {"ids": np.zeros((2, 5), int)}, r"inputs must be tensors, got ndarray; see torch.from_numpy"),
        ((), {"words": torch.zeros(2, 5)}, r"inputs has no input 'ids'; the network was captured with"),
        ((3,), {}, r"inputs must be a tensor, got int"),
    ],
)
def test_a_module_says_what_it_was_not_given(in_order: Any, by_name: Any, message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.to_torch(model())(*in_order, **by_name)
