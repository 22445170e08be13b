"""Weights from files: those of the network and no others, and never code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.nn.utils import prune

from simplicit.errors import DataError
from simplicit.runtime.files import load_weights
from simplicit.runtime.files.checkpoints import read_state


def make() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2))


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    net, path = make(), tmp_path / "w.safetensors"
    save_file({"0.weight": torch.zeros(3, 4), "7.weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"misses 0\.bias, 3\.bias, 3\.weight and has unknown 7\.weight"):
        load_weights(net, path)
    save_file(net.state_dict() | {"3.bias": torch.zeros(5)}, path)
    with pytest.raises(DataError, match=r"3\.bias has shape \(5,\), the network \(2,\)"):
        load_weights(net, path)
    save_file(net.state_dict() | {"3.bias": torch.tensor([0.0, float("inf")])}, path)
    with pytest.raises(DataError, match=r"3\.bias has NaN or infinite values"):
        load_weights(net, path)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_weights_of_another_kind(tmp_path: Path, dtype: torch.dtype) -> None:
    net, path = make(), tmp_path / "w.pt"
    torch.save(net.state_dict() | {"3.bias": torch.ones(2).to(dtype)}, path)
    with pytest.raises(DataError, match=rf"3\.bias has dtype {dtype}, the network torch.float32; save real weights"):
        load_weights(net, path)


def test_damaged_weight_files(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pt"):
        path = tmp_path / name
        with pytest.raises(DataError, match="no such file"):
            read_state(path)
        for content in (b"", b"hello world", b"PK\x03\x04 not a zip"):
            path.write_bytes(content)
            with pytest.raises(DataError, match=f"{name}: damaged"):
                read_state(path)
    torch.save(make().state_dict(), tmp_path / "cut.pt")
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.pt: damaged"):
        read_state(tmp_path / "cut.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(DataError, match="no state dictionary"):
        read_state(tmp_path / "other.pt")


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return io.open, (str(self.path), "w")


def test_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    torch.save(make(), tmp_path / "whole.pt")
    for name in ("evil.pt", "whole.pt"):
        with pytest.raises(DataError, match="could run code, so it is refused"):
            read_state(tmp_path / name)
    with pytest.raises(DataError):
        read_state(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("before", ["_orig_mod.", "module._orig_mod.", "model.", "net.module."])
def test_names_of_wrappers_and_scripts(tmp_path: Path, before: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    state = {f"{before}{name}": value for name, value in net.state_dict().items()}
    for content in (state, {"net": state, "acc": 95.1, "epoch": 3}):
        torch.save(content, tmp_path / "weights.pt")
        other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        load_weights(other, tmp_path / "weights.pt")
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_masks_and_shared_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pruned = prune.l1_unstructured(nn.Linear(6, 5), "weight", amount=0.5)
    torch.save(pruned.state_dict(), tmp_path / "pruned.pt")
    net = nn.Linear(6, 5)
    load_weights(net, tmp_path / "pruned.pt")
    assert torch.equal(net.weight, pruned.weight)
    tied = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    tied["b"].weight = tied["a"].weight
    save_model(tied, str(tmp_path / "tied.safetensors"))
    with torch.no_grad():
        expected = tied["a"].weight.clone()
        tied["a"].weight.zero_()
    load_weights(tied, tmp_path / "tied.safetensors")
    assert torch.equal(tied["b"].weight, expected)
