"""Networks with blocks: what is neither affine nor an activation goes in exactly, with its states and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import simplicit as sp
from network.networks import Function
from simplicit.errors import InputError
from simplicit.implicit import Activation, Block
from simplicit.implicit.groups.program import OPERATIONS, Step, Value
from simplicit.network import capture, pooling, recurrences

torch.manual_seed(0)
VECTOR = torch.randn(4, dtype=torch.float64)


class With(nn.Module):
    """A network that is a function of itself and its input, with modules under names."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, u: Tensor) -> Tensor:
        return self.function(self, u)


def by_hand(net: With, u: Tensor) -> Tensor:
    """Attention of two heads with a causal mask, heads folded into the samples."""
    m, t, d = u.shape
    q, k, v = (part.view(m, t, 2, d // 2).transpose(1, 2).reshape(m * 2, t, d // 2) for part in net.qkv(u).chunk(3, -1))
    scores = torch.bmm(q, k.transpose(1, 2)).masked_fill(torch.ones(t, t).triu(1).bool(), -torch.inf)
    found = torch.bmm(torch.softmax(scores, -1), v).view(m, 2, t, d // 2).transpose(1, 2).reshape(m, t, d)
    return net.out(found)


def gpt(net: With, u: Tensor) -> Tensor:
    """Tokens folded into samples for a product with a weight that is transposed."""
    rows = torch.addmm(net.conv.bias, u.reshape(-1, u.shape[-1]), net.conv.weight.t())
    return functional.gelu(rows).view(u.shape[0], -1, 6)


def squeezed(net: With, u: Tensor) -> Tensor:
    h = net.a(u)
    return h * torch.sigmoid(net.b(h.mean((2, 3), keepdim=True)))


def folded(net: With, u: Tensor) -> Tensor:
    return net.h(net.c(u.reshape(-1, 3, 6, 6)).relu().reshape(u.shape[0], -1))


def written(into: Tensor, u: Tensor) -> Tensor:
    """What is left of numbers that are written into a tensor of another dtype."""
    x = into.repeat(u.shape[0], 1)
    x[:, :3] = u[:, :3]
    return x.to(u.dtype)


def overwritten(u: Tensor) -> Tensor:
    """Complex numbers and others, written in place."""
    spectrum = torch.fft.fft(u)
    spectrum[:, 0] = u[:, 0]
    spectrum[:, 1:3].mul_(2)
    x = torch.zeros(u.shape[0], 4, dtype=u.dtype)
    x.copy_(u)
    x[:, :2].copy_(torch.tanh(x[:, 2:]))
    return x + spectrum.real


def pooled(u: Tensor) -> Tensor:
    """Maxima with their places, and put back to these."""
    maxima, places = functional.max_pool2d(u.view(-1, 1, 2, 2), (1, 2), return_indices=True)
    largest, place = functional.adaptive_max_pool1d(u.view(-1, 2, 2), 1, return_indices=True)
    sums = places.to(u.dtype).flatten(1).sum(1, keepdim=True) + place.to(u.dtype).sum(1) * largest.sum(1)
    return functional.max_unpool2d(maxima, places, (1, 2)).flatten(1) + sums


def rotated(u: Tensor) -> Tensor:
    """Positions as complex numbers of size 1, as LLaMA has them."""
    angles = torch.polar(torch.ones(2), torch.tensor([0.5, 2.0])).to(torch.complex128)
    return torch.view_as_real(torch.view_as_complex(u.view(-1, 2, 2)) * angles).flatten(1)


def experts(net: With, u: Tensor) -> Tensor:
    """Two of four experts, by the largest gates."""
    gates = torch.softmax(net.gate(u), 1)
    kept = torch.zeros_like(gates).scatter(1, gates.topk(2, 1).indices, 1.0) * gates
    return (kept[:, :, None] * net.experts(u).view(u.shape[0], 4, 3)).sum(1)


def normalised(h: Tensor) -> Tensor:
    """What an RMS norm makes of a tensor, in the dtype of that."""
    return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)


NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "softmax": (nn.Sequential(nn.Linear(8, 6), nn.Softmax(1), nn.Linear(6, 3)), (8,)),
    "layer norm": (nn.Sequential(nn.Linear(8, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3)), (8,)),
    "group norm": (nn.Sequential(nn.Conv1d(4, 6, 3), nn.GroupNorm(2, 6)), (4, 9)),
    "instance norm": (nn.Sequential(nn.Conv1d(4, 6, 3), nn.InstanceNorm1d(6)), (4, 9)),
    "rms norm": (nn.Sequential(nn.Linear(8, 6), nn.RMSNorm(6), nn.Linear(6, 2)), (8,)),
    "rms norm by hand": (
        With(lambda s, u: (h := s.a(u)) * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6), a=nn.Linear(8, 6)),
        (8,),
    ),
    "gate": (With(lambda s, u: torch.sigmoid(s.a(u)) * s.b(u), a=nn.Linear(8, 6), b=nn.Linear(8, 6)), (8,)),
    "GLU": (nn.Sequential(nn.Linear(8, 6), nn.GLU(), nn.Linear(3, 2)), (8,)),
    "squeeze and excite": (
        With(squeezed, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 1)),
        (3, 6, 6),
    ),
    "attention": (nn.MultiheadAttention(8, 2, batch_first=True), (5, 8)),
    "attention by hand": (With(by_hand, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)), (5, 8)),
    "encoder": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), (5, 8)),
    "tokens as rows": (With(gpt, conv=nn.Linear(4, 6)), (5, 4)),
    "tokens first": (With(lambda s, u: s.a(u.transpose(0, 1))[0].transpose(0, 1), a=nn.GRU(8, 6)), (5, 8)),
    "RNN": (With(lambda s, u: s.l(u)[0][:, -1], l=nn.RNN(8, 6, batch_first=True)), (5, 8)),
    "LSTM": (With(lambda s, u: s.l(u)[0], l=nn.LSTM(8, 6, batch_first=True, bidirectional=True)), (5, 8)),
    "experts": (With(experts, gate=nn.Linear(8, 4), experts=nn.Linear(8, 12)), (8,)),
    "bilinear": (With(lambda s, u: s.b(u[:, :4], u[:, 4:].contiguous()), b=nn.Bilinear(4, 4, 3)), (8,)),
    "embedding": (With(lambda s, u: s.e((u.abs() * 3).long().clamp(0, 9)).sum(1), e=nn.Embedding(10, 4)), (6,)),
    "folded images": (
        With(folded, c=nn.Conv2d(3, 4, 3), h=nn.Linear(128, 2)),
        (2, 3, 6, 6),
    ),
}  # fmt: skip

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda u: u * torch.relu(u),
    "product in einsum": lambda u: torch.einsum("bi,bj->bij", u, u),
    "division": lambda u: u / (1 + u.abs()),
    "rounding": lambda u: torch.div(u, 2, rounding_mode="floor"),
    "constant places": lambda u: torch.where(torch.zeros_like(u, dtype=torch.bool), u, 0.1),
    "half precision": lambda u: u.half().to(u.dtype),
    "square": lambda u: u**2,
    "sine": torch.sin,
    "comparison": lambda u: torch.where(u > 0, u, 0.1),
    "sorting": lambda u: u.sort(1)[0],
    "samples as features": lambda u: u.reshape(-1, 2).relu().reshape(-1, 4),
    "samples last": lambda u: (VECTOR.diag() @ u.t()).t(),
    "jumping softplus": lambda u: functional.softplus(u, 1, 0.5),
    "jump": lambda u: functional.threshold(u, 1.0, 0.0),
    "negative alpha": lambda u: functional.celu(u, -1.5),
    "place of the largest": lambda u: u.max(1)[1][:, None] + u,
    "place of the smallest": lambda u: u.min(1)[1][:, None] + u,
    "deviation": lambda u: u / u.std(1, keepdim=True),
    "root": lambda u: u.abs().sqrt(),
    "nothing left": lambda u: torch.cat([u, 2 * u[:, 4:]], 1),
    "vector as weight": lambda u: functional.linear(u, VECTOR)[:, None],
    "rounded to a byte": lambda u: u + torch.full((u.shape[0], 4), 7, dtype=torch.uint8) * 100,
    "truth values": lambda u: u + (lambda b: b + b)(torch.ones_like(u, dtype=torch.bool)),
    "summed as integers": lambda u: u + u.sum(1, keepdim=True, dtype=torch.long),
    "rounded in between": lambda u: u.relu().float().double(),
    "norm in single precision": lambda u: (normalised(u.float()) * VECTOR.float()).to(u.dtype),
    "chain in single precision": lambda u: (u.float() * torch.sigmoid(u.float() + VECTOR.float())).to(u.dtype),
    "written into integers": lambda u: written(torch.zeros(1, 6, dtype=torch.long), u),
    "written into halves": lambda u: written(torch.zeros(1, 6).half(), u),
    "used twice after halves": lambda u: (lambda y: y * torch.tanh(y) * y)((2 * u).half().to(u.dtype)),
    "used twice after singles": lambda u: (lambda y: y * y)(u.relu().float().double()),
    "Fourier layer": lambda u: torch.fft.irfft(torch.fft.rfft(u) * torch.tensor([1, 2j, 0.5j]), n=4),
    "spectrum": lambda u: torch.stft(u, 4, 2, window=torch.ones(4).to(u.dtype), return_complex=True).abs().flatten(1),
    "complex number": lambda u: ((u + 0.3j) * (2 - 1j)).imag,
    "rotated": rotated,
    "overwritten": overwritten,
    "places of maxima": pooled,
}  # fmt: skip

