"""Whatever runs the blocks, and in whatever order: the same solution, to the last bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import simplicit as sp
from families import PENALTIES, RowCase, random_case
from fitting import Subject
from simplicit.executors import Executor
from simplicit.progress import Progress
from simplicit.rows.products import TILE, fill_gram, fill_product

FIGURES = ("objective", "dual_gap", "relative_gap", "cardinality_gap", "multiplier", "residual", "status", "intercepts")


def same(one: sp.Solution, other: sp.Solution) -> None:
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(one.coefficients, name), getattr(other.coefficients, name))
    for name in FIGURES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert len(one.earlier) == len(other.earlier)
    for before, then in zip(one.earlier, other.earlier, strict=True):
        same(before, then)


def case(penalty: str, *, support: str = "own", rows: int = 90) -> RowCase:
    return random_case(17, rows=rows, largest=40, penalty=penalty, ball="slice", support=support, regime="normal")


def for_all(penalty: str) -> RowCase:
    """Two blocks."""
    return case(penalty, rows=40)


@cache
def serial_case(penalty: str) -> sp.Solution:
    return for_all(penalty).solve(executor="serial")


#: Exact matching takes the longest, and goes through one worker and beside other memory below.
@pytest.mark.parametrize(
    "penalty", [pytest.param(one, marks=pytest.mark.slow) if one == "BasisPursuit" else one for one in PENALTIES]
)
def test_every_penalty(executor: Executor, penalty: str) -> None:
    same(for_all(penalty).solve(executor=executor), serial_case(penalty))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", PENALTIES)
def test_one_worker(penalty: str) -> None:
    same(for_all(penalty).solve(executor=sp.Threads(workers=1)), serial_case(penalty))


@cache
def dense() -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(51, 67))
    return features, features @ (rng.normal(size=(67, 90)) * (rng.random((67, 90)) < 0.2)) + 0.1 * rng.normal(
        size=(51, 90)
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "rounds": {"rounds": 3, "intercept": True},
    "small blocks": {"block_rows": 7, "weight": np.linspace(0.5, 2.0, 90)},
    "three designs": {"support": np.arange(90)[:, None] % 3 == np.arange(67)[None] % 3},
    "balls": {"ball": sp.Ball(np.linspace(0.2, 3.0, 90), slice(0, 30))},
}


def with_options(name: str, executor: Executor | str) -> sp.Solution:
    return sp.solve_rows(*dense(), penalty=sp.L1(3.0), executor=executor, **OPTIONS[name])


serial_with_options = cache(lambda name: with_options(name, "serial"))


@pytest.mark.parametrize("name", OPTIONS)
def test_options(executor: Executor, name: str) -> None:
    same(with_options(name, executor), serial_with_options(name))


def warmed(executor: Executor | str) -> sp.Solution:
    return sp.solve_rows(*dense(), penalty=sp.L1(3.0), warm_start=start(), executor=executor)


start = cache(lambda: sp.solve_rows(*dense(), penalty=sp.L1(4.0)))
serial_warmed = cache(lambda: warmed("serial"))


def test_warm_starts(executor: Executor) -> None:
    same(warmed(executor), serial_warmed())


def in_single_precision() -> tuple[Any, ...]:
    return tuple(part.astype(np.float32) for part in dense())


def statistics() -> tuple[Any, ...]:
    return (sp.Gram.from_batches([dense()]),)


def elastic(given: Callable[[], tuple[Any, ...]], executor: Executor | str) -> sp.Solution:
    return sp.solve_rows(*given(), penalty=sp.ElasticNet(3.0, 1.0), intercept=True, executor=executor)


serial_elastic = cache(lambda given: elastic(given, "serial"))


@pytest.mark.parametrize("given", [in_single_precision, statistics])
def test_single_precision_and_grams(executor: Executor, given: Callable[[], tuple[Any, ...]]) -> None:
    same(elastic(given, executor), serial_elastic(given))


def path(executor: Executor | str) -> list[sp.Solution]:
    return list(sp.solve_path(*dense(), [sp.L1(9.0), sp.L1(3.0)], ball=[sp.Ball(1.0), None], executor=executor))


serial_path = cache(lambda: path("serial"))


def test_paths(executor: Executor) -> None:
    for first, second in zip(path(executor), serial_path(), strict=True):
        same(first, second)


@cache
def subject() -> Subject:
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.ReLU(), torch.nn.Linear(40, 5)).eval()
    return Subject(net, torch.rand(60, 20))


serial_fit = cache(lambda recipe: subject().fit(recipe, executor="serial"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [sp.Matching(sparsity=60, kappa=0.99), sp.Sparse(60)])
def test_a_fit(executor: Executor, recipe: sp.training.Recipe) -> None:
    one, other = subject().fit(recipe, executor=executor), serial_fit(recipe)
    for name in ("objective", "dual_gap", "nnz", "multiplier", "cardinality_gap"):
        np.testing.assert_array_equal(getattr(one.rows, name), getattr(other.rows, name))
    if isinstance(recipe, sp.Matching):
        for name in "ABCD":
            np.testing.assert_array_equal(getattr(one.model, name).toarray(), getattr(other.model, name).toarray())
        np.testing.assert_array_equal(one.model.state_bias, other.model.state_bias)
        assert one.trials == other.trials > 1
    for ours, theirs in zip(one.network().parameters(), other.network().parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@contextmanager
def scattered() -> Iterator[None]:
    """Memory in which new arrays lie elsewhere."""
    rng = np.random.default_rng(os.getpid())
    kept = [np.empty(int(size)) for size in rng.integers(1, 5000, size=200)]
    del kept[::2]
    yield
    del kept


@pytest.mark.slow
@pytest.mark.parametrize("penalty", ["L1", "BasisPursuit"])
def test_whatever_else_is_in_memory(penalty: str) -> None:
    problem = case(penalty, support="none", rows=12)
    first = problem.solve(executor="serial")
    for _ in range(3):
        with scattered():
            same(problem.solve(executor="serial"), first)


def test_however_many_threads_form_products() -> None:
    rng = np.random.default_rng(0)
    rows, others = rng.normal(size=(TILE + 100, 30)), rng.normal(size=(20, 30))
    grams, products = np.empty((4, TILE + 100, TILE + 100)), np.empty((4, 20, TILE + 100))
    before = torch.get_num_threads()
    try:
        for place, (threads, outside) in enumerate([(1, 1), (3, 1), (None, 1), (None, 3)]):
            torch.set_num_threads(outside)
            fill_gram(rows, grams[place], threads)
            fill_product(others, rows, products[place], threads)
    finally:
        torch.set_num_threads(before)
    for place in (1, 2, 3):
        np.testing.assert_array_equal(grams[place], grams[0])
        np.testing.assert_array_equal(products[place], products[0])
    np.testing.assert_array_equal(grams[0], grams[0].T)
    np.testing.assert_allclose(grams[0], rows @ rows.T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(products[0], others @ rows.T, rtol=1e-12, atol=1e-12)


def test_the_split_is_that_of_the_shapes_alone() -> None:
    """Blocks of up to 32 rows, hardest first; the workers have no say."""

    def sizes(**options: Any) -> list[int]:
        seen = [0]

        def hear(state: Progress) -> None:
            if state.stage == "rows" and state.done:
                seen.append(state.done)

        sp.solve_rows(*dense(), penalty=sp.L1(3.0), **options, progress=hear)
        return np.diff(seen).tolist()

    alone = sizes(executor=sp.Threads(workers=1))
    assert sum(alone) == 90
    assert max(alone) <= 32
    assert sorted(sizes(executor=sp.Threads(workers=5))) == sorted(alone)
    assert sizes(executor=sp.Threads(workers=5), block_rows=60) == [45, 45]


def test_bad_block_rows() -> None:
    for value in (0, -3, 2.5, True):
        with pytest.raises(sp.InputError, match="block_rows must be an integer of at least 1"):
            sp.solve_rows(*dense(), penalty=sp.L1(3.0), block_rows=value)
