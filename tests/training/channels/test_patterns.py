"""N:M patterns of whole networks: met exactly, mixed with other rules, said in the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.sparse import SparseSemiStructuredTensor, SparseSemiStructuredTensorCUTLASS

import simplicit as sp
from fitting import Subject, mlp, uniform

NET = Subject(mlp(12, 10, 8, 4), uniform(60))  # layers "0", "2" and "4", of 120, 80 and 32 weights


class Turned(nn.Module):
    """A linear layer with its weight as (inputs, outputs), as GPT-2 has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def _convolutions() -> Subject:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 3, groups=2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 5)).eval()
    return Subject(net, torch.rand(30, 3, 6, 6))


def _tokens() -> Subject:
    torch.manual_seed(0)
    net = nn.Sequential(Turned(8, 6), nn.GELU(), nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    return Subject(net, torch.rand(20, 5, 8))


CONVOLUTIONS, TOKENS = _convolutions(), _tokens()


def counts(weight: Any, of: int) -> set[int]:
    """How many weights there are in each whole group of a weight (outputs, inputs, *kernel)."""
    whole = weight.shape[1] // of * of
    groups = (weight[:, :whole] != 0).unflatten(1, (-1, of)).sum(2)
    return set(groups.flatten().tolist())


def proved(result: sp.FitResult) -> dict[str, str]:
    """The patterns of the layers, which all have no violation."""
    assert all(one.groups > 0 and one.violations == 0 for one in result.in_pattern())
    return {one.name: one.pattern for one in result.in_pattern()}


def test_every_whole_group_has_exactly_so_many_and_the_rest_its_share() -> None:
    result = NET.fit(sp.Sparse(pattern="2:4"))
    net: Any = result.network()
    assert proved(result) == dict.fromkeys("024", "2:4")
    assert [counts(net[i].weight, 4) for i in (0, 2, 4)] == [{2}] * 3
    assert set((net[2].weight[:, 8:] != 0).sum(1).tolist()) == {1}
    assert (result.sparsity, [layer.pattern for layer in result.layers]) == (50.0, ["2:4"] * 3)
    summary = " ".join(result.summary().split())
    assert "at most 2 of 4 consecutive inputs of 0, 2, 4, and of what is left at the end of a row 2 (1 of" in summary
    assert result.figures()["layers"][0]["pattern"] == "2:4"
    assert NET.fit(sp.Sparse(50, pattern=" 2 : 4 ")).nnz == result.nnz


def test_torch_takes_its_weights_up_to_the_device() -> None:
    torch.manual_seed(0)
    own = Subject(nn.Sequential(nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4)).eval(), torch.rand(40, 128))
    result = own.fit(sp.Sparse(layers={"0": "2:4"}))
    weight: Tensor = result.network()[0].weight.detach().half()  # type: ignore[index,operator]
    assert counts(weight, 4) == {2}
    limits = SparseSemiStructuredTensorCUTLASS._DTYPE_SHAPE_CONSTRAINTS[torch.float16]
    assert weight.shape[0] % limits.sparse_min_rows == weight.shape[1] % limits.sparse_min_cols == 0
    assert weight.is_contiguous()
    assert issubclass(SparseSemiStructuredTensorCUTLASS, SparseSemiStructuredTensor)
    with pytest.raises(RuntimeError, match="Only CUDA tensors"):
        SparseSemiStructuredTensorCUTLASS._validate_device_dim_dtype_shape(weight)


def test_a_higher_sparsity_leaves_fewer_in_all() -> None:
    result = NET.fit(sp.Sparse(70, pattern="2:4"))
    assert (result.nnz, set(proved(result))) == (69, set("024"))
    assert counts(result.network()[0].weight, 4) == {0, 1, 2}  # type: ignore[index]


def test_kernels_have_it_over_their_channels_and_few_channels_have_none() -> None:
    result = CONVOLUTIONS.fit(sp.Sparse(pattern="2:4"))
    net: Any = result.network()
    assert set(proved(result)) == {"2", "4", "6"}
    assert [counts(net[i].weight, 4) for i in (2, 4, 6)] == [{2}] * 3
    assert int((net[4].weight[:, 4:] != 0).sum()) == 4 * 2 * 9 // 2
    assert int((net[0].weight != 0).sum()) == net[0].weight.numel()
    assert "none where there are fewer than 4 inputs: 0 (3)" in " ".join(result.summary().split())


def test_tokens_and_weights_that_lie_the_other_way_round() -> None:
    result = TOKENS.fit(sp.Sparse(layers={"0": "1:4", "2": "1:2", "4": None}))
    net: Any = result.network()
    assert proved(result) == {"0": "1:4", "2": "1:2"}
    assert (counts(net[0].weight.T, 4), counts(net[2].weight, 2)) == ({1}, {1})