CHAINS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish by hand": lambda z: z * torch.sigmoid(z),
    "quick gelu": lambda z: z * torch.sigmoid(1.702 * z),
    "gelu by hand": lambda z: 0.5 * z * (1 + torch.erf(z / 2**0.5)),
    "new gelu": lambda z: 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * torch.pow(z, 3)))),
    "hardswish": functional.hardswish,
    "hardswish by hand": lambda z: z * functional.relu6(z + 3) / 6,
    "mish": functional.mish,
    "mish by hand": lambda z: z * torch.tanh(functional.softplus(z)),
    "softsign": functional.softsign,
    "leaky by hand": lambda z: torch.where(z > 0, z, 0.1 * z),
    "softshrink": functional.softshrink,
    "squared relu": lambda z: torch.relu(z) ** 2,
    "exponential of a shifted": lambda z: torch.exp(-(z + 1)),
}


def check_exact(net: nn.Module, shape: tuple[int, ...]) -> sp.ImplicitModel:
    """The model gives what the network gives, at several numbers of samples, and has its states."""
    net = net.double().eval()
    captured = capture(net, torch.randn(3, *shape, dtype=torch.float64))
    for m in (1, 2, 7):
        u = torch.randn(m, *shape, dtype=torch.float64)
        result = net(u)
        wanted = (result[0] if isinstance(result, tuple) else result).detach().reshape(m, -1)
        np.testing.assert_allclose(captured.model.predict(u), wanted, rtol=1e-9, atol=1e-9)
        states, model = captured.states(u), captured.model
        Z = states.X @ model.A.T + states.U @ model.B.T + model.state_bias
        np.testing.assert_allclose(Z, states.Z, rtol=1e-9, atol=1e-9)
    return captured.model


