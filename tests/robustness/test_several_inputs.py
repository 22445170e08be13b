"""Attacks and certificates on networks of several inputs: only floating-point ones move."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from mixed import model_and_samples
from simplicit.robustness import accuracy, autoattack, box_radii, square

NET, MODEL, U = model_and_samples()
LABELS = MODEL.predict(U).argmax(1)


@pytest.mark.parametrize("victim", [MODEL, NET], ids=["model", "network"])
@pytest.mark.parametrize("attack", [sp.fgsm, partial(sp.pgd, steps=5), partial(square, queries=20)])
def test_only_floating_point_inputs_move(victim: Any, attack: Any) -> None:
    found = attack(victim, U, LABELS, 0.2)
    assert {name: value is U[name] for name, value in found.items()} == {name: name != "image" for name in U}
    moved = (found["image"].double() - U["image"].double()).abs().max()
    assert 0.1 < moved <= 0.2
    assert 0 <= found["image"].min() <= found["image"].max() <= 1
    assert found["image"].dtype == torch.float32
    assert accuracy(victim, found, LABELS) <= accuracy(victim, U, LABELS) == 1.0


def test_attacks_take_every_form_and_radii_by_name() -> None:
    arrays = tuple(value.numpy() for value in U.values() if isinstance(value, Tensor))
    by_name = sp.fgsm(MODEL, U, LABELS, {"image": 0.1})
    in_order = sp.fgsm(MODEL, arrays, LABELS, 0.1)
    assert isinstance(in_order, tuple)
    assert isinstance(in_order[2], np.ndarray)
    np.testing.assert_array_equal(in_order[2], by_name["image"].numpy())
    packed = sp.fgsm(MODEL, MODEL.batch(U), LABELS, 0.1)
    np.testing.assert_array_equal(packed, MODEL.batch(by_name))
    result = sp.attack(
        MODEL, U, LABELS, [0.1, 0.3], attacks=("fgsm", "pgd"), steps=5, restarts=1, sources={"net": NET}, keep=True
    )
    assert result.checks.gradients is not None
    assert result.checks.gradients.largest_difference < 1e-9
    assert result.adversarial is not None
    assert result.adversarial.shape == (2, 7, MODEL.n_inputs)
    named = sp.attack(MODEL, U, LABELS, {"image": 0.3}, attacks="fgsm")
    assert named.eps == (0.3,)
    np.testing.assert_array_equal(named.held["fgsm"][0], result.held["fgsm"][1])


def test_certificates_know_the_tokens() -> None:
    found = sp.certify(MODEL, U, LABELS, [0.01, 0.1])
    assert found.accuracy().tolist() == [1.0, 6 / 7]  # which they are not where an id may be any other
    named = sp.certify(MODEL, U, LABELS, {"image": 0.1}, method="interval")
    np.testing.assert_array_equal(named.margins["interval"][0], found.margins["interval"][1])
    attacked = sp.pgd(MODEL, U, LABELS, 0.1)
    Y = MODEL.predict(attacked).double()
    left = Y.gather(1, LABELS[:, None]) - Y.scatter(1, LABELS[:, None], -torch.inf).amax(1, keepdim=True)
    assert (left[:, 0].numpy() >= found.margins["linear"][1]).all()
    assert np.isfinite(box_radii(MODEL, U, 0.1)).all()


class Tokens(nn.Module):
    """Of token ids alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(12, 3)

    def forward(self, ids: Tensor) -> Tensor:
        result: Tensor = self.head(self.table(ids).flatten(1))
        return result


def test_integers_alone_have_no_box() -> None:
    net, ids = Tokens().eval(), torch.arange(15).reshape(5, 3) % 9
    model, labels = sp.from_torch(net, ids), net(ids).argmax(1)
    told = r"model: takes integers alone, 'ids', and there is no box .* in the space of its embedding.*inputs_embeds"
    for victim in (net, model):
        assert accuracy(victim, ids, labels) == 1.0
        for attack in (sp.fgsm, sp.pgd, sp.attack):
            with pytest.raises(sp.InputError, match=told):
                attack(victim, ids, labels, 0.1)
    with pytest.raises(sp.InputError, match=told):
        sp.certify(model, ids, labels, 0.1)


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ({"ids": 0.1}, r"eps must name inputs of floating-point numbers \('image'\), got 'ids'"),
        ({}, r"eps must name inputs .* got none"),
        ({"image": -1}, r"eps must be a finite number of at least 0, got -1"),
    ],
)
def test_radii_that_name_nothing_to_move(eps: Any, message: str) -> None:
    for call in (sp.fgsm, sp.certify, sp.attack):
        with pytest.raises(sp.InputError, match=message):
            call(MODEL, U, LABELS, eps)


def test_what_is_refused() -> None:
    with pytest.raises(sp.InputError, match=r"eps is a mapping of names, the model has one input without a name"):
        sp.fgsm(sp.from_torch(nn.Linear(4, 3).eval(), torch.rand(2, 4)), torch.rand(2, 4), [0, 1], {"u": 0.1})
    with pytest.raises(sp.InputError, match=r"U has no input 'image'"):
        sp.pgd(MODEL, {name: value for name, value in U.items() if name != "image"}, LABELS, 0.1)
    pytest.importorskip("pyautoattack")
    with pytest.raises(sp.InputError, match=r"AutoAttack moves all numbers of a sample alike"):
        autoattack(MODEL, U, LABELS, 0.1)
