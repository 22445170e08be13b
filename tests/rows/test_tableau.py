"""Condensed tableaux and their pivots against dense algebra."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from simplicit.rows.tableau import BALL, SPARE, Slots, Tableau, bend, couple, pivot

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
    slots = Slots.empty(ROWS, count, whole)
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
    tableau = Tableau(whole[:, :2, :2].clone())
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


def test_right_hand_sides_are_swept_along() -> None:
    rng = np.random.default_rng(1)
    whole, right = whole_table(rng), torch.from_numpy(rng.normal(size=(ROWS, 2 + FIRST + MORE)))
    tableau = Tableau(whole[:, :2, :2].clone())
    extend(tableau, whole, FIRST + MORE)
    rate, row = right.clone(), torch.arange(ROWS)
    for slots in ([2, 3, BALL], [4, 6, 2]):
        slot = torch.tensor(slots)
        pivot(tableau.table, rate, row, slot, tableau.slots.pivoted[row, slot])
        tableau.slots.active[row, slot] ^= True
    torch.testing.assert_close(tableau.swept(right[:, :, None])[:, :, 0], rate, rtol=1e-9, atol=1e-9)
    pivoted = tableau.slots.pivoted
    for i in range(ROWS):
        a, b = pivoted[i], ~pivoted[i]
        moved = torch.linalg.solve(whole[i][a][:, a], right[i, a])
        torch.testing.assert_close(rate[i, a], moved, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rate[i, b], right[i, b] - whole[i][b][:, a] @ moved, rtol=1e-9, atol=1e-9)


def test_curvature_that_bends_at_an_active_column() -> None:
    rng = np.random.default_rng(2)
    whole = whole_table(rng)
    change, row, slot = torch.tensor([0.7, 0.0, 2.0]).double(), torch.arange(ROWS), torch.tensor([4, SPARE, 3])
    right = torch.from_numpy(rng.normal(size=(ROWS, whole.shape[1])))

    def built(table: Tensor) -> tuple[Tensor, Tensor]:
        tableau = Tableau(table[:, :2, :2].clone())
        extend(tableau, table, FIRST + MORE)
        rate = right.clone()
        for slots in ([4, 2, 3], [2, 5, 6]):
            pivot(tableau.table, rate, row, torch.tensor(slots), torch.zeros(ROWS, dtype=torch.bool))
        return tableau.table, rate

    bent = whole.clone()
    bent[row, slot, slot] += change
    expected, expected_rate = built(bent)
    table, rate = built(whole)
    bend(table, rate, row, slot, change)
    torch.testing.assert_close(table, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rate, expected_rate, rtol=1e-9, atol=1e-9)


def test_a_column_that_the_ball_comes_to_see() -> None:
    rng = np.random.default_rng(3)
    whole = whole_table(rng)
    row, slot, by = torch.arange(ROWS), torch.tensor([4, 5, 6]), torch.tensor([1.0, -1.0, 0.5]).double()
    tight = torch.tensor([True, False, True])
    right = torch.from_numpy(rng.normal(size=(ROWS, whole.shape[1])))

    def built(table: Tensor) -> tuple[Tensor, Tensor]:
        table, rate = table.clone(), right.clone()
        for slots in (torch.where(tight, BALL, SPARE), torch.tensor([2, 3, 3])):
            pivot(table, rate, row, slots, torch.zeros(ROWS, dtype=torch.bool))
        return table, rate

    seen = whole.clone()
    seen[row, slot, BALL] += by
    seen[row, BALL, slot] += by
    expected, expected_rate = built(seen)
    table, rate = built(whole)
    couple(table, rate, row, slot, tight, by)
    torch.testing.assert_close(table, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(rate, expected_rate, rtol=1e-9, atol=1e-9)


def test_rows_come_and_go() -> None:
    rng = np.random.default_rng(4)
    whole = whole_table(rng)
    wide, narrow = Tableau(whole[:, :2, :2].clone()), Tableau(whole[:, :2, :2].clone())
    extend(wide, whole, FIRST)
    extend(narrow, whole, 1)
    wide.pivot(torch.tensor([3, 2, BALL]))
    joined = Tableau.joined([wide, narrow])
    assert joined.shape == (2 * ROWS, 2 + FIRST)
    torch.testing.assert_close(joined.table[:ROWS], wide.table)
    torch.testing.assert_close(joined.table[ROWS:, :3, :3], narrow.table)
    assert not bool(joined.slots.active[ROWS:].any())
    part = joined.copy(torch.tensor([0, 4]))
    torch.testing.assert_close(part.table[0], wide.table[0])
    wide.put(torch.tensor([1]), narrow.copy(torch.tensor([0])))
    torch.testing.assert_close(wide.table[1, :3, :3], narrow.table[0])
    torch.testing.assert_close(wide.table[1, 3:, 3:], torch.eye(FIRST - 1).double())
    assert bool((wide.slots.column[1, 3:] == -1).all())
