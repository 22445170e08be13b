"""What cannot fit into memory is refused before the start."""

from __future__ import annotations

import pytest

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.training.channels import channel_layers
from simplicit.training.channels.memory import check_samples_fit, live_numbers
from tied_nets import subject

AVAILABLE = "simplicit.machine.available_memory"


@pytest.mark.parametrize("recipe", [sp.Sparse(), sp.Matching()])
def test_what_cannot_fit_is_refused_before_the_start(
    monkeypatch: pytest.MonkeyPatch, recipe: sp.training.Recipe
) -> None:
    own = subject("residual")
    # At the sum: the skip path, the branch before its ReLU or norm, and their results, of 4 x 7 x 7 numbers each.
    assert 3 * 196 <= live_numbers(own.graph) <= 4 * 196
    monkeypatch.setattr(AVAILABLE, lambda: 1000)
    with pytest.raises(sp.InputError, match=r"inputs: 40 samples, with .*give fewer samples"):
        own.fit(recipe)


def needed(monkeypatch: pytest.MonkeyPatch, own: Subject, differentiated: int) -> int:
    """The least memory that is enough for 40 samples."""
    layers, low, high = channel_layers(own.graph), 0, 2**40
    with monkeypatch.context() as patch:
        while high - low > 1:
            middle = (low + high) // 2
            patch.setattr(AVAILABLE, lambda free=middle: free)
            try:
                check_samples_fit(own.graph, layers, 40, 1, differentiated=differentiated)
                high = middle
            except sp.InputError:
                low = middle
    return high


def test_sensitivities_take_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derivatives keep every value of a batch: few samples may fit into memory without them alone."""
    own = subject("residual")
    none, few, many = (needed(monkeypatch, own, differentiated) for differentiated in (0, 4, 40))
    assert none < few < many
    # At the least the results of all layers, at one position.
    assert many - none > 8 * 40 * sum(layer.rows for layer in channel_layers(own.graph))


def test_they_count_wherever_supports_are_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where positions do not weigh, as in a network of linear layers."""
    own = Subject(mlp(30, 40, 5), uniform(40, 30))
    none, many = (needed(monkeypatch, own, differentiated) for differentiated in (0, 40))
    monkeypatch.setattr(AVAILABLE, lambda: (none + many) // 2)
    with pytest.raises(sp.InputError, match="inputs: 40 samples"):
        own.fit(sp.Sparse())
