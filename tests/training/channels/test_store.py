"""States on disk: the same bits, nothing left behind, no more memory than was said."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from fitting import Subject, mlp, uniform
from simplicit.errors import DataError
from simplicit.training.channels import ChannelProvider, Samples, Store, in_slices
from simplicit.training.channels.layers import ChannelLayer
from simplicit.training.channels.statistics import Statistics
from simplicit.training.channels.store import PREFIX, SETTLED
from tied_nets import subject

BUDGET = "simplicit.training.channels.store.BUDGET"
WHOLE = "simplicit.training.channels.stages.WHOLE"


@pytest.fixture
def no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a fit with a folder keeps is on disk."""
    monkeypatch.setattr(BUDGET, 0)


def many(own: Subject) -> Tensor:
    """A few batches of samples."""
    x: Tensor = own.inputs
    return torch.cat([x, 0.7 * x.flip(-1), 0.3 * x.roll(1, 0) + 0.1])[:117]


def gone_through(own: Subject, samples: Any, workers: int = 1) -> list[bytes]:
    """All that a fit makes of its samples, as bytes."""
    provider = ChannelProvider.of(own.graph, samples, workers=workers)
    found = [provider.sensitivities(layer) for layer in provider.layers]
    for _, statistics in provider._sweep.statistics():
        found += [statistics.products, statistics.features]

    def solve(_: ChannelLayer, statistics: Statistics) -> np.ndarray[Any, Any]:
        found.extend([statistics.products, statistics.cross, statistics.energy])
        return 0.9 * statistics.weights

    changed, errors = provider._sweep.run(solve)
    found += [value.numpy() for value in changed.values()]
    return [array.tobytes() for array in [*found, np.array([*errors.values()])]]


@pytest.mark.parametrize(("name", "budget"), [("residual", 0), ("depthwise", 300_000)])
def test_the_same_bits_wherever_states_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, budget: int
) -> None:
    own = subject(name)
    wanted = gone_through(own, many(own))
    monkeypatch.setattr(WHOLE, 0)  # what crosses between stages of the derivative is there too
    store = Store(tmp_path, budget)
    samples = Samples.read(own.graph, in_slices(many(own)), store)
    assert len(samples) == 117
    assert gone_through(own, samples, workers=3) == wanted
    assert store.most_held <= budget
    assert store.most_written > 0
    del samples
    assert (store.held, store.written, [*tmp_path.iterdir()]) == (0, 0, [])


def test_values_come_back_as_they_lay(tmp_path: Path) -> None:
    store, known = Store(tmp_path, 0), {}
    x = torch.arange(60.0).reshape(3, 4, 5)
    views = [store.values(name) for name in "abcd"]
    for values, value in zip(views, (x, x.transpose(1, 2), (x[:, 1:3], 7), x[:1].expand(9, 4, 5)), strict=True):
        values.append(value, known)
    assert store.written <= x.numel() * 4 + 64  # views have no bytes of their own
    assert [path.name for path in tmp_path.iterdir()] == ["000001-a"]
    for found, wanted in zip(
        (views[1][0], views[2][0][0], views[3][0]), (x.mT, x[:, 1:3], x[:1].expand(9, 4, 5)), strict=True
    ):
        assert torch.equal(found, wanted)
        assert found.stride() == wanted.stride()
    assert views[2][0][1] == 7
    views[0].drop(0)
    assert store.written > 0
    views.clear()
    del values
    known.clear()
    assert (store.written, [*tmp_path.iterdir()]) == (0, [])


def test_conjugates_are_kept_as_such() -> None:
    """Torch marks them, and leaves the bytes as they are."""
    values, known = Store().values("x"), {}
    x = torch.randn(6, dtype=torch.complex64)
    for value in (x, x.conj(), x.conj().imag):
        values.append(value, known)
    for found, wanted in zip(values, (x, x.conj(), x.conj().imag), strict=True):
        assert torch.equal(found, wanted)


