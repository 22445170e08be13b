"""Model cards: every figure on them is that of the fit, and agreement is measured on what is given."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.training import FitResult

needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="the extra hf is not installed")
HEADINGS = ["Recipe", "Data", "Agreement with the dense network", "Layers", "Use", "Limits"]


class Own(nn.Module):
    """Two layers, of which the second is called head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


@pytest.fixture(scope="module")
def fitted() -> tuple[Own, FitResult]:
    torch.manual_seed(0)
    net = Own().eval()
    return net, sp.fit(net, torch.rand(80, 12), sp.Sparse(60))


def test_a_card_has_the_figures_of_the_fit(fitted: tuple[Own, FitResult]) -> None:
    result = fitted[1]
    card = result.card(data="uniform numbers")
    assert card.startswith(
        "---\nlibrary_name: pytorch\ntags:\n- sparse\n- pruned\n- simplicit\n---\n\n# Own, 60.0 % sparse"
    )
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == HEADINGS
    assert f"{result.nnz:,} of {result.weight_count:,} are left" in card
    assert "- Sparse: sparsity 60, structure baseline" in card
    assert "Fitted on 80 samples, without labels: uniform numbers." in card
    assert "Not measured" in card
    for layer, name in zip(result.layers, ("body", "head"), strict=True):
        share = f"{100 * layer.non_zeros / layer.weights:.1f} %"
        assert f"| `{name}` | {layer.weights} | {share} | {100 * layer.error**0.5:.1f} % |" in card
    assert result.card(title="Mine").count("# Mine\n") == 1


def test_agreement_is_measured_on_inputs(fitted: tuple[Own, FitResult]) -> None:
    net, result = fitted
    inputs = torch.rand(50, 12, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        dense, sparse = net(inputs), result.network()(inputs)
    same = 100 * float((dense.argmax(1) == sparse.argmax(1)).double().mean())
    off = 100 * float((sparse - dense).norm() / dense.norm())
    card = result.card(inputs)
    assert "Measured on 50 samples." in card
    assert f"| agreement: the same largest output |  | {same:.2f} % |" in card
    found = re.search(r"outputs off by, of their norm \|  \| ([\d.]+) %", card)
    assert found is not None
    assert float(found[1]) == pytest.approx(off, abs=0.01)


def test_what_a_card_cannot_be_made_of(fitted: tuple[Own, FitResult]) -> None:
    net, result = fitted
    with pytest.raises(sp.InputError, match="inputs"):
        result.card(torch.rand(4, 11))
    whole = sp.fit(net, torch.rand(80, 12), sp.Matching(sp.L1(1e-3), structure="dense", kappa=0.99))
    with pytest.raises(sp.InputError, match="structure"):
        whole.card()


@needs_transformers
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["BertModel", "GPT2LMHeadModel"])
def test_a_sparse_transformer_keeps_the_habits_of_its_kind(tmp_path: Path, kind: str) -> None:
    """It is saved by save_pretrained and loaded by from_pretrained, tied weights and all, with its card beside it."""
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)
    sizes = {"vocab_size": 19, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = model.config_class(**sizes, intermediate_size=24, max_position_embeddings=24, n_positions=24)
    net = model(config).eval()
    draw = torch.Generator().manual_seed(1)
    inputs = {
        "input_ids": torch.randint(1, 19, (30, 6), generator=draw),
        "attention_mask": (torch.arange(6) < torch.randint(3, 7, (30, 1), generator=draw)).long(),
    }
    more = {"use_cache": False} if "GPT2" in kind else {}
    result = sp.fit(net, inputs | more, sp.Sparse(50))
    sparse = result.network()
    sparse.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text(result.card(inputs | more), encoding="utf-8")
    again = model.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        first, second = (one(**inputs)[0] for one in (sparse, again))
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    for (name, value), (other, read) in zip(sparse.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(value, read)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f'net = {kind}.from_pretrained("FOLDER")' in card
    with torch.no_grad():
        before, after = (one(**inputs)[0].argmax(-1)[inputs["attention_mask"] != 0] for one in (net, sparse))
    assert f"| {100 * float((before == after).double().mean()):.2f} % |" in card  # padding is not counted
