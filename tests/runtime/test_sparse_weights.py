"""Sparse weights on disk: bit for bit, small, and into the class that they came from or nowhere."""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import simplicit as sp
from simplicit.errors import DataError, InputError
from simplicit.runtime.files import folder
from simplicit.runtime.files.packing import STEPS, packed, unpacked


def sparse(shape: tuple[int, ...], density: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape) * (torch.rand(shape) < density)).to(dtype)


class Mixed(nn.Module):
    """Tied and channels-last parameters, statistics, integer and boolean buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 8)
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(8, 30, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("ids", torch.arange(40))
        self.register_buffer("mask", torch.ones(6, 6, dtype=torch.bool).tril())
        self.register_buffer("nothing", torch.empty(0, 3))


def mixed(density: float = 0.1, dtype: torch.dtype = torch.float32) -> Mixed:
    torch.manual_seed(3)
    net = Mixed()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(torch.rand(parameter.shape) < density)
        net.norm.running_mean.normal_()  # type: ignore[union-attr]
        net.norm.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    return net.to(dtype)


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) and x.dtype == y.dtype for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("density", [0, 0.0005, 0.004, 0.05, 0.1, 0.4, 0.6, 1])
@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (301,), (40, 257), (3, 40_000)])
def test_tensors_come_back_in_few_bytes(density: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    tensor = sparse(shape, density)
    form, places, values = packed(tensor)
    assert torch.equal(unpacked(form, torch.from_numpy(places), values, shape).dense(), tensor)
    found = places.size + 4 * values.numel()
    count, rows = int(tensor.count_nonzero()), shape[0] if len(shape) > 1 else 0
    csr = count * (4 + (1 if len(shape) < 2 or shape[1] <= 256 else 2)) + 5 * rows
    mask = -(-tensor.numel() // 8) + 4 * count
    assert found <= min(4 * tensor.numel(), 1.15 * mask, csr + 4)


def test_long_steps_keep_zeros_as_values() -> None:
    tensor = torch.zeros(100_000)
    tensor[[0, 1, 256, 512, 99_999]] = torch.tensor([1.0, 2.0, 3.0, 4.0, torch.nan])
    form, places, values = packed(tensor)
    assert (form, places.view("<i2").tolist()) == ("steps16", [0, 1, 255, 256, 32767, 32767, 32767, 1186])
    assert values.tolist()[4:7] == [0, 0, 0]
    assert torch.equal(unpacked(form, torch.from_numpy(places), values, (100_000,)).dense()[:-1], tensor[:-1])
    tensor[600:604] = 5
    form, places, values = packed(tensor[:800])
    assert (form, places.tolist()) == ("steps8", [0, 1, 255, 255, 1, 88, 1, 1, 1])
    assert values.tolist() == [1, 2, 3, 0, 4, 5, 5, 5, 5]


@pytest.mark.parametrize("form", ["mask", *STEPS])
def test_places_are_checked(form: str) -> None:
    tensor = torch.zeros(70)
    tensor[::7] = 1
    places = torch.from_numpy(np.packbits(tensor.numpy() != 0, bitorder="little"))
    if form != "mask":
        places = _words(form, [0] + [7] * 9)
        for steps in ([7, 0], [0, 7, 7, 0]) if form == "steps8" else ([-1, 7], [0, 7, -1], [0, 0]):
            with pytest.raises(ValueError, match="places that do not rise"):
                unpacked(form, _words(form, steps), torch.ones(len(steps)), (70,))
    assert torch.equal(unpacked(form, places, torch.ones(10), (70,)).dense(), tensor)
    with pytest.raises(ValueError, match=r"for 9 values"):
        unpacked(form, places, torch.ones(9), (70,))
    with pytest.raises(ValueError, match=r"place 63, its shape has 60|72 bytes|of 9 bytes, its shape has 60"):
        unpacked(form, places, torch.ones(10), (60,))
    with pytest.raises(ValueError, match="the form 'csr', known are dense, mask, steps8"):
        unpacked("csr", places, torch.ones(10), (70,))


def _words(form: str, steps: list[int]) -> Tensor:
    return torch.from_numpy(np.array(steps, STEPS[form]).view(np.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_network_comes_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    net, other = mixed(dtype=dtype), Mixed().to(dtype)
    tied, held = other.head.weight, dict(other.named_parameters())
    saved = sp.save(net, tmp_path / "w")
    assert saved is not None
    assert saved.change == 0
    assert "head.weight" not in saved.forms
    sp.load_weights(other, tmp_path / "w")
    assert same(net, other)
    assert other.head.weight is tied
    assert all(held[name] is parameter for name, parameter in other.named_parameters())
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["config.json", "weights.safetensors"]


def test_other_dtypes_and_wrappers(tmp_path: Path) -> None:
    sp.save(nn.DataParallel(mixed()), tmp_path / "w")
    half, double = Mixed().half(), Mixed().double()
    for other in (half, nn.DataParallel(double)):
        sp.load_weights(other, tmp_path / "w")
    assert torch.equal(half.conv.weight, mixed().conv.weight.half())
    assert torch.equal(double.conv.weight, mixed().conv.weight.double())


class Attention(nn.Module):
    """A causal mask of -inf beside a weight, and a buffer with NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_buffer("mask", torch.full((5, 5), -torch.inf).triu(1))
        self.register_buffer("scale", torch.tensor([1.0, torch.nan, torch.inf]))


