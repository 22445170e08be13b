"""Loops of groups: what is iterated and what is substituted, and the bound by blocks against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import simplicit as sp
from simplicit.errors import InputError, NotWellPosedError
from simplicit.implicit import Activation, Block, CsrMap, ImplicitModel, StateGroup, fixed_point
from simplicit.implicit.groups.program import Step, Value
from simplicit.implicit.ordering import cycles_in_order

SOFTMAX = Block(((3,),), (Step("softmax.int", (Value(0), 1)),), 3)
SIGMOID = Block(((3,),), (Step("mul.Tensor", (Value(0), 2.0)), Step("sigmoid.default", (Value(1),))), 3)
NORM = Block(((3,),), (Step("layer_norm.default", (Value(0), (3,))),), 3)


def mixed(seed: int, block: Block, size: float, n: int = 3) -> ImplicitModel:
    """A tanh group and a block that depend on each other, a ReLU before and one behind."""
    rng = np.random.default_rng(seed)
    groups = [
        StateGroup("behind", 2, Activation("relu")),
        StateGroup("phi", n, Activation("tanh")),
        StateGroup("block", 3, block),
        StateGroup("before", 2, Activation("relu")),
    ]
    sizes, pre = {group.name: group.size for group in groups}, {group.name: group.pre_size for group in groups}
    pairs = [("phi", "phi"), ("phi", "block"), ("block", "phi"), ("block", "block"), ("phi", "before")]
    pairs += [("behind", "phi"), ("behind", "block")]
    blocks = {(r, c): CsrMap(size * rng.normal(size=(pre[r], sizes[c]))) for r, c in pairs}
    blocks |= {("before", "input"): CsrMap(rng.normal(size=(2, 2))), ("output", "behind"): CsrMap(np.eye(2))}
    return ImplicitModel(groups, blocks, n_inputs=2, n_outputs=2, state_bias=rng.normal(size=sum(pre.values())))


def choices(model: ImplicitModel) -> float:
    """The largest λ_pf over all choices of one row of the block, by brute force."""
    cyclic = [group for group in model.groups if group.name in ("phi", "block")]
    n = cyclic[0].size
    A = np.abs(model.A.toarray())[2 : 2 + n + 3, 2 : 2 + n + 3]
    A[n:] *= cyclic[1].activation.slope
    whole = np.hstack([A[:, :n], A[:, n:].sum(axis=1, keepdims=True)])
    found = [np.abs(np.linalg.eigvals(np.vstack([whole[:n], whole[n + row]]))).max() for row in range(3)]
    return float(max(found))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(0.05, 1.0))
def test_the_bound_is_the_largest_over_all_choices_of_rows(seed: int, size: float) -> None:
    model = mixed(seed, SOFTMAX, size)
    expected, found = choices(model), sp.perron_frobenius(model)
    assert found.lower <= expected * (1 + 1e-9)
    assert expected <= found.upper * (1 + 1e-9)
    assert found.upper - found.lower <= 1e-6 * found.upper
    norms = {
        (r, c): model.blocks[r, c].row_sums().max() * (0.5 if r == "block" else 1.0)
        for r, c in product(("phi", "block"), repeat=2)
    }
    blip = np.array([[norms[r, c] for c in ("phi", "block")] for r in ("phi", "block")])
    assert found.upper <= np.abs(np.linalg.eigvals(blip)).max() * (1 + 1e-6)


def test_only_the_loop_is_iterated() -> None:
    model = mixed(0, SOFTMAX, 0.3)
    plan = model.state_equation.plan
    assert [loop.names for loop in plan.loops] == [("phi", "block")]
    assert not plan.triangular
    (loop,) = plan.loops
    assert [part if isinstance(part, int) else part.names for part in plan.parts] == [0, ("phi", "block"), 3]
    assert len(model.state_equation.contraction_of(loop).s) == 6
    U = np.random.default_rng(1).normal(size=(4, 2))
    found = sp.equilibrium(model, U, 1e-13)
    X = np.zeros((4, model.n_states))
    for _ in range(300):
        Z = torch.from_numpy(X @ model.A.T + U @ model.B.T + model.state_bias)
        X = torch.cat([g.activation(Z[:, model.pre_slices[g.name]]) for g in model.groups], dim=1).numpy()
    assert np.abs(found.states - X).max() < 1e-12
    assert (np.abs(found.states - X).max(axis=1) <= found.error_bound + 1e-14).all()


def test_a_chain_of_activations_is_taken_state_by_state() -> None:
    model = mixed(2, SIGMOID, 0.5)
    A = np.abs(model.A.toarray())[2:8, 2:8]
    A[3:] *= 0.5
    assert sp.perron_frobenius(model).value == pytest.approx(np.abs(np.linalg.eigvals(A)).max())


def test_a_large_cycle_is_bounded_by_whole_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = sp.perron_frobenius(mixed(3, SOFTMAX, 0.12))
    monkeypatch.setattr("simplicit.implicit.blockwise._LARGEST_WRITTEN", 0)
    model = mixed(3, SOFTMAX, 0.12)
    coarse = sp.perron_frobenius(model)
    assert fine.upper <= coarse.upper < 1
    U = np.random.default_rng(1).normal(size=(4, 2))
    assert np.abs(model.predict(U) - mixed(3, SOFTMAX, 0.12).predict(U)).max() < 1e-9


def test_a_block_without_a_constant_is_named() -> None:
    model = mixed(0, NORM, 0.1)
    for use in (lambda: sp.perron_frobenius(model), lambda: model.predict(np.zeros((1, 2)))):
        with pytest.raises(NotWellPosedError, match=r"group 'block', a block \(layer_norm\)") as raised:
            use()
        assert raised.value.upper == np.inf


def test_methods_count_and_end() -> None:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(30, 30))
    A *= 0.995 / np.abs(np.linalg.eigvals(np.abs(A))).max()
    model = ImplicitModel.from_matrices(
        np.abs(A), rng.normal(size=(30, 2)), np.eye(30), np.zeros((30, 2)), activation="relu"
    )
    U = rng.normal(size=(5, 2))
    picard, newton, anderson = (sp.equilibrium(model, U, method=name) for name in ("picard", "newton", "anderson"))
    assert newton.iterations < anderson.iterations < picard.iterations / 5
    for found in (newton, anderson):
        assert np.abs(found.states - picard.states).max() <= (found.error_bound + picard.error_bound).max()
    with pytest.raises(InputError, match="method"):
        sp.equilibrium(model, U, method="broyden")


def test_newton_has_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mixed(0, SOFTMAX, 0.3)
    monkeypatch.setattr(fixed_point, "_LARGEST_NEWTON", 3)
    with pytest.raises(InputError, match="take 'anderson' or 'picard'"):
        sp.equilibrium(model, np.zeros((1, 2)), method="newton")


def test_anderson_falls_back_to_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, U = mixed(0, SOFTMAX, 0.3), np.random.default_rng(0).normal(size=(3, 2))
    expected = sp.equilibrium(model, U, method="picard")
    monkeypatch.setattr(fixed_point._History, "mixed", lambda self, rows, image: image + 1.0)
    found = sp.equilibrium(model, U, method="anderson")
    assert found.iterations <= 2 * expected.iterations
    assert np.abs(found.states - expected.states).max() < 1e-8


def test_what_is_not_proved_may_come_to_rest_all_the_same() -> None:
    model = ImplicitModel.from_matrices(
        [[0.0, 1.5], [-1.5, 0.0]], np.eye(2), np.eye(2), np.zeros((2, 2)), activation="tanh"
    )
    U = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = model.state_equation.rest(U).X
    A = torch.tensor([[0.0, 1.5], [-1.5, 0.0]], dtype=torch.float64)
    assert float((torch.tanh(found @ A.T + U) - found).abs().max()) < 1e-9
    divergent = ImplicitModel.from_matrices([[2.0]], [[1.0]], [[1.0]], [[0.0]], activation="softplus")
    with pytest.raises(sp.ConvergenceError, match="do not come to rest"):
        divergent.state_equation.rest(torch.ones(1, 1, dtype=torch.float64))


def test_the_order_of_cycles() -> None:
    found = cycles_in_order({"out": ["a"], "a": ["b", "in"], "b": ["a"], "in": [], "self": ["self", "out"]})
    assert [*found] == [(("in",), False), (("a", "b"), True), (("out",), False), (("self",), True)]