class First(nn.Module):
    """The first result of a module, for as long as several are not taken."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, u: Tensor) -> Tensor:
        return self.inner(u, u, u)[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_exact(name: str) -> None:
    net, shape = NETWORKS[name]
    check_exact(First(net) if isinstance(net, nn.MultiheadAttention) else net, shape)


def test_masks_of_large_numbers_keep_the_digits_of_what_they_are_added_to() -> None:
    """In float32 -1e4 + 1e4 m + s, with m = 1, keeps three digits of s; (-1e4 + 1e4 m) + s keeps all."""
    net = With(lambda s, u: torch.softmax(s.a(u) + (1.0 - (u > 0).float()) * -1e4, 1), a=nn.Linear(4, 4)).eval()
    u = torch.randn(7, 4)
    np.testing.assert_allclose(sp.from_torch(net, u).predict(u), net(u).detach(), rtol=1e-6, atol=1e-7)


class Every(nn.Module):
    """The results of all functions side by side, so that the graph is captured only once."""

    def forward(self, u: Tensor) -> Tensor:
        return torch.cat([function(u).reshape(u.shape[0], -1) for function in FUNCTIONS.values()], 1)


@cache
def every() -> tuple[Tensor, Tensor, list[int]]:
    """Inputs, what the model of all functions predicts of them, and where each function's outputs begin, and end."""
    u = torch.randn(7, 4, dtype=torch.float64)
    widths = [function(u).reshape(7, -1).shape[1] for function in FUNCTIONS.values()]
    return u, check_exact(Every(), (4,)).predict(u), [0, *accumulate(widths)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_exact(name: str) -> None:
    u, predicted, ends = every()
    place, wanted = [*FUNCTIONS].index(name), FUNCTIONS[name](u).reshape(7, -1)
    np.testing.assert_allclose(predicted[:, ends[place] : ends[place + 1]], wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_one_activation(name: str) -> None:
    net = nn.Sequential(nn.Linear(8, 6), Function(CHAINS[name]), nn.Linear(6, 3))
    model = check_exact(net, (8,))
    assert [group.size for group in model.groups] == [6]
    assert model.n_pre == 6


COMPARED: dict[str, Callable[[Tensor], Tensor]] = {
    "largest": lambda x: x * (x == x.amax(1, keepdim=True)),
    "largest with its place": lambda x: (x == x.max(1, keepdim=True)[0]) * x,
    "of the largest two": lambda x: x * (x >= x.topk(2, 1)[0][:, -1:]),
    "peaks": lambda x: x * (functional.max_pool1d(x[:, None], 3, 1, 1)[:, 0] == x),
    "not clipped": lambda x: x * (x.clamp(-0.3, 0.3) == x),
}


@pytest.mark.parametrize("name", COMPARED)
def test_what_is_compared_has_the_same_bits(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 7), Function(COMPARED[name])).eval()
    u = torch.randn(100, 5)
    with torch.no_grad():
        np.testing.assert_allclose(sp.from_torch(net, u).predict(u), net(u), atol=1e-6)


def test_activations_with_a_name_stay_what_they_are() -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Tanh(), nn.Linear(6, 3))
    model = check_exact(net, (8,))
    assert [group.activation for group in model.groups] == [Activation("tanh"), Activation("relu")]