@pytest.mark.parametrize("values", ["exact", "float16"])
def test_buffers_may_be_infinite(values: str, tmp_path: Path) -> None:
    net, other = Attention(), Attention()
    for buffer in other.buffers():
        buffer.zero_()
    saved = sp.save(net, tmp_path / "w", values=values)
    assert saved is not None
    assert saved.change < 1e-3
    sp.load_weights(other, tmp_path / "w")
    for name, buffer in net.named_buffers():
        assert buffer.numpy().tobytes() == other.get_buffer(name).numpy().tobytes()
    torch.save(net.state_dict(), tmp_path / "w.pt")
    sp.load_weights(other, tmp_path / "w.pt")
    with torch.no_grad():
        net.inner.weight[0, 0] = torch.inf
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"inner\.weight has NaN or infinite values"):
        sp.load_weights(other, tmp_path / "w.pt")


def test_dtypes_that_torch_counts_no_zeros_of(tmp_path: Path) -> None:
    for dtype in (torch.uint16, torch.float8_e5m2):
        net = nn.Module()
        net.register_buffer("codes", torch.tensor([[0, 1, 2], [0, 0, 3]]).to(dtype))
        assert sp.save(net, tmp_path / str(dtype)).non_zeros == 3  # type: ignore[union-attr]
    with pytest.raises(DataError, match="cannot be written"):
        sp.save(net, tmp_path / ("long" * 100))


def test_sizes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for density, share in ((0.1, 0.15), (0.05, 0.08)):
        net = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 64))
        with torch.no_grad():
            for layer in net:
                layer.weight.mul_(torch.rand(layer.weight.shape) < density)  # type: ignore[operator, union-attr]
        saved = sp.save(net, tmp_path / "w", overwrite=True)
        assert saved is not None
        assert saved.bytes == sum(path.stat().st_size for path in (tmp_path / "w").iterdir())
        assert saved.dense_bytes == len(tensor_bytes(net.state_dict()))
        assert saved.bytes < share * saved.dense_bytes
        assert saved.bytes < saved.zipped_bytes < saved.dense_bytes
        assert f"{saved.bytes:,} bytes, {saved.bytes / saved.dense_bytes:.1%} of" in str(saved)
        narrow = sp.save(net, tmp_path / "w", overwrite=True, values="float16")
        assert narrow is not None
        assert narrow.bytes < 0.7 * saved.bytes
        other = copy.deepcopy(net)
        sp.load_weights(other, tmp_path / "w")
        furthest = max(
            float((a - b).detach().abs().max()) for a, b in zip(net.parameters(), other.parameters(), strict=True)
        )
        assert 0 < furthest == narrow.change < 1e-4
        assert torch.equal(other[0].bias, net[0].bias)  # type: ignore[arg-type]
        assert other[0].weight.dtype == torch.float32


