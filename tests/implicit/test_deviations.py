"""Deviations of programs over boxes, against points of the boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from simplicit.errors import InputError
from simplicit.implicit import Block
from simplicit.implicit.groups.program import Step, Value

MUL = (Step("mul.Tensor", (Value(0), Value(1))),)
PROGRAMS = {
    "mul": (((3,), (3,)), MUL, 3),
    "gate": (((2, 3), (2, 1)), MUL, 6),
    "matmul": (((2, 3), (3, 2)), (Step("matmul.default", (Value(0), Value(1))),), 4),
    "attention": (
        ((2, 2), (2, 2)),
        (Step("softmax.int", (Value(0), -1)), Step("matmul.default", (Value(2), Value(1)))),
        4,
    ),
    "square": (((3,), (3,)), (Step("square.default", (Value(0),)), Step("sub.Tensor", (Value(2), Value(1)))), 3),
    "moved": (((2, 3), (3, 2)), (Step("transpose.int", (Value(0), 1, 2)), Step("mul.Tensor", (Value(2), Value(1)))), 6),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_move_by_no_more_than_the_coupling_says(name: str) -> None:
    operands, steps, size = PROGRAMS[name]
    width = sum(int(np.prod(shape)) for shape in operands)
    rng = np.random.default_rng(0)
    low = rng.uniform(-2.0, 0.5, width)
    domain = low, low + rng.uniform(0.1, 3.0, width)
    block = Block(operands, steps, size, domain=domain)
    G = block.coupling.toarray()
    assert G.shape == (size, width)
    assert block.slope >= G.sum(axis=1).max()
    assert Block(operands, steps, size).slope == np.inf
    z, other = (torch.from_numpy(rng.uniform(domain[0] - 0.5, domain[1] + 0.5, (200, width))) for _ in range(2))
    moved = (block(z) - block(other)).abs().numpy()
    assert (moved <= (z - other).abs().numpy() @ G.T + 1e-12).all()
    inside = torch.from_numpy(np.clip(z.numpy(), *domain))
    assert torch.equal(block(inside), Block(operands, steps, size)(inside))
    if name == "mul":  # as sharp as the corners
        assert np.allclose(G[:, :3].diagonal(), np.abs(domain).max(axis=0)[3:])
    rounding = block.rounding(10.0, torch.float32)
    assert float((block(z.float()).double() - block(z)).abs().max()) <= rounding + block.slope * 1e-6
    lower, upper = block.image(z - 0.1, z + 0.1)
    assert bool(((lower <= block(z)) & (block(z) <= upper)).all())


def test_a_norm_has_none() -> None:
    block = Block(((4,),), (Step("layer_norm.default", (Value(0), (4,))),), 4, domain=(-np.ones(4), np.ones(4)))
    assert block.coupling is None
    assert block.slope == np.inf


@pytest.mark.parametrize(
    "ends", [(np.zeros(3), np.ones(4)), (np.zeros(6), -np.ones(6)), (np.zeros(6), np.full(6, np.inf))]
)
def test_a_domain_is_a_box(ends: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(InputError, match="two ends of 6 finite numbers"):
        Block(((3,), (3,)), MUL, 3, domain=ends)
