"""Networks with formats: the same outputs and gradients, in files and copies too, and what is said where none fits."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.errors import UnsupportedOperationError
from simplicit.runtime import search
from simplicit.runtime.formats import FORMATS, FormattedLinear, cache, choosing
from simplicit.runtime.formats.measuring import least_seconds, spreads


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIMPLICIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fastest(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say which ways are to be found fastest, the first before the others, instead of measuring."""

    def wins(*names: str) -> None:
        order = [*names, "dense"]

        def seconds(ways: Mapping[str, Callable[[], Any]], _: float) -> dict[str, float]:
            return {way: float(1 + order.index(way)) if way in order else 99.0 for way in ways}

        monkeypatch.setattr(choosing, "least_seconds", seconds)
        monkeypatch.setattr(search, "least_seconds", seconds)

    return wins


def thinned(network: nn.Module, share: float = 0.1, block: int = 1, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network in evaluation mode with so many of the weights, in square blocks."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                weight = module.weight.flatten(1)
                kept = torch.rand(len(weight) // block, weight.shape[1] // block, generator=generator) < share
                mask = torch.kron(kept.float(), torch.ones(block, block)).reshape(module.weight.shape)
                module.weight *= mask
    return network.to(dtype).eval()


def perceptron(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return thinned(
        nn.Sequential(nn.Linear(64, 72), nn.ReLU(), nn.Linear(72, 80, bias=False), nn.Tanh(), nn.Linear(80, 8)),
        **options,
    )


def formats(network: sp.runtime.accelerated.Accelerated) -> list[str]:
    return [layer.format for layer in network.formats().layers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_are_those_of_the_network(fastest: Callable[..., None], dtype: torch.dtype) -> None:
    fastest("at once", "csr")
    net, x = perceptron(dtype=dtype), torch.randn(5, 64, dtype=dtype)
    fast = sp.accelerate(net, x[:2], batch=(1, 5))
    assert formats(fast) == ["csr", "csr", "dense"] * 2  # the last is too small
    for samples in (1, 2, 5):
        given = x[:samples].clone().requires_grad_()
        torch.testing.assert_close(fast(x[:samples]), net(x[:samples]))
        ours, theirs = (torch.autograd.grad(one(given).square().sum(), given)[0] for one in (fast, net))
        torch.testing.assert_close(ours, theirs)
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), net(x))


def test_copies_and_files_hold_the_formats(fastest: Callable[..., None]) -> None:
    fastest("at once", "csr")
    net, x = perceptron(), torch.randn(4, 64)
    fast = sp.accelerate(net, x, batch=4)
    expected, file = fast(x), io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    for other in (copy.deepcopy(fast), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), expected)
        assert str(other.formats()) == str(fast.formats())
    assert expected.is_contiguous()
    assert "network.0.csr_values" in fast.state_dict()  # the last layer is dense
    torch.testing.assert_close(fast.double()(x.double()), copy.deepcopy(net).double()(x.double()))


def test_a_state_dict_is_loaded_whole_or_refused(fastest: Callable[..., None]) -> None:
    fastest("at once", "csr")
    x = torch.randn(4, 64)
    fast = sp.accelerate(perceptron(), x, batch=4)
    expected, state = fast(x), {name: value.clone() for name, value in fast.state_dict().items()}
    state["network.0.csr_values"] *= 2
    fast.load_state_dict(state)
    assert not torch.equal(fast(x), expected)
    state["network.0.csr_columns"][0] = 64
    with pytest.raises(RuntimeError, match=r"network\.0\.csr is damaged: columns from 0 to 64, of 64"):
        fast.load_state_dict(state)


@pytest.mark.parametrize(("block", "name"), [(4, "bsr4"), (8, "bsr8")])
def test_full_blocks_are_kept_as_blocks(fastest: Callable[..., None], block: int, name: str) -> None:
    fastest("at once", name)
    net, x = perceptron(share=0.2, block=block), torch.randn(6, 64, requires_grad=True)
    fast = sp.accelerate(net, x.detach(), batch=6)
    assert formats(fast)[0] == name
    torch.testing.assert_close(fast(x.detach()), net(x))
    ours, theirs = (torch.autograd.grad(one(x).square().sum(), x)[0] for one in (fast, net))
    torch.testing.assert_close(ours, theirs)


class Images(nn.Module):
    """Convolutions with strides, padding and 1 x 1, and a sum past them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 64, (3, 5), stride=2, padding=(1, 2))
        self.second, self.grouped = nn.Conv2d(64, 64, 1, bias=False), nn.Conv2d(64, 64, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return (self.grouped(x) + torch.relu(self.second(x))).mean(dim=(2, 3))


def test_convolutions_multiply_patches(fastest: Callable[..., None]) -> None:
    fastest("at once", "csr")
    torch.manual_seed(0)
    net, x = thinned(Images()), torch.randn(3, 8, 9, 10)
    fast = sp.accelerate(net, x, batch=3)
    assert formats(fast) == ["csr", "csr"]  # groups are left alone
    torch.testing.assert_close(fast(x), net(x))
    torch.testing.assert_close(fast(x[:1]), net(x[:1]))


class Viewing(nn.Module):
    """A network that needs its layers' outputs as they usually lie in memory, and reads a weight of one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        assert self.inner.in_features == 64
        x = self.inner(x).view(len(x), -1).to(self.outer.weight.dtype)
        return self.outer(x.view(len(x), -1, 64))


def test_outputs_lie_as_given_where_the_network_views_them(fastest: Callable[..., None]) -> None:
    fastest("at once", "csr")
    torch.manual_seed(0)
    net, x = thinned(Viewing()), torch.randn(4, 3, 64)
    fast = sp.accelerate(net, x, batch=4)
    assert formats(fast) == ["csr", "csr"]
    torch.testing.assert_close(fast(x), net(x))


class Reading(nn.Module):
    """A network that reads of its layers what no format has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + next(self.layer.parameters()).sum()


def test_a_network_that_reads_more_stays_dense(fastest: Callable[..., None]) -> None:
    fastest("at once", "csr")
    fast = sp.accelerate(thinned(Reading()), torch.randn(2, 64))
    assert formats(fast) == ["dense"]
    assert "reads more of it than outputs" in str(fast.formats())


def test_what_is_not_faster_stays_torchs_own(fastest: Callable[..., None]) -> None:
    fastest("csr", "dense", "at once")
    fast = sp.accelerate(perceptron(), torch.randn(2, 64), batch=7)
    assert formats(fast) == ["dense"] * 3
    assert not any(isinstance(module, FormattedLinear) for module in fast.modules())
    assert "the network is not faster by it" in str(fast.formats())
    assert str(fast.formats()).startswith("batch 7: 1.00 x dense torch\n")


def test_large_batches_go_in_tiles(fastest: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    fastest("tiles", "csr")
    net, x = perceptron(), torch.randn(70, 64)
    fast, lengths = sp.accelerate(net, x, batch=(1, 100)), list[int]()
    assert [whole.tile for whole in fast.formats().network] == [None, 32]
    fast.network.register_forward_hook(lambda _, given, __: lengths.append(len(given[0])))
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        torch.testing.assert_close(fast(x), net(x))
    assert sorted(lengths) == [6, 6, 32, 32, 32, 32]
    assert fast(x[:0]).shape == (0, 8)
    x.requires_grad_()
    assert fast(x).grad_fn is not None


class Comparing(nn.Module):
    """A network whose outputs depend on the samples beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x - x.mean(dim=0)


def test_samples_that_know_each_other_are_not_parted(fastest: Callable[..., None]) -> None:
    fastest("tiles", "at once", "csr")
    net, x = thinned(Comparing()), torch.randn(90, 64)
    fast = sp.accelerate(net, x, batch=90)
    assert fast.formats().network[0].tile is None
    torch.testing.assert_close(fast(x), net(x))


def test_half_precision_has_no_products_on_a_cpu() -> None:
    fast = sp.accelerate(perceptron(dtype=torch.bfloat16), torch.randn(2, 64))
    assert {layer.note for layer in fast.formats().layers} == {"torch has no product in bfloat16"}
    assert fast(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(sp.InputError, match=r"net does not accept example of shape \(m, 63\)"):
        sp.accelerate(perceptron(dtype=torch.bfloat16), torch.randn(2, 63))


def test_measurements_are_kept_and_damaged_files_replaced(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 64)
    sp.accelerate(perceptron(), x)
    (file,) = own_cache.glob("formats-*.json")
    good = file.read_text()
    file.write_text(good[: len(good) // 2])
    sp.accelerate(perceptron(), x)
    assert cache.Measured().seconds
    monkeypatch.setattr(choosing, "least_seconds", None)  # nothing is measured again
    sp.accelerate(perceptron(), x)
    file.write_text(good.replace('"edition": 1', '"edition": 0'))
    assert cache.Measured().seconds == {}


def test_a_cache_that_cannot_be_written_is_done_without(own_cache: Path) -> None:
    own_cache.write_text("a file in the place of the folder")
    assert sp.accelerate(perceptron(), torch.randn(2, 64)).formats().layers


def test_the_least_of_interleaved_calls_counts() -> None:
    calls = list[str]()
    found = least_seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 0.001)
    assert calls[:2] == ["a", "b"]
    assert all(0 < seconds < 1 for seconds in found.values())
    assert set(least_seconds({"a": lambda: calls.append("a")}, 0.0)) == {"a"}


def test_medians_are_of_calls_in_turn() -> None:
    calls = list[str]()
    found = spreads({name: partial(calls.append, name) for name in "ab"}, 1e-9)
    in_turn = [name for place, name in enumerate(calls) if calls[place - 1] != name]
    assert in_turn == ["a", "b"] * 4  # once before, and three rounds
    assert all(0 < one.lower <= one.median <= one.upper and one.rounds == 3 for one in found.values())


def test_two_of_four_is_torchs_own_form(monkeypatch: pytest.MonkeyPatch) -> None:
    two_of_four, seen = FORMATS["2:4"], list[Tensor]()
    assert two_of_four.refusal(torch.zeros(64, 64)) == "2:4 needs CUDA, the weights are on cpu"
    with pytest.raises(sp.InputError, match=r"'2:4' needs CUDA, and the network is on the CPU"):
        sp.accelerate(perceptron(), torch.randn(2, 64), formats=("2:4",))

    def converted(weight: Tensor) -> Tensor:
        seen.append(weight)
        return weight

    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", converted)
    layer = nn.Linear(8, 4)
    ours = FormattedLinear(layer, [(1, "2:4")])
    x = torch.randn(3, 8)
    torch.testing.assert_close(ours(x), layer(x))
    assert len(seen) == 1
    assert torch.equal(seen[0], layer.weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch": 0}, r"batch must be an integer of at least 1, got 0"),
        ({"batch": 10**14}, r"batch: 100,000,000,000,000 samples take more memory than there is"),
        ({"batch": ()}, r"batch: must be a number of samples, or several"),
        ({"formats": "csr"}, r"formats: must be a sequence of names"),
        ({"formats": 3}, r"formats: must be a sequence of names"),
        ({"formats": ("csc",)}, r"formats: 'csc' is not one of dense, csr, bsr4, bsr8, 2:4"),
        ({"example": torch.zeros(2, 63)}, r"net does not accept example of shape \(m, 63\)"),
        ({"net": 3}, r"net must be a torch\.nn\.Module, got int"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], said: str) -> None:
    given = {"net": perceptron(), "example": torch.zeros(2, 64)} | change
    net, example = given.pop("net"), given.pop("example")
    with pytest.raises(sp.InputError, match=said):
        sp.accelerate(net, example, **given)


def test_a_model_and_a_result_are_told_apart(fastest: Callable[..., None]) -> None:
    fastest("at once", "csr")
    net = perceptron()

    class Result:
        def network(self) -> nn.Module:
            return net

    x = torch.randn(2, 64)
    torch.testing.assert_close(sp.accelerate(Result(), x)(x), net(x))
    with pytest.raises(sp.InputError, match="predict plans by itself"):
        sp.accelerate(sp.ImplicitModel.from_matrices([[0.0]], [[1.0]], [[1.0]], [[0.0]]), x)


def test_names_may_be_given_and_integers_too(fastest: Callable[..., None]) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(11, 64), nn.Linear(64, 64)

        def forward(self, ids: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
            x = self.layer(self.table(ids)) * scale
            return x, x.sum(dim=1)

    fastest("at once", "csr")
    net, ids = thinned(Words()), torch.randint(0, 11, (3, 5))
    fast = sp.accelerate(net, {"ids": ids, "scale": 2.0}, batch=3)
    assert formats(fast) == ["csr"]
    assert fast.formats().layers[0].samples == 15
    for ours, theirs in zip(fast(ids=ids, scale=2.0), net(ids, 2.0), strict=True):
        torch.testing.assert_close(ours, theirs)


class Centred(nn.Module):
    """A network of token counts whose outputs depend on the samples beside them: by the mean of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 64)
        self.layer = nn.Linear(64, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.layer(self.table(tokens).mean(dim=1))
        return x - x.mean(dim=0)


def test_samples_that_look_alike_in_the_example_are_not_parted_either(fastest: Callable[..., None]) -> None:
    fastest("tiles", "at once", "csr")
    net = thinned(Centred())
    fast = sp.accelerate(net, torch.arange(12).reshape(2, 6) % 9, batch=96)
    assert fast.formats().network[0].tile is None
    tokens = torch.randint(9, (96, 6), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fast(tokens), net(tokens))


def test_what_has_no_product_goes_through_the_dense_weight(fastest: Callable[..., None]) -> None:
    fastest("at once", "csr")
    net, x = perceptron(), torch.randn(3, 64)
    fast = sp.accelerate(net, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fast(x), net(x))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fast(torch.randn(4, 32))
    with pytest.raises(UnsupportedOperationError, match="give the network of before"):
        sp.compact(fast, x)
    half = copy.deepcopy(fast).bfloat16()
    torch.testing.assert_close(half(x.bfloat16()), copy.deepcopy(net).bfloat16()(x.bfloat16()))


@pytest.mark.parametrize("make", [perceptron, lambda: thinned(nn.Sequential(Images(), nn.Linear(64, 64)))])
def test_compacted_networks_get_formats_too(fastest: Callable[..., None], make: Callable[[], nn.Module]) -> None:
    fastest("at once", "csr", "compacted")
    torch.manual_seed(0)
    net = make()
    x = torch.randn(3, 64) if isinstance(net[0], nn.Linear) else torch.randn(3, 8, 9, 10)  # type: ignore[index]
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and len(layer.weight) > 64:
                layer.weight[:3] = 0
    small = sp.compact(net, x)
    for fast in (sp.accelerate(small, x, batch=3), sp.accelerate(net, x, batch=3, compact=True)):
        assert "csr" in formats(fast)
        assert {layer.layer for layer in fast.formats().layers} <= {name for name, _ in net.named_modules()}
        torch.testing.assert_close(fast(x), net(x))
        other = copy.deepcopy(fast)
        other.load_state_dict(fast.state_dict())
        torch.testing.assert_close(other(x), fast(x))
        given = x.clone().requires_grad_()
        ours, theirs = (torch.autograd.grad(one(given).square().sum(), given)[0] for one in (fast, net))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("first", ["compacted", "dense"])
def test_a_network_is_compacted_only_where_that_is_faster(fastest: Callable[..., None], first: str) -> None:
    fastest(first)
    net, x = perceptron(), torch.randn(3, 64)
    with torch.no_grad():
        net[0].weight[:3] = 0  # type: ignore[index]
        net[0].bias[:3] = 0  # type: ignore[index]
    fast = sp.accelerate(net, x, compact=True)
    whole, found = sum(p.numel() for p in net.parameters()), sum(p.numel() for p in fast.parameters())
    assert (found < whole) == (first == "compacted")
    torch.testing.assert_close(fast(x), net(x))