def masked() -> nn.Linear:
    torch.manual_seed(1)
    return prune.l1_unstructured(nn.Linear(6, 5), "weight", amount=0.6)


def test_masks_and_parametrisations(tmp_path: Path) -> None:
    net = masked()
    sp.save(net, tmp_path / "w")
    plain, again = nn.Linear(6, 5), prune.random_unstructured(nn.Linear(6, 5), "weight", amount=0.2)
    for other in (plain, again):
        sp.load_weights(other, tmp_path / "w")
        assert torch.equal(other.weight, net.weight)
    again(torch.rand(2, 6))
    assert torch.equal(again.weight, net.weight)
    assert torch.equal(again.weight_mask, net.weight_mask)
    normed = parametrizations.weight_norm(nn.Linear(6, 5))
    sp.save(normed, tmp_path / "n")
    other = parametrizations.weight_norm(nn.Linear(6, 5))
    sp.load_weights(other, tmp_path / "n")
    torch.testing.assert_close(other.weight, normed.weight, rtol=1e-6, atol=1e-6)
    sp.load_weights(plain, tmp_path / "n")
    assert torch.equal(plain.weight, normed.weight)


class Squared(nn.Module):
    def forward(self, inner: Tensor) -> Tensor:
        return inner**2

    def right_inverse(self, value: Tensor) -> Tensor:
        return value.abs().sqrt()


def test_a_failed_load_changes_nothing(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    sp.save(net, tmp_path / "w")
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    parametrize.register_parametrization(other[0], "weight", Squared())  # type: ignore[arg-type]
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(DataError, match=r"0\.weight does not go through the .* parametrisation, it makes another"):
        sp.load_weights(other, tmp_path / "w")
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


Change = Callable[[dict[str, Any], dict[str, Tensor]], None]


def _set(key: str, value: Any, tensor: int | None = None) -> Change:
    def change(config: dict[str, Any], _: dict[str, Tensor]) -> None:
        (config if tensor is None else config["tensors"][tensor])[key] = value

    return change


def _shorten(config: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    arrays["places"] = arrays["places"][:-3]


def _no_number(config: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    arrays["values.float32"] = torch.full_like(arrays["values.float32"], torch.nan)


def change_both(place: Path, change: Change) -> None:
    """Change a folder and seal it again, as an ill-meaning author would."""
    config = json.loads((place / "config.json").read_text())
    arrays = read_tensors((place / "weights.safetensors").read_bytes())
    change(config, arrays)
    payload = tensor_bytes(arrays)
    config.pop("crc32", None)
    config["crc32"] = folder._FOLDER.digest(config, payload)
    (place / "config.json").write_text(json.dumps(config))
    (place / "weights.safetensors").write_bytes(payload)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("version", 9), "has format version 9, this simplicit reads versions up to 1"),
        (_set("format", "other"), "does not describe sparse weights"),
        (_set("tensors", {}), "the entry 'tensors' must be a JSON array"),
        (_set("same", {"more": "nobody"}), "there is no 'nobody'"),
        (_set("shape", [2, 20], 0), r"a value at place \d+, its shape has 40 entries"),
        (_set("shape", [-2, 20], 0), "has the shape"),
        (_set("shape", [20, 20], 0), r"0\.weight has shape \(20, 20\), the network \(20, 10\)"),
        (_set("form", "zip", 0), "the form 'zip', known are"),
        (_set("dtype", "float99", 0), "there is no 'float99'"),
        (_set("values", 10**9, 0), r"holds fewer of values\.float32 than are listed"),
        (_set("values", 0, 1), r"0 values, its shape has 20"),
        (_set("places", True, 0), "the entry 'places' must be a JSON integer"),
        (_set("name", "0.wieght", 0), r"misses 0\.weight and has unknown 0\.wieght \(the nearest .* is 0\.weight\)"),
        (_set("name", "0.bias", 0), r"'0\.bias' stands there twice"),
        (_shorten, "holds fewer of places than are listed|holds .* of places"),
        (_no_number, r"0\.weight has NaN or infinite values"),
    ],
)
def test_what_is_damaged_changes_nothing(change: Change, told: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 3))
    with torch.no_grad():
        net[0].weight.mul_(torch.rand(20, 10) < 0.05)  # type: ignore[operator, union-attr]
    other = copy.deepcopy(net)
    sp.save(net, tmp_path / "w")
    change_both(tmp_path / "w", lambda *_: None)
    sp.load_weights(other, tmp_path / "w")
    change_both(tmp_path / "w", change)
    with pytest.raises(DataError, match=told):
        sp.load_weights(other, tmp_path / "w")
    assert same(net, other)