def test_what_takes_no_part_of_a_batch_is_computed_once(tmp_path: Path) -> None:
    """A weight that is computed is as large for every number of samples."""
    net = nn.utils.parametrizations.weight_norm(nn.Linear(30, 40))
    own = Subject(nn.Sequential(net, nn.Linear(40, 3)).eval(), torch.rand(150, 30))
    store = Store()
    gone_through(own, Samples.of(own.graph, own.inputs, store))
    assert store.most_held <= 150 * 4 * 2 * (40 + 3 + 3) + 150 * 4 * 43


# --- what is said before, and what is there ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "whole"), [("residual", 2**28), ("residual", 0), ("plain", 2**28)])
def test_no_more_is_kept_than_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, whole: int) -> None:
    monkeypatch.setattr(WHOLE, whole)
    own = subject(name)
    for folder in (None, tmp_path):
        store = Store(folder, 0)
        samples = Samples.read(own.graph, in_slices(many(own)), store)
        needs = ChannelProvider.of(own.graph, samples, workers=1).needs
        gone_through(own, samples)
        most, said = (store.most_held, needs.memory) if folder is None else (store.most_written, needs.disk)
        assert most <= said
        assert folder is None or most >= 0.5 * said


def test_a_folder_is_offered_where_it_would_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = subject("residual")
    x = many(own).expand(10, *many(own).shape).reshape(-1, *own.inputs.shape[1:])
    store = Store(tmp_path, 0)
    needs = ChannelProvider.of(own.graph, Samples.of(own.graph, x, store), workers=1).needs
    monkeypatch.setattr("simplicit.machine.available_memory", lambda: int(needs.memory) + 1)
    monkeypatch.setattr(BUDGET, 0)
    with pytest.raises(sp.InputError, match=r"inputs: 1,170 samples, .*give fewer samples, or a folder .* with cache="):
        ChannelProvider.of(own.graph, x, workers=1)
    ChannelProvider.of(own.graph, Samples.of(own.graph, x, store), workers=1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(sp.InputError, match=r"cache .*: states need about .* GiB on disk, .*more room"):
        ChannelProvider.of(own.graph, Samples.of(own.graph, x, store), workers=1)


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [False, True])
def test_nothing_is_left(tmp_path: Path, error: type[BaseException] | None, there: bool) -> None:
    cache = tmp_path / "cache"
    if there:
        cache.mkdir()
        (cache / "of somebody else").touch()

    def use() -> None:
        with Store.opened(cache) as store:
            store.budget = 0
            values = store.values("x")
            values.append(torch.ones(5))
            assert len([*cache.glob("*/*")]) == 1
            if error is not None:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(error):
            use()
    assert [path.name for path in tmp_path.rglob("*")] == (["cache", "of somebody else"] if there else [])


def test_what_a_killed_fit_left_behind_is_removed(tmp_path: Path) -> None:
    left, young, long_ago = tmp_path / f"{PREFIX}left", tmp_path / f"{PREFIX}young", time.time() - 2 * SETTLED
    for folder in (left, young):
        folder.mkdir()
        (folder / "000001-x").touch()
    os.utime(left, (long_ago, long_ago))
    with Store.opened(tmp_path) as first:
        assert first.folder is not None
        os.utime(first.folder, (long_ago, long_ago))
        with Store.opened(tmp_path) as second:
            assert {path.name for path in tmp_path.iterdir()} == {first.folder.name, second.folder.name, young.name}  # type: ignore[union-attr]


def test_a_bad_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    net, x = mlp(4, 3), uniform(9, 4)
    with pytest.raises(sp.InputError, match=r"cache .*file: is no folder; name one"):
        sp.fit(net, x, cache=file)
    with pytest.raises(DataError, match=r"cache .*inside: cannot be written \(Not a directory\); make room or name"):
        sp.fit(net, x, cache=file / "inside")
    with pytest.raises(sp.InputError, match="cache must be a path"):
        sp.fit(net, x, cache=3)  # type: ignore[arg-type]


