"""What a newcomer passes by mistake in Python: never a wrong result without a word, always one line with its remedy.

What is certainly wrong is an :class:`InputError`; what may be meant is a warning.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simplicit as sp
from simplicit.network import TrainingModeWarning
from simplicit.training import DoubtfulInputsWarning


class Two(nn.Module):
    """A network of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.a(x)) + self.b(y)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


NET = seeded(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
CONV = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)))
TWO = seeded(Two)
U = torch.rand(40, 6, generator=torch.Generator().manual_seed(1))
IMAGES = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(2))
LABELS = NET(U).detach().argmax(1)
HALF = sp.Sparse(50)
MODEL = sp.from_torch(NET, U)
RESULT = sp.fit(NET, U, HALF)
BROKEN = U.clone().index_put_((torch.tensor(3), torch.tensor(4)), torch.tensor(torch.nan))


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "network and samples swapped": (lambda: sp.fit(U, NET), "got Tensor; the network comes first"),
    "samples and recipe swapped": (lambda: sp.fit(NET, HALF, U), "the order is fit(net, inputs, recipe)"),
    "a recipe not made": (lambda: sp.fit(NET, U, sp.Sparse), "make one, simplicit.Sparse(…)"),
    "a sparsity for a recipe": (lambda: sp.fit(NET, U, 90), "did you mean simplicit.Sparse(90)?"),
    "a share for a recipe": (lambda: sp.fit(NET, U, 0.9), "did you mean simplicit.Sparse(90)?"),
    "the name of a recipe": (lambda: sp.fit(NET, U, "sparse"), "give simplicit.Sparse(…)"),
    "a sparsity in (0, 1)": (lambda: sp.fit(NET, U, sp.Sparse(0.9)), "per cent, got 0.9; did you mean 90?"),
    "a sparsity of 100": (lambda: sp.fit(NET, U, sp.Sparse(100)), "from 0 to below 100, got 100"),
    "a sparsity as text": (lambda: sp.fit(NET, U, sp.Sparse("90")), "got '90'; give the number 90"),
    "a sparsity that leaves nothing": (
        lambda: sp.fit(NET, U, sp.Sparse(99.9)),
        "leaves none of the 45 weights; take 97",
    ),
    "labels for samples": (lambda: sp.fit(NET, LABELS), "inputs[None], and labels are not needed"),
    "samples with labels": (lambda: sp.fit(NET, (U, LABELS)), "labels are left out, no fit uses them"),
    "samples in columns": (lambda: sp.fit(NET, U.T), "samples come first: give inputs.T"),
    "a single sample without its axis": (lambda: sp.fit(NET, U[0]), "one sample alone is inputs[None]"),
    "a single image without its axis": (lambda: sp.fit(CONV, IMAGES[0]), "one sample alone is inputs[None]"),
    "channels last": (lambda: sp.fit(CONV, IMAGES.permute(0, 2, 3, 1)), "give np.moveaxis(inputs, -1, 1)"),
    "lists": (lambda: sp.fit(NET, U.tolist()), "give np.array(inputs, dtype=np.float32)"),
    "a sample with NaN": (lambda: sp.fit(NET, BROKEN), "got NaN or infinite values in sample 3"),
    "infinite samples": (lambda: sp.fit(NET, np.full((9, 6), np.inf)), "infinite values in sample 0"),
    "samples that are all equal": (lambda: sp.fit(NET, torch.ones(40, 6)), "inputs: all 40 samples are equal"),
    "no samples": (lambda: sp.fit(NET, U[:0]), "samples first and m >= 1, got (0, 6)"),
    "one of two inputs": (lambda: sp.fit(TWO, U), "missing a required argument: 'y'; its forward takes (x: "),
    "two inputs of other lengths": (lambda: sp.fit(TWO, (U, U[:9])), "got 40 in 'x' and 9 in 'y'"),
    "a path for a network": (lambda: sp.fit("net.pt", U), "got str; make the network, and put the weights"),
    "weights for a network": (lambda: sp.fit(NET.state_dict(), U), "by net.load_state_dict"),
    "a class for a network": (lambda: sp.fit(nn.Linear, U), "give a network of this class, Linear(…)"),
    "forward for a network": (lambda: sp.fit(NET.forward, U), "give the module whose method this is"),
    "a result for a network": (lambda: sp.fit(RESULT, U), "of a fit, give result.network()"),
    "a network without values": (lambda: sp.fit(nn.Linear(6, 3, device="meta").eval(), U), "load its weights first"),
    "samples without values": (lambda: sp.fit(NET, U.to("meta")), "must have values, got a tensor on the device meta"),
    "an unknown device": (lambda: sp.fit(NET, U, HALF, device="gpu"), "'gpu' is no device; give 'cpu' or 'cuda'"),
    "an unknown executor": (lambda: sp.fit(NET, U, HALF, executor="process"), "choose one of 'serial', 'threads'"),
    "a layer that there is not": (lambda: sp.fit(NET, U, sp.Sparse(50, layers={"fc": None})), "those there are: '0'"),
    "a share for a layer": (lambda: sp.fit(NET, U, sp.Sparse(50, layers={"0": 0.5})), "got 0.5; did you mean 50?"),
    "a pattern turned round": (lambda: sp.fit(NET, U, sp.Sparse(pattern="4:2")), "expected N:M with 0 < N < M"),
    "a radius as text": (lambda: sp.attack(MODEL, U, LABELS, "8/255"), "give a number, such as 8 / 255"),
    "a radius in levels of grey": (lambda: sp.attack(MODEL, U, LABELS, 8), "in units of the inputs, such as 8/255"),
    "labels before samples": (lambda: sp.attack(MODEL, LABELS, U, 0.1), "U must have shape (m, 6), samples first"),
    "labels that are one-hot": (lambda: sp.attack(MODEL, U, torch.eye(3)[LABELS], 0.1), "one for each sample"),
    "labels from 1": (lambda: sp.attack(MODEL, U, LABELS * 0 + 3, 0.1), "got 3 for sample 0; count classes from 0"),
    "an attack on a result": (lambda: sp.pgd(RESULT, U, LABELS, eps=0.1), "give result.model or result.network()"),
    "a proof about a result": (lambda: sp.certify(RESULT, U, LABELS, 0.1), "of a fit, give result.model"),
    "a proof about a network": (lambda: sp.certify(NET, U, LABELS, 0.1), "see simplicit.from_torch for networks"),
    "a result that is saved": (lambda: sp.save(RESULT, "r"), "save result.model or result.network()"),
    "weights into a path": (lambda: sp.load_weights("folder", NET), "got str; make the network"),
    "a penalty not made": (
        lambda: sp.solve_rows(U.numpy(), U.numpy(), penalty=sp.L1),
        "such as simplicit.L1(beta=1e-3)",
    ),
}


