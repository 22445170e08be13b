"""Condensed tableaux and their pivots against dense algebra."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from simplicit.rows.tableau import BALL, SPARE, Couplings, Pivots, Slots, Tableau

Array = npt.NDArray[np.float64]

ROWS, FIRST, MORE = 3, 4, 3


def symmetric(rng: np.random.Generator, size: int) -> Tensor:
    root = rng.normal(size=(ROWS, size, size))
    return torch.from_numpy(root @ root.transpose(0, 2, 1) + np.eye(size))


def swept(table: Tensor, pivoted: Tensor) -> Tensor:
    """The principal pivot transform on the slots ``pivoted``, by definition: (y, z) swap there in y = −Tz."""
    result = torch.empty_like(table)
    for i, chosen in enumerate(pivoted):
        a, b = torch.nonzero(chosen)[:, 0], torch.nonzero(~chosen)[:, 0]
        inner = torch.linalg.inv(table[i][a][:, a])
        across = table[i][b][:, a] @ inner
        result[i, a[:, None], a] = -inner
        result[i, b[:, None], a] = across
        result[i, a[:, None], b] = across.T
        result[i, b[:, None], b] = table[i][b][:, b] - across @ table[i][a][:, b]
    return result


def extend(tableau: Tableau, whole: Tensor, count: int) -> None:
    q = tableau.shape[1]
    slots = Slots.empty(ROWS, count, whole.device)
    slots.column[:] = torch.arange(count)
    at = torch.arange(q, q + count).expand(ROWS, -1)
    entries, corner = whole[:, :q, q : q + count], whole[:, q : q + count, q : q + count]
    tableau.extend(at, entries.clone(), corner.clone(), slots)


def whole_table(rng: np.random.Generator) -> Tensor:
    whole = symmetric(rng, 2 + FIRST + MORE)
    whole[:, SPARE] = whole[:, :, SPARE] = 0.0
    whole[:, SPARE, SPARE] = 1.0
    return whole


def test_extensions_before_and_after_pivots_are_one_tableau() -> None:
    rng = np.random.default_rng(0)
    whole = whole_table(rng)
    tableau = Tableau.first(whole[:, :2, :2].clone())
    extend(tableau, whole, FIRST)
    for slots in ([2, 3, BALL], [4, SPARE, 2], [BALL, 5, 4]):
        tableau.pivot(torch.tensor(slots))
    extend(tableau, whole, MORE)
    tableau.pivot(torch.tensor([7, 6, SPARE]))
    pivoted = torch.zeros(ROWS, 2 + FIRST + MORE, dtype=torch.bool)
    for row, slots in enumerate(([2, 4, BALL, 7], [3, 5, 6], [BALL, 2, 4])):
        pivoted[row, slots] = True
    real = torch.arange(2 + FIRST + MORE) != SPARE
    expected = swept(whole, pivoted)
    torch.testing.assert_close(tableau.table[:, real][:, :, real], expected[:, real][:, :, real], rtol=1e-9, atol=1e-9)
    # And back again: every pivot is its own inverse.
    for slots in ([2, 3, BALL], [4, 5, 2], [BALL, 6, 4], [7, SPARE, SPARE]):
        tableau.pivot(torch.tensor(slots))
    torch.testing.assert_close(tableau.table[:, real][:, :, real], whole[:, real][:, :, real], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("waiting", [1, 2, 16])
def test_right_hand_sides_are_swept_along(waiting: int) -> None:
    rng = np.random.default_rng(1)
    whole, right = whole_table(rng), torch.from_numpy(rng.normal(size=(ROWS, 2 + FIRST + MORE)))
    tableau = Tableau.first(whole[:, :2, :2].clone())
    extend(tableau, whole, FIRST + MORE)
    pivots, rate, row = Pivots(tableau.table, waiting), right.clone(), torch.arange(ROWS)
    for slots in ([2, 3, BALL], [4, 6, 2], [5, SPARE, 3]):
        slot = torch.tensor(slots)
        pivots.pivot(rate.numpy(), slot.numpy(), tableau.slots.pivoted[row, slot].numpy())
        tableau.slots.active[row, slot] ^= slot != SPARE
    pivots.settle()
    real = torch.arange(whole.shape[1]) != SPARE
    pivoted = tableau.slots.pivoted
    torch.testing.assert_close(
        tableau.table[:, real][:, :, real], swept(whole, pivoted)[:, real][:, :, real], rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(tableau.swept(right[:, :, None])[:, real, 0], rate[:, real], rtol=1e-9, atol=1e-9)
    for i in range(ROWS):
        a, b = pivoted[i], ~pivoted[i] & real
        moved = torch.linalg.solve(whole[i][a][:, a], right[i, a])
        torch.testing.assert_close(rate[i, a], moved, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rate[i, b], right[i, b] - whole[i][b][:, a] @ moved, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("waiting", [1, 2, 3, 16])
def test_lines_are_those_of_the_settled_tableau(waiting: int, elsewhere: bool) -> None:
    rng = np.random.default_rng(6)
    whole = whole_table(rng)
    pivots, rate = Pivots(whole.clone(), waiting), rng.normal(size=(ROWS, whole.shape[1]))
    if elsewhere:  # as if the table were on another device
        pivots.near = None
    for slots, back in (([2, 3, BALL], False), ([4, SPARE, 2], False), ([5, 3, 4], True)):
        pivots.pivot(rate, np.array(slots), np.array([False, back, False]))
        pivots.bend(rate, np.array([3, 5, 6]), np.array([0.5, 0.0, 1.0]))
    slot = np.array([4, BALL, 3])
    before = pivots.line(slot)
    pivots.settle()
    np.testing.assert_allclose(before, pivots.table.numpy()[np.arange(ROWS), slot], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(pivots.table, pivots.table.transpose(1, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("waiting", [1, 3])
def test_curvature_that_bends_at_an_active_column(waiting: int) -> None:
    rng = np.random.default_rng(2)
    whole = whole_table(rng)
    change, row, slot = np.array([0.7, 0.0, 2.0]), np.arange(ROWS), np.array([4, SPARE, 3])
    right = rng.normal(size=(ROWS, whole.shape[1]))

    def built(table: Tensor) -> tuple[Pivots, Array]:
        tableau = Tableau.first(table[:, :2, :2].clone())
        extend(tableau, table, FIRST + MORE)
        pivots, rate = Pivots(tableau.table, waiting), right.copy()
        for slots in ([4, 2, 3], [2, 5, 6]):
            pivots.pivot(rate, np.array(slots), np.zeros(ROWS, dtype=bool))
        return pivots, rate

    bent = whole.clone()
    bent[row, slot, slot] += torch.from_numpy(change)
    (expected, expected_rate), (pivots, rate) = built(bent), built(whole)
    pivots.bend(rate, slot, change)
    expected.settle()
    pivots.settle()
    torch.testing.assert_close(pivots.table, expected.table, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(rate, expected_rate, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_column_that_the_ball_comes_to_see(leaves: bool) -> None:
    """Coupled and then pivoted, or pivoted and then coupled to nothing again."""
    rng = np.random.default_rng(3)
    whole = whole_table(rng)
    row, slot, by = np.arange(ROWS), np.array([4, 5, 6]), np.array([1.0, -1.0, 0.5])
    tight, nothing = np.array([True, False, True]), np.zeros(ROWS)
    right = rng.normal(size=(ROWS, whole.shape[1]))

    def built(table: Tensor) -> tuple[Pivots, Array]:
        pivots, rate = Pivots(table.clone()), right.copy()
        for slots in (np.where(tight, BALL, SPARE), np.array([2, 3, 3])):
            pivots.pivot(rate, slots, np.zeros(ROWS, dtype=bool))
        return pivots, rate

    seen = whole.clone()
    seen[row, slot, BALL] += torch.from_numpy(by)
    seen[row, BALL, slot] += torch.from_numpy(by)
    (expected, expected_rate), (pivots, rate) = built(whole if leaves else seen), built(seen if leaves else whole)
    if leaves:  # what has been in and goes out
        pivots.pivot(rate, slot, np.zeros(ROWS, dtype=bool))
        pivots.pivot(rate, slot, np.ones(ROWS, dtype=bool), Couplings(tight, nothing, -by))
    else:
        pivots.pivot(rate, slot, np.zeros(ROWS, dtype=bool), Couplings(tight, by, nothing))
        expected.pivot(expected_rate, slot, np.zeros(ROWS, dtype=bool))
    expected.settle()
    pivots.settle()
    torch.testing.assert_close(pivots.table, expected.table, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(rate, expected_rate, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("waiting", [1, 2, 16])
def test_rows_that_do_different_things_at_once(waiting: int) -> None:
    """One enters in a tight ball, one leaves, one pivots on the ball itself."""
    rng = np.random.default_rng(7)
    whole, right = whole_table(rng), rng.normal(size=(ROWS, 2 + FIRST + MORE))
    slot, back = np.array([4, 5, BALL]), np.array([False, True, False])
    tight, entering, leaving = np.array([True, False, False]), np.array([1.0, 0.0, 0.0]), np.array([0.0, -1.0, 0.0])

    def begun() -> tuple[Pivots, Array]:
        pivots, rate = Pivots(whole.clone(), waiting), right.copy()
        pivots.pivot(rate, np.array([BALL, 5, 3]), np.zeros(ROWS, dtype=bool))
        return pivots, rate

    (together, rate), (apart, expected) = begun(), begun()
    together.pivot(rate, slot, back, Couplings(tight, entering, leaving))
    for row in range(ROWS):
        own = np.arange(ROWS) == row
        apart.pivot(
            expected,
            np.where(own, slot, SPARE),
            back & own,
            Couplings(tight, np.where(own, entering, 0.0), np.where(own, leaving, 0.0)),
        )
    together.settle()
    apart.settle()
    real = np.arange(whole.shape[1]) != SPARE
    np.testing.assert_allclose(rate[:, real], expected[:, real], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        together.table.numpy()[:, real][:, :, real], apart.table.numpy()[:, real][:, :, real], rtol=1e-9, atol=1e-9
    )


def test_rows_come_and_go() -> None:
    rng = np.random.default_rng(4)
    whole = whole_table(rng)
    wide, narrow = Tableau.first(whole[:, :2, :2].clone()), Tableau.first(whole[:, :2, :2].clone())
    extend(wide, whole, FIRST)
    extend(narrow, whole, 1)
    wide.pivot(torch.tensor([3, 2, BALL]))
    joined = Tableau.joined([wide, narrow])
    assert joined.shape == (2 * ROWS, 2 + FIRST)
    torch.testing.assert_close(joined.table[:ROWS], wide.table)
    torch.testing.assert_close(joined.table[ROWS:, :3, :3], narrow.table)
    assert not bool(joined.slots.active[ROWS:].any())
    part = joined.select(torch.tensor([0, 4]))
    torch.testing.assert_close(part.table[0], wide.table[0])
    wide.put(torch.tensor([1]), narrow.select(torch.tensor([0])))
    torch.testing.assert_close(wide.table[1, :3, :3], narrow.table[0])
    assert not bool(wide.table[1, 3:].any())
    assert bool((wide.slots.column[1, 3:] == -1).all())
