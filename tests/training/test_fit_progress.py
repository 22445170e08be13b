"""What a fit tells while it goes on: every phase by its name, with steps that reach their end."""

from __future__ import annotations

import torch
from torch import nn

import simplicit as sp
from simplicit.progress import Progress


def test_every_phase_of_a_fit_is_told_and_reaches_its_end() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)).eval()
    heard: list[Progress] = []
    sp.fit(net, torch.rand(80, 12), sp.Sparse(60), progress=heard.append)
    told = dict.fromkeys(" > ".join(one.stage for one in state.chain) for state in heard)
    outermost = list(dict.fromkeys(name.partition(" > ")[0] for name in told))
    assert outermost == ["capture", "states", "pricing", "fitting"]
    assert told.keys() >= {
        "pricing > Gram matrix",
        "pricing > in 0 > what errors do to the outputs",
        "pricing > in 0 > path",
        "fitting > in 0 > exchange",
        "fitting > in 0 > bounds on other supports",
        "fitting > in 2 > rows > Gram matrix",
        "fitting > checking",
    }
    last = {" > ".join(one.stage for one in state.chain): state for state in heard}
    assert all(state.done == state.total for name, state in last.items() if name not in ("capture", "states"))
    assert (last["fitting"].done, last["fitting"].total) == (2, 2)
    assert last["fitting > in 0 > rows"].worst_gap is not None
