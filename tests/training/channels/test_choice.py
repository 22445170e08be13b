"""Which layers are trained, and how sparse, by patterns of their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.training.channels import Choice

NET = Subject(mlp(12, 10, 8, 4), uniform(60))  # layers "0", "2" and "4", of 120, 80 and 32 weights


def counts(recipe: Any) -> dict[str, int]:
    return {layer.name: layer.non_zeros for layer in NET.fit(recipe).layers}


def test_layers_that_are_left_alone_keep_their_weights_and_are_not_counted() -> None:
    result = NET.fit(sp.Sparse(50, layers={"4": None}))
    assert (result.weight_count, result.nnz) == (200, 100)
    assert torch.equal(result.network()[4].weight, NET.net[4].weight)  # type: ignore[index]
    assert "4 (as asked for)" in result.summary()
    assert "layers 4=none" in result.summary()


def test_layers_have_sparsities_of_their_own_beside_that_of_the_others() -> None:
    found = counts(sp.Sparse(50, layers={"0": 90, "[02]": 25}))
    assert (found["0"], found["2"], found["4"]) == (12, 60, 16)
    others = counts(sp.Sparse(50, layers={"0": 90}))
    assert others["0"] == 12
    assert others["2"] + others["4"] == 56


def test_the_first_rule_that_matches_holds() -> None:
    assert counts(sp.Sparse(50, layers={"2": 75, "*": None})) == {"2": 20}
    assert counts(sp.Sparse(50, layers=("2=75", "*=none"))) == {"2": 20}


def test_without_rules_nothing_changes() -> None:
    assert counts(sp.Sparse(50, layers={})) == counts(sp.Sparse(50))
    assert Choice.parse({"a": None, "b.*": 60}).texts == ("a=none", "b.*=60")
    assert sp.Sparse(50, layers={"a": None, "b.*": 60}) == sp.Sparse(50, layers=("a=none", "b.*=60"))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"fc": None}, r"layers: 'fc' is the name of no layer; those there are: '0', '2', '4'"),
        ({"fc": "2:4"}, r"layers: 'fc' is the name of no layer; those there are: '0', '2', '4'"),
        ({"*": None}, r"layers: no weight is left that can be trained \(0: as asked for; 2: .*"),
    ],
)
def test_rules_that_do_not_fit_the_network(layers: Any, message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        NET.fit(sp.Sparse(50, layers=layers))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"fc": 100}, r"layers: the sparsity of 'fc' is in per cent"),
        ({"fc": 0.5}, r"layers: .* did you mean 50\?"),
        ({"fc": "many"}, r"layers: expected for 'fc' a number of per cent, or N:M with 0 < N < M, .* got 'many'"),
        ({"fc": "2/4"}, r"layers: .* got '2/4'"),
        (("fc=2:1",), r"layers: expected for 'fc' .* got '2:1'"),
        ({3: None}, r"layers: 3 is no name of a layer"),
        (("fc",), r"layers: 'fc' says nothing of what it names"),
        (("fc=much",), r"layers: 'much' of 'fc' is neither 'none' nor a number"),
        (7, r"layers: expected names"),
    ],
)
def test_rules_that_cannot_be_read(layers: Any, message: str) -> None:
    for recipe in (sp.Sparse, sp.Matching):
        with pytest.raises(sp.InputError, match=message):
            recipe(layers=layers)


def test_matching_leaves_layers_alone_where_rows_are_tied() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    own = Subject(net, torch.rand(20, 4, 6).double())
    result = own.fit(sp.Matching(sp.L1(1e-2), layers={"2": None}))
    assert [layer.name for layer in result.layers] == ["0"]
    with pytest.raises(sp.InputError, match=r"layers: the strength of a penalty is one for all layers"):
        sp.Matching(layers={"2": 50})
    with pytest.raises(sp.InputError, match=r"layers: every state is a row of its own here"):
        NET.fit(sp.Matching(layers={"2": None}))


def test_rules_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from simplicit.cli import main
    from simplicit.runs.settings import read_settings

    base, out, again = (str(tmp_path / name) for name in ("base", "out", "again"))
    assert main(["baseline", "--arch", "6", "--epochs", "1", "--output", base]) == 0
    options = ["--samples", "60", "--sparsity", "50", "--layers", "0=75", "--layers", "2=none"]
    assert main(["fit", base, *options, "--output", out]) == 0
    assert read_settings(Path(out))["layers"] == ("0=75", "2=none")
    assert main(["fit", "--config", out, "--output", again]) == 0
    capsys.readouterr()
    weights = [sp.load(Path(one)).nnz for one in (out, again)]
    assert weights[0] == weights[1]