@pytest.mark.parametrize("slip", REFUSED)
def test_what_is_certainly_wrong(slip: str) -> None:
    call, told = REFUSED[slip]
    with pytest.raises(sp.InputError, match=re.escape(told)) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def normed() -> nn.Module:
    """A network whose batch norm was calibrated on samples in [0, 1]."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, momentum=None), nn.ReLU(), nn.Linear(5, 3))
    net(U)
    return net.eval()


MEANT: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], type[Warning], str]] = {
    "bytes": (
        lambda: (NET, (255 * U).to(torch.uint8)),
        DoubtfulInputsWarning,
        "whole numbers from 2 to 254, as of pixels",
    ),
    "pixels as floats": (lambda: (NET, (255 * U).round()), DoubtfulInputsWarning, "are they normalised as in training"),
    "another scale": (lambda: (normed(), 200 * U.numpy()), DoubtfulInputsWarning, "first batch norm .* times as large"),
    "the same again": (lambda: (NET, U[:10].repeat(4, 1)), DoubtfulInputsWarning, "only 10 of the 40 samples are"),
    "a single sample": (lambda: (NET, U[:1]), DoubtfulInputsWarning, "a single sample says nothing"),
    "training mode": (lambda: (normed().train(), U), TrainingModeWarning, r"Call net\.eval\(\) first"),
}


@pytest.mark.parametrize("slip", MEANT)
def test_what_may_be_meant(slip: str) -> None:
    make, kind, told = MEANT[slip]
    net, inputs = make()
    with pytest.warns(kind, match=told) as caught:
        sp.fit(net, inputs, HALF)
    assert [one.filename for one in caught] == [__file__]  # shown where the user called


@pytest.mark.parametrize("inputs", [U.double(), U.numpy(), U.numpy().astype(">f8")])
def test_another_dtype_says_the_same(inputs: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = sp.fit(NET, inputs, HALF)
    for ours, theirs in zip(fitted.network().parameters(), RESULT.network().parameters(), strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)


def test_a_network_that_scales_its_pixels_is_not_doubted() -> None:
    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = NET

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x / 255)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sp.fit(Scaling().eval(), (255 * U).round(), HALF).sparsity >= 50


def test_a_result_stays_as_it_is_where_the_network_is_changed_afterwards() -> None:
    net = seeded(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    fitted = sp.fit(net, U, HALF)
    before = fitted.network()(U)
    with torch.no_grad():
        net[0].weight.mul_(3)
    assert torch.equal(fitted.network()(U), before)