def test_gradients_are_those_of_the_network() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().eval()
    u = torch.randn(3, 4, 8, dtype=torch.float64, requires_grad=True)
    module = sp.to_torch(sp.from_torch(net, u), trainable=True)
    weights = torch.randn(3, 4, 8, dtype=torch.float64)
    (theirs,), (ours,) = (torch.autograd.grad((f(u) * weights).sum(), u) for f in (net, module))
    np.testing.assert_allclose(ours, theirs, atol=1e-10)
    (module(u) * weights).sum().backward()
    assert all(value.grad is not None for value in module.values)


def test_gradients_through_complex_numbers_and_copies() -> None:
    net = With(lambda s, u: torch.cat([rotated(u), overwritten(u), FUNCTIONS["Fourier layer"](u)], 1)).eval()
    u = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    module = sp.to_torch(sp.from_torch(net, u))
    weights = torch.randn(3, 12, dtype=torch.float64)
    (theirs,), (ours,) = (torch.autograd.grad((f(u) * weights).sum(), u) for f in (net, module))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_complex_buffers_are_constants_and_stored(tmp_path) -> None:  # type: ignore[no-untyped-def]
    net = With(lambda s, u: torch.view_as_real(torch.view_as_complex(u.view(-1, 2, 2)) * s.angles).flatten(1))
    net.register_buffer("angles", torch.polar(torch.ones(2), torch.tensor([0.5, 2.0])))
    u = torch.randn(5, 4)
    model = sp.from_torch(net.eval(), u)
    np.testing.assert_allclose(model.predict(u), net(u), atol=1e-6)
    sp.save(model, tmp_path / "model")
    np.testing.assert_array_equal(sp.load(tmp_path / "model").predict(u), model.predict(u))


