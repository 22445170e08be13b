"""``to_torch``: the same outputs, true gradients by inputs and entries, and a module that behaves like one."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import simplicit as sp
from simplicit.errors import InputError, NotWellPosedError
from simplicit.implicit import Activation, CsrMap, ImplicitModel, ImplicitModule, StateGroup, to_torch
from simplicit.implicit.maps import csr

KINDS = ("layered", "shuffled", "cyclic", "stateless")


def sparse(rng: np.random.Generator, *shape: int, density: float = 0.6) -> np.ndarray:
    return rng.normal(size=shape) * (rng.random(shape) < density)


def made(kind: str, dtype: type = np.float64, activation: str = "tanh", seed: int = 0) -> ImplicitModel:
    """Blocks in layers, single states in disorder, a full A, no states at all."""
    rng = np.random.default_rng(seed)
    n, p, q = (0 if kind == "stateless" else 8), 6, 3
    A = sparse(rng, n, n)
    if kind == "layered":
        A[:3, :3] = A[3:] = 0
    elif kind == "shuffled":
        order = rng.permutation(n)
        A = np.triu(A, 1)[order][:, order]
    elif kind == "cyclic":
        A *= 0.7 / np.abs(np.linalg.eigvals(np.abs(A))).max()
    phi = Activation(activation)
    groups = [StateGroup("a.last", 3, phi), StateGroup("first", 5, phi)] if n else []
    return ImplicitModel.from_matrices(
        A,
        sparse(rng, n, p),
        sparse(rng, q, n),
        sparse(rng, q, p),
        activation=groups,
        state_bias=rng.normal(size=n),
        output_bias=rng.normal(size=q),
        input_shape=(2, 3),
        output_shape=(3, 1),
    ).astype(dtype)


def points(m: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(m, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gives_what_predict_gives(kind: str, dtype: type) -> None:
    model = made(kind, dtype)
    module, U = to_torch(model), points(7)
    expected = model.predict(U).reshape(7, 3, 1)
    torch.testing.assert_close(module(U), expected, rtol=0, atol=0)
    torch.testing.assert_close(module(U.reshape(7, 6)), expected, rtol=0, atol=0)
    torch.testing.assert_close(module(U.requires_grad_()), expected, rtol=1e-6, atol=1e-6)
    assert module(U).dtype == (torch.float32 if dtype == np.float32 else torch.float64)
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_inputs_and_entries(kind: str) -> None:
    module = to_torch(made(kind), trainable=True)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def outputs(U: Tensor, *values: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (U,))
        return result

    # Outputs of the cyclic one are exact to 1e-9, so that steps must not be smaller.
    arguments = (points(3).requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(outputs, arguments, eps=1e-3, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Softplus, nn.Sigmoid])
def test_gradients_by_inputs_are_those_of_autograd(activation: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(6, 5), activation(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    module = to_torch(sp.from_torch(net, points(2).reshape(2, 6)))
    ours, theirs = points(5).reshape(5, 6).requires_grad_(), points(5).reshape(5, 6).requires_grad_()
    (module(ours) ** 2).sum().backward()
    (net(theirs) ** 2).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("large", [False, True])
def test_gathered_and_dense_gradients_agree(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csr, "_LARGEST_DENSE_GRADIENT", 2**24 if large else 0)
    monkeypatch.setattr(csr, "_GATHERED_NUMBERS", 16)
    module = to_torch(made("layered"), trainable=True)
    module(points(4)).square().sum().backward()
    M = module.model
    U = points(4).reshape(4, 6)
    Y_bar = 2 * M.predict(U)
    expected = (Y_bar.T @ U).numpy()[M.D.nonzero()]
    np.testing.assert_allclose(module.values[module.keys.index(("output", "input"))].grad, expected, rtol=1e-12)


def test_only_what_asks_gets_a_gradient() -> None:
    module, U = to_torch(made("cyclic")), points(2)
    assert not module(U).requires_grad
    module.requires_grad_()
    module.output_bias.requires_grad_(False)
    with torch.no_grad():
        assert not module(U).requires_grad
    module(U).sum().backward()
    assert module.output_bias.grad is None
    assert U.grad is None
    assert all(value.grad is not None for value in module.values)


def test_a_model_without_biases_stays_one() -> None:
    model = ImplicitModel.from_matrices(np.zeros((2, 2)), np.eye(2), np.eye(2), np.zeros((2, 2)))
    module = to_torch(model, trainable=True)
    asking = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert asking == ["values.0", "values.1"]


def test_training_lowers_the_loss_and_keeps_the_zeros() -> None:
    model = made("cyclic")
    module, U = to_torch(model, trainable=True), points(40)
    target = made("cyclic", seed=3).predict(U).reshape(40, 3, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (module(U) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    trained = module.model
    for name in "ABCD":
        assert not (getattr(trained, name).toarray()[getattr(model, name).toarray() == 0]).any()
    np.testing.assert_array_equal(trained.predict(U).reshape(40, 3, 1), module(U).detach())


def test_writes_to_data_are_seen() -> None:
    module, U = to_torch(made("layered")), points(3)
    before = module(U)
    module.values[0].data.mul_(2)
    assert not torch.equal(module(U), before)
    module.values[0].data.mul_(0)
    assert module.model.nnz < made("layered").nnz
    module.values[0].data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"values of block \('a.last', 'first'\): .*nan.*training diverged"):
        module(U)


def test_training_may_leave_well_posedness() -> None:
    module = to_torch(made("cyclic"), trainable=True)
    with torch.no_grad():
        for value in module.values:
            value.mul_(10)
    with pytest.raises(NotWellPosedError):
        module(points(2))


def test_state_dict_round_trip(tmp_path: Path) -> None:
    trained, U = to_torch(made("shuffled", seed=1)), points(4)
    other = copy.deepcopy(trained)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    assert not torch.equal(other(U), trained(U))
    buffer = io.BytesIO()
    torch.save(trained.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(other(U), trained(U), rtol=0, atol=0)
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "w.safetensors")
    inside = nn.Sequential(to_torch(made("shuffled", seed=1)))
    inside[0].load_state_dict(safetensors.torch.load_file(tmp_path / "w.safetensors"))
    torch.testing.assert_close(inside(U), trained(U), rtol=0, atol=0)


def test_state_dict_of_another_model() -> None:
    module = to_torch(made("layered"))
    held = [value.clone() for value in module.parameters()]
    with pytest.raises(InputError, match="state_dict is of another implicit model"):
        module.load_state_dict(to_torch(made("layered", seed=5)).state_dict())
    assert all(torch.equal(value, now) for value, now in zip(held, module.parameters(), strict=True))


def test_deepcopies_are_independent() -> None:
    module, U = to_torch(made("layered"), trainable=True), points(2)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.values[0].zero_()
    assert not torch.equal(module(U), twin(U))
    assert twin.values[0].requires_grad


@pytest.mark.parametrize("m", [0, 1])
def test_batches_of_none_and_one(m: int) -> None:
    for kind in KINDS:
        module, U = to_torch(made(kind), trainable=True), points(m).requires_grad_()
        with torch.no_grad():
            assert module(U).shape == (m, 3, 1)
        module(U).sum().backward()
        assert U.grad is not None
        assert U.grad.shape == (m, 2, 3)
        assert all(value.grad is not None and value.grad.shape == value.shape for value in module.values)


def test_gradients_twice_are_refused() -> None:
    module, U = to_torch(made("layered")), points(2).requires_grad_()
    (gradient,) = torch.autograd.grad(module(U).square().sum(), U, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_dtypes() -> None:
    module, U = to_torch(made("cyclic")), points(3)
    exact = module(U)
    assert module.float()(U).dtype == torch.float32
    torch.testing.assert_close(module(U).double(), exact, rtol=1e-5, atol=1e-5)
    assert module.model.dtype == np.float32
    assert module.double().model.dtype == np.float64
    for convert in (nn.Module.half, nn.Module.bfloat16, lambda one: one.to("meta"), lambda one: one.to(torch.float16)):
        with pytest.raises(InputError, match="on the CPU in float32 or float64, not on"):
            convert(module)
    assert module(U).dtype == torch.float64
    gradient = U.float().requires_grad_()
    module(gradient).sum().backward()
    assert gradient.grad is not None
    assert gradient.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 5), r"inputs must have shape \(m, 6\) or \(m, 2, 3\)"),
        (torch.zeros(6), r"inputs must have shape"),
        (torch.zeros(0, 5), r"inputs must have shape"),
        (torch.zeros(2, 6, dtype=torch.complex64), "inputs must hold real numbers"),
        (torch.full((2, 6), float("nan")), "inputs must be finite"),
        (np.zeros((2, 6)), "inputs must be a tensor, got ndarray"),
    ],
)
def test_bad_inputs(inputs: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_torch(made("layered"))(inputs)


class Doubling(CsrMap):
    """A kind of map that says nothing of its values."""

    values = None  # type: ignore[assignment]


def test_other_kinds_of_maps_stay_as_they_are() -> None:
    blocks = {("s", "input"): Doubling(2 * np.eye(3)), ("output", "s"): CsrMap(np.ones((1, 3)))}
    groups = [StateGroup("s", 3, Activation("relu"))]
    model = ImplicitModel(groups, blocks, n_inputs=3, n_outputs=1)
    module = to_torch(model)
    assert module.keys == (("output", "s"),)
    U = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    module(U).sum().backward()
    assert U.grad is not None
    assert (U.grad == 2).all()
    assert module.float()(U).tolist() == [[6.0], [6.0]]
    with pytest.raises(InputError, match=r"trainable: block \('s', 'input'\) is a Doubling"):
        to_torch(model, trainable=True)


def test_is_a_module_that_shows_itself() -> None:
    module = to_torch(made("layered"))
    assert isinstance(module, ImplicitModule)
    assert "n_inputs=6, n_states=8, n_outputs=3" in repr(module)


def convolutional() -> ImplicitModel:
    """Kernels, gathers, their sums and gathered kernels among its blocks."""
    from network.image_networks import IMAGE_NETWORKS, randomised

    torch.manual_seed(0)
    net = randomised(IMAGE_NETWORKS["resnet, activation before, option A"][0]()).double().eval()
    return sp.from_torch(net, torch.rand(2, 3, 8, 8, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("rescaled", [False, True])
def test_gradients_by_kernels(rescaled: bool) -> None:
    """Against differences of the outputs, along random directions."""
    model = convolutional()
    module = to_torch(sp.rescale(model) if rescaled else model, trainable=True)
    assert {type(block).__name__ for block in model.blocks.values()} > {"CsrMap"}
    U = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(module(U).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (module(U) * weight).sum().backward()
    for place, values in enumerate(module.values):
        direction = torch.randn(values.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(place))
        step, sums = 1e-6 / float(direction.norm()), []
        for sign in (1, -2):
            with torch.no_grad():
                values += sign * step * direction
                sums.append(float((module(U) * weight).sum()))
        with torch.no_grad():
            values += step * direction
        assert values.grad is not None
        slope = float((values.grad * direction).sum())
        assert abs((sums[0] - sums[1]) / (2 * step) - slope) <= 1e-5 * max(1.0, abs(slope)), module.keys[place]


def test_values_of_a_rescaled_convolution_are_of_another_model() -> None:
    model = convolutional()
    with pytest.raises(InputError, match="of another implicit model"):
        to_torch(model).load_state_dict(to_torch(sp.rescale(model)).state_dict())
    to_torch(model).load_state_dict(to_torch(model).state_dict())