def test_damaged_bytes(tmp_path: Path) -> None:
    net = mixed()
    sp.save(net, tmp_path / "w")
    for name in ("config.json", "weights.safetensors"):
        file = tmp_path / "w" / name
        whole = file.read_bytes()
        for content in (whole[:-2], whole[:40], b"", whole[:-9] + b"123456789", None):
            file.unlink() if content is None else file.write_bytes(content)
            with pytest.raises(DataError, match=r"damaged|is not there"):
                sp.load_weights(net, tmp_path / "w")
        file.write_bytes(whole)
    sp.load_weights(net, tmp_path / "w")


def test_ties_and_kinds_that_do_not_fit(tmp_path: Path) -> None:
    tied = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    free = copy.deepcopy(tied)
    tied["b"].weight = tied["a"].weight
    sp.save(free, tmp_path / "free")
    with pytest.raises(DataError, match=r"a\.weight and b\.weight differ, and are one tensor in the network"):
        sp.load_weights(tied, tmp_path / "free")
    sp.save(tied, tmp_path / "tied")
    sp.load_weights(free, tmp_path / "tied")
    assert torch.equal(free["a"].weight, free["b"].weight)  # type: ignore[arg-type]
    sp.save(nn.Sequential(nn.BatchNorm1d(3)), tmp_path / "norm")
    with pytest.raises(DataError, match=r"has unknown 0\.num_batches_tracked, 0\.running_mean"):
        sp.load_weights(nn.Sequential(nn.LayerNorm(3)), tmp_path / "norm")
    counted = nn.Linear(4, 4)
    counted.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int64), requires_grad=False)
    sp.save(counted, tmp_path / "int")
    with pytest.raises(DataError, match=r"weight has dtype torch\.int64, the network torch\.float32"):
        sp.load_weights(nn.Linear(4, 4), tmp_path / "int")


def test_what_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, place = nn.Linear(4, 3), tmp_path / "w"
    with pytest.raises(InputError, match="values: 'float8' is unknown"):
        sp.save(net, place, values="float8")
    with pytest.raises(InputError, match=r"model: must be an ImplicitModel or a torch\.nn\.Module, got int"):
        sp.save(3, place)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no values yet"):
        sp.save(nn.LazyLinear(3), place)
    with torch.no_grad():
        net.weight[0, 0] = 1e6
    with pytest.raises(InputError, match="'weight' has a weight of 1e\\+06, float16 goes to 65504"):
        sp.save(net, place, values="float16")
    with torch.no_grad():
        net.weight[0, 0] = torch.inf
    with pytest.raises(InputError, match="'weight' holds NaN or infinite values"):
        sp.save(net, place)
    assert not place.exists()
    place.mkdir()
    (place / "precious").write_text("x")
    for overwrite, told in ((False, "exists; choose another folder"), (True, r"holds more than sparse weights \(prec")):
        with pytest.raises(DataError, match=told):
            sp.save(nn.Linear(2, 2), place, overwrite=overwrite)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="cannot be written"):
        sp.save(nn.Linear(2, 2), tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w"]


def test_a_model_is_saved_as_before(tmp_path: Path) -> None:
    model = sp.from_torch(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), torch.rand(2, 4))
    assert sp.save(model, tmp_path / "m") is None
    assert sp.load(tmp_path / "m").n_states == model.n_states
    with pytest.raises(InputError, match="values: is for networks"):
        sp.save(model, tmp_path / "n", values="float16")
    with pytest.raises(DataError, match=r'does not describe sparse weights: "format"|is not there'):
        sp.load_weights(nn.Linear(4, 3), tmp_path / "m")