def test_a_block_is_stored_and_comes_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    net = nn.Sequential(nn.Linear(8, 6), With(lambda s, u: s.e((u > 0).long()).flatten(1), e=nn.Embedding(2, 3)))
    u = torch.randn(5, 8)
    model = sp.from_torch(net.eval(), u)
    sp.save(model, tmp_path / "model")
    loaded = sp.load(tmp_path / "model")
    assert loaded.groups == model.groups
    assert isinstance(loaded.groups[0].activation, Block)
    np.testing.assert_array_equal(loaded.predict(u), model.predict(u))


def test_fitted_with_blocks() -> None:
    """A fit with norms, attention and a gate ends with a network whose model is exact again."""
    torch.manual_seed(0)
    body = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = With(
        lambda s, u: s.head(s.body(s.inner(u)).mean(1)), inner=nn.Linear(6, 8), body=body, head=nn.Linear(8, 3)
    ).eval()
    u = torch.randn(60, 4, 6)
    result = sp.fit(net, u, sp.Sparse(50))
    with torch.no_grad():
        np.testing.assert_allclose(result.model.predict(u), result.network()(u), atol=1e-4)


def test_two_linear_maps_stay_two_where_their_product_is_larger() -> None:
    """8192 → 16 → 8192: the product would have 67 million entries."""
    net = nn.Sequential(nn.Linear(8192, 16), nn.Linear(16, 8192), nn.ReLU()).eval()
    u = torch.randn(2, 8192)
    captured = capture(net, u)
    groups = captured.model.groups
    assert [(group.size, group.activation.name) for group in groups] == [(8192, "relu"), (16, "identity")]
    assert captured.model.nnz == 2 * 16 * 8192 + 8192  # and the output, which is the last states
    with torch.no_grad():
        np.testing.assert_allclose(captured.model.predict(u), net(u), atol=1e-4)
        np.testing.assert_allclose(captured.states(u).X[:, 8192:], net[0](u), atol=1e-5)


def test_stand_ins_for_operations_are_none_that_files_may_name() -> None:
    """They are in graphs only while they are read: a block has torch's own operation in their place."""
    own = [*pooling.INDICES, *(stand_in for stand_in in recurrences.OWN if stand_in.namespace != "aten")]
    assert len(own) > 12
    for stand_in in own:
        name = str(stand_in)
        assert name.startswith("simplicit.")
        assert OPERATIONS.isdisjoint({name, str(stand_in.overloadpacket)})
        with pytest.raises(InputError, match="unknown operation"):
            Block(((3,),), (Step(name, (Value(0),)),), 3)


@pytest.mark.parametrize(
    "through",
    [
        lambda z, x: z.half().to(x.dtype),
        lambda z, x: (z.float() * 2).relu().type_as(x),
        lambda z, x: torch.cat([z.bfloat16(), x.bfloat16()], 1).to(x.dtype),
        lambda z, x: (3 * z).int().to(x.dtype) + x.half(),
    ],
)
def test_a_value_that_passes_through_another_dtype_is_rounded_as_there(through: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    net = With(lambda s, x: through(s.a(x), x), a=nn.Linear(4, 4)).double().eval()
    U = torch.randn(9, 4, dtype=torch.float64)
    np.testing.assert_allclose(sp.from_torch(net, U).predict(U), net(U).detach(), rtol=0, atol=1e-12)