# --- a whole fit ------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_error_and_the_journal_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_budget: None
) -> None:
    net, x = mlp(12, 10, 8, 3), uniform(130, 12)
    wanted = sp.fit(net, x, sp.Sparse(50), executor="serial")
    write, left = Path.open, [27]

    def full(path: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if path.parent.name.startswith(PREFIX) and "b" in mode and "+" in mode:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, mode, *rest, **named)

    keeping: dict[str, Any] = {"journal": tmp_path / "j", "cache": tmp_path / "c", "executor": "serial"}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(DataError, match=r"cache .*c: cannot be written \(No space left on device\); make room"):
            sp.fit(net, x, sp.Sparse(50), **keeping)
    assert not (tmp_path / "c").exists()
    resumed: list[int] = []
    keeping["cache"] = None  # it is the same fit
    found = sp.fit(net, x, sp.Sparse(50), progress=lambda state: resumed.append(state.resumed), **keeping)
    assert max(resumed) > 0
    for ours, theirs in zip(found.network().parameters(), wanted.network().parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Both(nn.Module):
    """Two inputs, one of integers, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.of_x, self.of_ids, self.head = nn.Linear(6, 5), nn.Embedding(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, ids: Tensor, scaled: bool = False) -> Tensor:
        hidden = torch.relu(self.of_x(x) + self.of_ids(ids))
        out: Tensor = self.head(2 * hidden if scaled else hidden)
        return out


def test_batches_are_read_once(tmp_path: Path, no_budget: None) -> None:
    torch.manual_seed(0)
    net = Both().eval()
    x, ids = torch.rand(125, 4, 6), torch.randint(7, (125, 4))
    reads: list[int] = []

    def loader() -> Iterator[dict[str, Any]]:
        for first in range(0, 125, 31):
            reads.append(first)
            yield {"x": x[first : first + 31], "ids": ids[first : first + 31], "scaled": True}

    said: list[str] = []
    keeping: dict[str, Any] = {"cache": tmp_path, "progress": lambda state: said.append(str(state))}
    one = sp.fit(net, {"x": x, "ids": ids, "scaled": True}, sp.Sparse(50), executor="serial")
    other = sp.fit(net, loader(), sp.Sparse(50), executor="serial", **keeping)
    assert len(reads) == 5
    announced = [line.startswith("The fit takes up to") for line in said].index(True)
    # Only what it takes to know is before: the capture, and the sizes of states of one small batch.
    assert set(said[:announced]) == {"capture", "states: 0 of 1", "states: 1 of 1"}
    assert other.n_samples == 125
    assert "  states     up to" in other.summary()
    for ours, theirs in zip(other.network().parameters(), one.network().parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not [*tmp_path.iterdir()]


def test_arrays_of_any_form_come_in_slices() -> None:
    given = {"x": np.arange(240).reshape(120, 2), "y": torch.arange(120), "scaled": True}
    parts = [*in_slices(given)]
    assert [len(part["x"]) for part in parts] == [len(part["y"]) for part in parts] == [50, 50, 20]
    assert all(part["scaled"] for part in parts)
    assert [len(one) for _, one in in_slices((True, given["x"]))] == [50, 50, 20]
    assert torch.equal(torch.cat([*in_slices(given["y"])]), given["y"])


def test_a_batch_that_does_not_fit_says_where_it_was(tmp_path: Path) -> None:
    net = mlp(4, 3)
    batches = [torch.rand(8, 4), torch.rand(8, 4), torch.rand(8, 5)]
    with pytest.raises(sp.InputError, match=r"inputs must have shape .*, counted from sample 16"):
        sp.fit(net, iter(batches), cache=tmp_path)
    with pytest.raises(sp.InputError, match="inputs must hold at least one batch"):
        sp.fit(net, iter([]), cache=tmp_path)


def test_rows_that_are_not_tied_need_all_states_at_once(tmp_path: Path) -> None:
    with pytest.raises(sp.InputError, match=r"cache: rows are not tied .*leave it out"):
        sp.fit(mlp(4, 3, 2), uniform(9, 4), sp.Sparse(50, structure="feedforward"), cache=tmp_path)
