"""What fit takes: several inputs, batches, one of several outputs, wrapped networks and such in half precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

import simplicit as sp

VECTOR = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
CODES = torch.randint(3, (60, 2), generator=torch.Generator().manual_seed(1))


class Two(nn.Module):
    """Of a vector and of integers; a mapping of what is hidden and of a pair."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.of_vector, self.of_codes, self.head = nn.Linear(4, 6), nn.Linear(2, 6, bias=False), nn.Linear(6, 3)

    def forward(self, vector: Tensor, codes: Tensor, twice: bool = True) -> dict[str, Any]:
        hidden = torch.relu(self.of_vector(vector) + self.of_codes(codes.to(vector.dtype)))
        logits = self.head(hidden)
        return {"places": codes, "hidden": hidden, "logits": (2 * logits if twice else logits, None)}


class Floats(Two):
    """The same of floating-point numbers, which has an implicit model in any state of the reader."""

    def forward(self, vector: Tensor, codes: Tensor, twice: bool = True) -> dict[str, Any]:
        hidden = torch.relu(self.of_vector(vector) + self.of_codes(codes))
        return {"hidden": hidden, "logits": self.head(hidden) * (2.0 if twice else 1.0)}


def mlp(inputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("recipe", [sp.Sparse(50), sp.Matching()], ids=["channels", "states"])
def test_inputs_by_name_and_one_of_the_outputs(recipe: sp.training.Recipe) -> None:
    codes, net = CODES.float(), Floats().eval()
    given = {"codes": codes, "vector": VECTOR, "twice": False}
    result = sp.fit(net, given, recipe, output="logits")
    assert "  output     'logits' of 'hidden', 'logits'" in result.summary().splitlines()
    assert result.n_samples == 60
    assert {layer.name for layer in result.layers} >= (
        {"of_vector", "head"} if isinstance(recipe, sp.Sparse) else {"relu"}
    )
    back = result.network()
    assert type(back) is Floats
    with torch.no_grad():
        expected = back(**given)["logits"]
    torch.testing.assert_close(result.model.predict(given), expected, check_dtype=False)
    U = torch.cat([codes, VECTOR], 1)
    assert torch.equal(result.model.predict(U), result.model.predict(given))


def test_integers_are_walked_through_and_fitted() -> None:
    result = sp.fit(Two().eval(), (VECTOR, CODES), sp.Sparse(50), output="logits.0")
    assert result.sparsity == 50
    assert sum(layer.weights for layer in result.layers) == 4 * 6 + 2 * 6 + 6 * 3
    whole = sp.fit(Two().eval(), (VECTOR, CODES), sp.Sparse(0), output="logits.0")
    with torch.no_grad():
        torch.testing.assert_close(
            whole.network()(VECTOR, CODES)["logits"][0], Two()(VECTOR, CODES)["logits"][0], atol=1e-2, rtol=0
        )


def test_a_loader_with_labels_is_its_samples() -> None:
    net, labels = mlp(), torch.arange(60)
    loader = DataLoader(TensorDataset(VECTOR, labels), batch_size=7)
    one, other = (sp.fit(net, form, sp.Sparse(50)).network().state_dict() for form in (VECTOR, loader))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_summary_says_nothing_where_there_was_no_choice() -> None:
    assert sp.fit(mlp(), VECTOR, sp.Sparse(50)).notes == {}


@pytest.mark.parametrize("recipe", [sp.Sparse(75), sp.Matching()], ids=["channels", "states"])
def test_masks_of_pruning_stay_in_the_network_that_comes_back(recipe: sp.training.Recipe) -> None:
    net = mlp()
    for layer in (net[0], net[2]):
        prune.l1_unstructured(layer, "weight", amount=0.5)
    net(VECTOR).sum().backward()
    result = sp.fit(net, VECTOR, recipe)
    back = result.network()
    assert sorted(back.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    for place in (0, 2):
        mask: Any = net[place].weight_mask
        assert not back[place].weight[mask == 0].any()  # type: ignore[index]
    with torch.no_grad():
        torch.testing.assert_close(result.model.predict(VECTOR), back(VECTOR), check_dtype=False)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_normed_weights_come_back_plain(norm: str) -> None:
    net = mlp()
    getattr(nn.utils.parametrizations, norm)(net[0])
    result = sp.fit(torch.compile(net.eval(), backend="eager"), VECTOR, sp.Sparse(50))  # type: ignore[arg-type]
    back = result.network()
    assert type(back) is nn.Sequential
    assert type(back[0]) is nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(result.model.predict(VECTOR), back(VECTOR))


@pytest.mark.parametrize("recipe", [sp.Sparse(50), sp.Matching()], ids=["channels", "states"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_it_was(recipe: sp.training.Recipe, dtype: torch.dtype) -> None:
    net = mlp().to(dtype)
    result = sp.fit(net, VECTOR, recipe)
    back, name = result.network(), str(dtype).removeprefix("torch.")
    assert {value.dtype for value in back.state_dict().values()} == {dtype}
    assert f"{name} weights, fitted in float32 and given back in {name}" in " ".join(result.summary().split())
    with torch.no_grad():
        torch.testing.assert_close(
            result.model.predict(VECTOR), back.float()(VECTOR), atol=2e-2, rtol=2e-2, check_dtype=False
        )


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        ((VECTOR, CODES[:7]), None, r"inputs must hold as many samples in every array, got 60 in 'vector' and 7 in"),
        ({"vector": VECTOR}, None, r"net does not take inputs.*missing a required argument: 'codes'"),
        ((VECTOR, CODES), "probabilities", r"output 'probabilities' does not exist; net returns 'places'"),
        ((VECTOR, CODES), "places", r"output: for 'places', net must return floating-point numbers"),
        (iter([(VECTOR, CODES, CODES)]), None, r"it is not clear which are inputs"),
        (TensorDataset(VECTOR), None, r"inputs must be a NumPy array or a tensor.* got TensorDataset"),
    ],
)
def test_bad_input_is_refused_before_anything_is_solved(inputs: Any, output: str | None, message: str) -> None:
    with pytest.raises(sp.InputError, match=message):
        sp.fit(Two().eval(), inputs, output=output)
