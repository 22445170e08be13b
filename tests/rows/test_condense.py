"""Bases of rows and what is condensed from them, against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from simplicit.rows.condense import Bases, compressed
from simplicit.rows.design import Design, SampleDesign
from simplicit.rows.factor import PROXIMAL

ROWS, COLUMNS = 3, 14


def bases_of(seed: int = 0, *, samples: int = 40) -> tuple[Bases, Design, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    design = SampleDesign.of_features(rng.normal(size=(samples, COLUMNS)), np.arange(COLUMNS), None)
    active = torch.from_numpy(rng.random((ROWS, COLUMNS)) < 0.5)
    normal = torch.from_numpy(rng.choice([-1.0, 0.0, 1.0], size=(ROWS, COLUMNS)))
    curvature = torch.from_numpy(rng.uniform(0.1, 1.0, size=(ROWS, COLUMNS)))
    return Bases.of(design, active, normal, curvature), design, active, curvature


def base_matrix(design: Design, columns: Tensor, curvature: Tensor) -> Tensor:
    return design.gram[columns][:, columns] + curvature[columns].diag()


def test_what_is_encoded_comes_back() -> None:
    bases, design, active, curvature = bases_of()
    rng = np.random.default_rng(1)
    right = torch.where(bases.real[:, None], torch.from_numpy(rng.normal(size=(ROWS, 2, bases.real.shape[1]))), 0.0)
    encoded = bases.encode(right)
    for i in range(ROWS):
        columns = torch.nonzero(active[i])[:, 0]
        n = len(columns)
        assert bases.columns[i, bases.real[i]].tolist() == columns.tolist()
        matrix = base_matrix(design, columns, curvature[i])
        expected = torch.linalg.solve(matrix, right[i, :, :n].T)
        torch.testing.assert_close(bases.decode(encoded)[i, :, :n].T, expected, rtol=1e-7, atol=1e-8)
        inner = bases.inner(encoded, encoded)[i]
        torch.testing.assert_close(inner, right[i, :, :n] @ expected, rtol=1e-7, atol=1e-8)


def test_factors_of_both_kinds_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """DᵀH⁻¹D of every row, whichever way its own factor goes."""
    rng = np.random.default_rng(4)
    monkeypatch.setattr("simplicit.rows.factor.COLUMNS_PER_SAMPLE", 0.5)
    design = SampleDesign.of_features(rng.normal(size=(10, COLUMNS)), np.arange(COLUMNS), None)
    active = torch.arange(COLUMNS) < torch.tensor([[3], [9], [4]])
    curvature = torch.from_numpy(rng.uniform(0.1, 1.0, size=(ROWS, COLUMNS)))
    bases = Bases.of(design, active, torch.ones(ROWS, COLUMNS).double(), curvature)
    assert [factor.symmetric for factor in bases.factors] == [True, False, True]
    right = torch.where(bases.real[:, None], torch.from_numpy(rng.normal(size=(ROWS, 2, 9))), 0.0)
    inner = bases.inner(bases.encode(right), bases.encode(right))
    for i, n in enumerate((3, 9, 4)):
        matrix = base_matrix(design, torch.arange(n), curvature[i])
        expected = right[i, :, :n] @ torch.linalg.solve(matrix, right[i, :, :n].T)
        torch.testing.assert_close(inner[i], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("wide", [False, True])
def test_the_tableau_of_watched_columns(wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """T = K − DᵀH⁻¹D, in one step or in two, by Cholesky or by Woodbury's identity."""
    if wide:
        monkeypatch.setattr("simplicit.rows.factor.COLUMNS_PER_SAMPLE", 0)
    bases, design, active, curvature = bases_of(2)
    # Two columns of the base and two outside, in every row; the last slot of the second row stands for nothing.
    places = [torch.nonzero(active[i])[:2, 0].tolist() + torch.nonzero(~active[i])[:2, 0].tolist() for i in range(ROWS)]
    column = torch.tensor(places)
    column[1, 3] = -1
    place = torch.tensor([[0, 1, -1, -1]]).expand(ROWS, -1)
    first = bases.first_table()
    table = torch.zeros(ROWS, 6, 6).double()
    table[:, :2, :2] = first
    for part in (slice(0, 3), slice(3, 4)):
        at, entries, corner = bases.watch(
            column[:, part], place[:, part], curvature.gather(1, column[:, part].clamp(0))
        )
        for i in range(ROWS):
            own = at[i][at[i] > 1]
            real = at[i] > 1
            table[i, : entries.shape[1], own] = entries[i][:, real]
            table[i, own, : entries.shape[1]] = entries[i][:, real].T
            table[i, own[:, None], own] = corner[i][real][:, real]
    for i in range(ROWS):
        base, watched = torch.nonzero(active[i])[:, 0], [c for c in column[i].tolist() if c >= 0]
        border = torch.zeros(len(base), 2 + len(watched)).double()
        border[:, 0] = bases.normal[i, : len(base)]
        border[0, 2] = border[1, 3] = -1.0
        corner = torch.zeros(2 + len(watched), 2 + len(watched)).double()
        for slot, c in enumerate(watched[2:], start=4):
            border[:, slot] = design.gram[base, c]
            for other, e in enumerate(watched[2:], start=4):
                corner[slot, other] = design.gram[c, e] + (c == e) * (curvature[i, c] + PROXIMAL * design.gram[c, c])
        corner[1, 1] = 1.0
        expected = corner - border.T @ torch.linalg.solve(base_matrix(design, base, curvature[i]), border)
        q = len(expected)
        torch.testing.assert_close(table[i, :q, :q], expected, rtol=1e-6, atol=1e-7)


def test_rows_come_and_go() -> None:
    bases, _, _, _ = bases_of(3)
    other, _, _, _ = bases_of(3)
    other.watch(torch.full((ROWS, 1), 0), torch.full((ROWS, 1), -1), torch.zeros(ROWS, 1).double())
    whole = Bases.joined([bases.select(torch.tensor([0])), other.select(torch.tensor([1, 2]))])
    right = torch.where(bases.real[:, None], 1.0, 0.0).double()
    n = whole.real.shape[1]
    torch.testing.assert_close(whole.decode(whole.encode(right[:, :, :n])), bases.decode(bases.encode(right[:, :, :n])))
    assert whole.watched.tolist() == [2, 3, 3]
    whole.put(torch.tensor([2]), bases.select(torch.tensor([2])))
    assert whole.watched.tolist() == [2, 3, 2]
    assert whole.outside[2].tolist() == [-1, -1, -1]
    assert not bool(whole.border[2, 2].any())


def test_columns_of_masks() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    columns, real = compressed(mask, mask.sum(1))
    assert columns.tolist() == [[0, 2], [0, 0], [1, 0]]
    assert real.tolist() == [[True, True], [False, False], [True, False]]
