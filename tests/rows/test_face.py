"""The Schur-complement updates of the polish against a dense solve from scratch, change by change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import Array
from simplicit.rows.design import Design
from simplicit.rows.face import Face, Row


@dataclass
class Setting:
    """A row problem on a design whose matrices are at hand."""

    row: Row
    phi: Array  # (m, k), in the units of the design
    target: Array

    @classmethod
    def random(cls, seed: int, m: int = 40, k: int = 14, *, ball: bool = True, bent: bool = False) -> Setting:
        rng = np.random.default_rng(seed)
        design = Design.of_features(rng.normal(size=(m, k)), np.arange(k), None)
        assert design.transposed is not None
        curvature = rng.uniform(0.1, 1, size=k) if bent else np.zeros(k)
        row = Row(
            design,
            kink=rng.uniform(0.01, 0.1, size=k),
            curvature=curvature,
            threshold=rng.uniform(0, 0.2, size=k) if bent else np.zeros(k),
            ball=np.where(np.arange(k) < k // 2, rng.uniform(0.5, 2, size=k), 0.0) if ball else np.zeros(k),
            radius=0.4 if ball else 1.0,
        )
        return cls(row, design.transposed.numpy().T, rng.normal(size=m))

    def gradient(self, w: Array) -> Array:
        return np.asarray(self.phi.T @ (self.target - self.phi @ w))

    def objective(self, w: Array) -> float:
        size, row = abs(w), self.row
        bent = 0.5 * row.curvature * np.square(np.maximum(size - row.threshold, 0.0))
        return float(0.5 * np.square(self.target - self.phi @ w).sum() + (row.kink * size + bent).sum())

    def start(self, columns: Array, seed: int) -> Array:
        """A feasible point, not zero on the columns."""
        w = np.zeros(len(self.row.kink))
        w[columns] = np.random.default_rng(seed).choice([-1.0, 1.0], size=len(columns)) * 0.02
        return w

    def face(self, columns: Array, w: Array, *, tight: bool) -> Face:
        gradient = self.gradient(w)
        signs = np.where(w != 0, np.sign(w), np.sign(gradient))[columns]
        return Face(self.row, columns, w[columns], gradient[columns], signs, tight=tight)

    def whole(self, face: Face, point: Array) -> Array:
        w = np.zeros(len(self.row.kink))
        w[face.columns] = point
        return w

    def dense(self, face: Face) -> tuple[Array, float]:
        """The minimiser of the face's model by one dense system, on the columns of the face."""
        free = ~face.held
        base = self.whole(face, np.where(free, face.start, 0.0))
        columns, signs, start = face.columns[free], face.signs[free], face.start[free]
        slope, _ = self.row.slopes(face.columns, face.start)
        matrix = self.phi[:, columns].T @ self.phi[:, columns] + np.diag(face.bend[free])
        right = self.gradient(base)[columns] - signs * slope[free]
        normal = signs * self.row.ball[columns]
        step = np.linalg.solve(matrix, right)
        excess, mu = float(normal @ (start + step)) - self.row.radius, 0.0
        if normal.any() and (excess > 0 or face.tight):
            along = np.linalg.solve(matrix, normal)
            mu = excess / float(normal @ along)
            step = step - mu * along
        point = np.zeros(len(face.columns))
        point[free] = start + step
        return point, mu

    def check(self, face: Face) -> Array:
        """Everything that the face answers, against the direct evaluation; returns its minimiser."""
        found, mu = face.minimiser()
        expected, wanted = self.dense(face)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-8)
        assert mu == pytest.approx(wanted, rel=1e-6, abs=1e-8)
        assert not found[face.held].any()
        np.testing.assert_allclose(
            face.gradient(), self.gradient(self.whole(face, face.current))[face.columns], rtol=1e-7, atol=1e-8
        )
        rng = np.random.default_rng(0)
        points = np.where(face.held, 0.0, face.current + 0.1 * rng.normal(size=(4, len(found))))
        changes = face.change(points)
        objectives = np.array([self.objective(self.whole(face, p)) for p in points])
        np.testing.assert_allclose(changes - changes[0], objectives - objectives[0], rtol=1e-7, atol=1e-8)
        return found


flags = st.fixed_dictionaries({"ball": st.booleans(), "bent": st.booleans()})


@given(seed=st.integers(0, 10_000), kind=flags, tight=st.booleans(), size=st.integers(1, 12))
def test_a_new_face(seed: int, kind: dict[str, bool], tight: bool, size: int) -> None:
    setting = Setting.random(seed, **kind)
    columns = np.random.default_rng(seed).permutation(14)[:size]
    setting.check(setting.face(columns, setting.start(columns, seed), tight=tight and kind["ball"]))


@given(seed=st.integers(0, 10_000), kind=flags, tight=st.booleans(), leave=st.integers(1, 4))
def test_columns_leave(seed: int, kind: dict[str, bool], tight: bool, leave: int) -> None:
    setting = Setting.random(seed, **kind)
    columns = np.random.default_rng(seed).permutation(14)[:9]
    face = setting.face(columns, setting.start(columns, seed), tight=tight and kind["ball"])
    leaving = np.zeros(9, dtype=bool)
    for j in np.random.default_rng(seed + 1).permutation(9)[:leave]:
        leaving[:] = False
        leaving[j] = True
        point = face.current.copy()
        point[j] = 0.0
        face.leave(leaving, point)
        setting.check(face)
    assert face.held.sum() == leave
    assert face.changes == leave


