"""What a journal of a fit is known by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from simplicit.rows import PiecewiseQuadratic
from tied_nets import made


class Own:
    """A user's penalty without equality, which prints as its place in memory."""

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def pieces(self, n_rows: int, n_columns: int) -> PiecewiseQuadratic:
        return sp.L1(beta=self.beta).pieces(n_rows, n_columns)


def plain() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    return net, torch.rand(40, 6, dtype=torch.float64)


@pytest.mark.parametrize("make", [plain, lambda: made("plain")], ids=["layers", "convolutions"])
def test_a_user_s_penalty_is_known_by_what_it_does(make: Any, tmp_path: Path) -> None:
    net, inputs = make()
    options: dict[str, Any] = {"kappa": None, "journal": tmp_path / "journal"}
    first, again = (sp.fit(net, inputs, penalty=Own(1e-3), **options) for _ in range(2))
    assert np.array_equal(first.rows.objective, again.rows.objective)
    with pytest.raises(sp.InputError, match="journal"):
        sp.fit(net, inputs, penalty=Own(2e-3), **options)


@pytest.mark.parametrize("states", ["all", "blocks"])
def test_chosen_states_are_another_fit(states: str, tmp_path: Path) -> None:
    net, inputs = plain()
    options: dict[str, Any] = {"kappa": None, "structure": "feedforward", "journal": tmp_path / "journal"}
    sp.fit(net, inputs, states=states, **options)
    with pytest.raises(sp.InputError, match="journal"):
        sp.fit(net, inputs, states="blocks" if states == "all" else "all", **options)