def test_rules_of_all_kinds_together() -> None:
    result = NET.fit(sp.Sparse(25, layers={"0": "2:4", "2": 60}))
    assert {layer.name: (layer.non_zeros, layer.pattern) for layer in result.layers} == {
        "0": (60, "2:4"),
        "2": (32, None),
        "4": (24, None),
    }
    own = NET.fit(sp.Sparse(pattern="2:4", layers={"0": "1:4", "2": None, "4": 0}))
    assert {layer.name: layer.non_zeros for layer in own.layers} == {"0": 30, "4": 32}
    assert proved(own) == {"0": "1:4"}
    assert "left alone 2 (as asked for)" in own.summary()


def test_weights_that_the_baseline_has_not_stay_zero() -> None:
    net = mlp(8, 6, 3)
    with torch.no_grad():
        net[0].weight[:, [0, 2, 3]] = 0.0  # type: ignore[index,operator]
    own = Subject(net, uniform(40, 8))
    result = own.fit(sp.Sparse(pattern="2:4"))
    weight: Any = result.network()[0].weight  # type: ignore[index]
    assert counts(weight, 4) == {1, 2}
    with pytest.raises(sp.InputError, match=r"sparsity: 51 % cannot be reached .* there are \d+ candidates"):
        own.fit(sp.Sparse(51, pattern="2:4"))


def test_candidates_may_be_fewer_still() -> None:
    result = NET.fit(sp.Sparse(pattern="2:4", candidates=sp.L1(0.02)))
    assert result.nnz < 116
    assert proved(result) == dict.fromkeys("024", "2:4")


@pytest.mark.parametrize("executor", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_the_same_bits_wherever_rows_are_solved_and_from_a_journal(executor: str, tmp_path: Path) -> None:
    recipe, journal = sp.Sparse(60, pattern="2:4"), tmp_path / "journal"
    one = NET.fit(recipe, journal=journal)
    for other in (NET.fit(recipe, executor=executor), NET.fit(recipe, journal=journal)):
        for ours, theirs in zip(one.network().parameters(), other.network().parameters(), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "2:1"}, r"pattern: expected N:M with 0 < N < M, .* got '2:1'"),
        ({"sparsity": 30, "pattern": "2:4"}, r"sparsity: 30 % contradicts the pattern 2:4, .* at most 50 %"),
        ({"sparsity": 60, "pattern": "1:4"}, r"sparsity: 60 % contradicts the pattern 1:4, .* take 75 or more"),
    ],
)
def test_patterns_that_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.Sparse(**options)


def test_where_rows_are_no_weights_there_is_none() -> None:
    with pytest.raises(sp.InputError, match="pattern: every state is a row of its own here"):
        NET.fit(sp.Sparse(pattern="2:4", structure="feedforward"))


def test_of_many_layers_the_nearest_names_are_given() -> None:
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(10))).eval()
    message = r"layers: 'x' is the name of no layer; the nearest of 10 are: '\d', '\d', '\d'$"
    with pytest.raises(sp.InputError, match=message):
        Subject(net, torch.rand(9, 4)).fit(sp.Sparse(layers={"x": "2:4"}))


def test_on_the_command_line(tmp_path: Path) -> None:
    from simplicit.cli import main
    from simplicit.runs.settings import read_settings

    base, out, again = (str(tmp_path / name) for name in ("base", "out", "again"))
    assert main(["baseline", "--arch", "6", "--epochs", "1", "--output", base]) == 0
    options = ["--samples", "60", "--pattern", "2:4", "--layers", "2=1:2"]
    assert main(["fit", base, *options, "--output", out]) == 0
    manifest, rows = (json.loads((Path(out) / name).read_text("utf-8")) for name in ("run.json", "rows.json"))
    assert [one["violations"] for one in manifest["results"]["patterns"]] == [0, 0]
    assert set(rows["pattern"]) == {"2:4", "1:2"}
    settings = read_settings(Path(out))
    assert (settings["pattern"], settings["layers"], settings["sparsity"]) == ("2:4", ("2=1:2",), None)
    assert main(["fit", "--config", out, "--output", again]) == 0
    weights = [np.asarray(sp.load(folder).matrix.toarray()) for folder in (out, again)]
    np.testing.assert_array_equal(*weights)
    toml = tmp_path / "fit.toml"
    toml.write_text(f'baseline = "{base}"\npattern = "1:4"\nlayers = ["2=none"]\nsamples = 60\n', encoding="utf-8")
    assert main(["fit", "--config", str(toml), "--output", str(tmp_path / "third")]) == 0
    assert main(["fit", base, "--pattern", "2/4", "--output", str(tmp_path / "fourth")]) == 2