@given(seed=st.integers(0, 10_000), kind=flags, tight=st.booleans())
def test_columns_leave_enter_and_come_back(seed: int, kind: dict[str, bool], tight: bool) -> None:
    """Rounds as the polish makes them: to the minimiser, some leave, others enter, those that left come back."""
    rng = np.random.default_rng(seed)
    setting = Setting.random(seed, **kind)
    columns = rng.permutation(14)[:9]
    face = setting.face(columns, setting.start(columns, seed), tight=tight and kind["ball"])
    for _ in range(4):
        minimiser = setting.check(face)
        leaving = np.zeros(len(face.columns), dtype=bool)
        leaving[rng.choice(np.flatnonzero(~face.held))] = True
        face.leave(leaving, np.where(leaving, 0.0, minimiser))
        face.current, mu = setting.check(face), face.minimiser()[1]
        # Settled is a minimiser with all signs right.
        face.settled = bool((face.current * face.signs >= 0).all())
        w = setting.whole(face, face.current)
        gradient = setting.gradient(w)
        outside = np.flatnonzero(w == 0)
        entering = np.sort(rng.permutation(outside)[:2])
        # A face that the step has taken to another piece, or to another sign in a tight ball, asks for a new one.
        if not face.restart(w, gradient, entering, mu):
            columns = np.flatnonzero(w)
            face = setting.face(columns, w, tight=face.tight)
            continue
        assert set(entering) <= set(face.columns[~face.held])
        np.testing.assert_array_equal(setting.whole(face, face.current), w)
    setting.check(face)


def test_rounds_do_go_on_without_a_new_face() -> None:
    """The property above would be empty if every restart were refused."""
    accepted = 0
    for seed in range(20):
        setting = Setting.random(seed)
        columns = np.arange(9)
        face = setting.face(columns, setting.start(columns, seed), tight=False)
        face.current, mu = face.minimiser()
        face.settled = bool((face.current * face.signs >= 0).all())
        w = setting.whole(face, face.current)
        if face.restart(w, setting.gradient(w), np.array([10, 12]), max(mu, 0.0)):
            accepted += 1
            setting.check(face)
            assert face.changes == 2
    assert accepted >= 10


def test_a_face_wears() -> None:
    setting = Setting.random(0, ball=False)
    face = setting.face(np.arange(12), setting.start(np.arange(12), 0), tight=False)
    for j in range(9):
        assert not face.worn
        leaving = np.arange(12) == j
        face.leave(leaving, np.where(leaving, 0.0, face.current))
    assert face.worn
    w = setting.whole(face, face.current)
    assert not face.restart(w, setting.gradient(w), np.array([12]), 0.0)


def test_a_point_off_the_face_is_refused() -> None:
    setting = Setting.random(0, ball=False)
    face = setting.face(np.arange(5), setting.start(np.arange(5), 0), tight=False)
    w = setting.start(np.arange(6), 0)
    assert not face.restart(w, setting.gradient(w), np.array([8]), 0.0)


def test_more_columns_than_samples_in_a_tight_ball() -> None:
    """m + 1 columns, which only the ball makes unique."""
    rng = np.random.default_rng(0)
    setting = Setting.random(0, m=5, k=12)
    setting.row.ball[:] = rng.uniform(0.5, 2, size=12)
    columns = np.arange(6)
    w = setting.start(columns, 0)
    face = setting.face(columns, w, tight=True)
    assert face.sigma > 0
    found, mu = face.minimiser()
    signs = face.signs
    normal = signs * setting.row.ball[columns]
    gram = setting.phi[:, columns].T @ setting.phi[:, columns]
    right = setting.phi[:, columns].T @ setting.target - signs * setting.row.kink[columns]
    system = np.block([[gram, normal[:, None]], [normal[None], np.zeros((1, 1))]])
    expected = np.linalg.solve(system, np.append(right, setting.row.radius))
    np.testing.assert_allclose(found, expected[:-1], rtol=1e-6, atol=1e-7)
    assert mu == pytest.approx(expected[-1], rel=1e-6, abs=1e-7)


def test_slopes_and_prices() -> None:
    setting = Setting.random(3, bent=True)
    row, columns = setting.row, np.array([2, 5, 7])
    w = np.array([[0.0, 0.05, -3.0], [0.3, -0.3, 0.1]])
    step = 1e-7
    for point, priced in zip(w, row.priced(columns, w), strict=True):
        slope, bend = row.slopes(columns, point)
        outward = np.where(point < 0, -1.0, 1.0)
        further = row.priced(columns, point + step * np.diag(outward))
        np.testing.assert_allclose((further - priced) / step, slope, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(bend, np.where(abs(point) >= row.threshold[columns], row.curvature[columns], 0))
    assert row.bends
    assert not Setting.random(3).row.bends
