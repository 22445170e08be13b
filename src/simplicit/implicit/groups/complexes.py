r"""Complex numbers of programs as pairs of real ones, z = a + i b.

What moves numbers or is linear over the reals acts on a and b apart; a product is

    (a + i b)(c + i d) = (a c - b d) + i (a d + b c),

and so are matrix products. A Fourier transform along a dimension of n numbers is a product with a constant matrix,
X_k = Σ_j x_j e^{∓2πi jk/n} = Σ_j x_j (cos(2π jk/n) ∓ i sin(2π jk/n)), the inverse of a half spectrum one with weights 1
for k = 0 and n/2 and 2 for others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplicit.implicit.groups.opening import Held, Pair, Rule, UnopenedError, Writing

#: Longer transforms are not written as matrices.
_LONGEST = 4096
Matrix = NDArray[np.float64]
_BOTH = """
    _conj_physical _to_copy _unsafe_view alias cat clone constant_pad_nd contiguous detach diagonal expand flatten flip
    gather index index_select mean movedim narrow neg permute repeat reshape roll select select_scatter slice
    slice_scatter split split_with_sizes squeeze stack sum t transpose unbind unfold unsqueeze view where zeros_like
"""


def rule_of(packet: str) -> Rule | None:
    """Return the rule of an operation on complex numbers; None where there is none."""
    return RULES.get(packet)


def _parts(value: Any) -> tuple[Any, Any]:
    """Both parts of a value; a real one has none but the first."""
    return (value.real, value.imag) if isinstance(value, Pair) else (value, None)


def _part(argument: Any, imag: bool) -> Any:
    """Arguments with one part of every pair."""
    if isinstance(argument, Pair):
        return argument.imag if imag else argument.real
    return tuple(_part(one, imag) for one in argument) if isinstance(argument, tuple | list) else argument


def _apart(write: Writing, name: str, *args: Any, **kwargs: Any) -> Any:
    """What acts on both parts alike."""
    if any(isinstance(one, Held) and one.at[0].is_floating_point() for one in _given(args[0])):
        raise UnopenedError(name.partition(".")[0])  # real beside complex numbers
    dtype = kwargs.pop("dtype", None)
    if dtype is not None and dtype.name != "complex":
        raise UnopenedError(name.partition(".")[0])
    real, imag = (
        write.call(name, *_part(args, part), **{key: _part(one, part) for key, one in kwargs.items()})
        for part in (False, True)
    )
    return [Pair(*both) for both in zip(real, imag, strict=True)] if isinstance(real, list) else Pair(real, imag)


def _given(argument: Any) -> list[Any]:
    return [*argument] if isinstance(argument, tuple | list) else [argument]


def _converted(write: Writing, name: str, x: Any, **kwargs: Any) -> Any:
    """A conversion between complex numbers, or of real ones to complex."""
    if isinstance(x, Pair):
        return x
    return Pair(x, write.call("zeros_like.default", x))


def _added(write: Writing, name: str, x: Any, y: Any, alpha: Any = 1) -> Pair:
    sign = name.partition(".")[0]
    (a, b), (c, d) = _parts(x), _parts(y)
    if alpha != 1 or isinstance(c, complex):
        raise UnopenedError(sign)
    tensor = "Tensor" if isinstance(c, Held) else "Scalar"
    real = write.call(f"{sign}.{tensor}", a, c) if isinstance(a, Held) else None
    if real is None:
        raise UnopenedError(sign)
    if b is None or d is None:
        other = b if d is None else d if sign == "add" else write.call("neg.default", d)
        shape = write.call("zeros_like.default", real)
        return Pair(real, write.call("add.Tensor", other, shape))
    return Pair(real, write.call(f"{sign}.Tensor", b, d))


def _times(write: Writing, x: Any, y: Any) -> Any:
    """The product of two real tensors, or of one with a number."""
    return write.call("mul.Tensor" if isinstance(y, Held) else "mul.Scalar", x, y)


def _multiplied(write: Writing, name: str, x: Any, y: Any) -> Pair:
    if not isinstance(x, Pair):
        x, y = y, x
    if isinstance(y, complex):
        y = (y.real, y.imag)
    (a, b), (c, d) = _parts(x), y if isinstance(y, tuple) else _parts(y)
    if d is None:
        return Pair(_times(write, a, c), _times(write, b, c))
    real = write.call("sub.Tensor", _times(write, a, c), _times(write, b, d))
    return Pair(real, write.call("add.Tensor", _times(write, a, d), _times(write, b, c)))


def _divided(write: Writing, name: str, x: Any, y: Any) -> Pair:
    """A quotient, as the product with the conjugate over the square of its size."""
    if not isinstance(y, Pair):
        kind = "Tensor" if isinstance(y, Held) else "Scalar"
        return Pair(*(write.call(f"div.{kind}", part, y) for part in _parts(x)))
    top = _multiplied(write, name, Pair(y.real, write.call("neg.default", y.imag)), x)
    below = _squared(write, y)
    return Pair(*(write.call("div.Tensor", part, below) for part in (top.real, top.imag)))


def _squared(write: Writing, z: Pair) -> Held:
    squares = [write.call("mul.Tensor", part, part) for part in (z.real, z.imag)]
    return write.call("add.Tensor", *squares)  # type: ignore[no-any-return]


def _product(write: Writing, name: str, x: Any, y: Any) -> Pair:
    """A matrix product."""
    (a, b), (c, d) = _parts(x), _parts(y)
    if b is None or d is None:
        return Pair(*(write.call(name, *both) for both in (((a, c), (a, d)) if b is None else ((a, c), (b, c)))))
    real = write.call("sub.Tensor", write.call(name, a, c), write.call(name, b, d))
    return Pair(real, write.call("add.Tensor", write.call(name, a, d), write.call(name, b, c)))


def _size(write: Writing, name: str, z: Any) -> Any:
    return write.call("sqrt.default", _squared(write, z))


def _from_polar(write: Writing, name: str, size: Held, angle: Held) -> Pair:
    return Pair(*(write.call("mul.Tensor", size, write.call(wave, angle)) for wave in ("cos.default", "sin.default")))


def _from_reals(write: Writing, name: str, x: Held) -> Pair:
    return Pair(*(write.call("select.int", x, -1, place) for place in (0, 1)))


def _exponential(write: Writing, name: str, z: Any) -> Pair:
    return _from_polar(write, name, write.call("exp.default", z.real), z.imag)


def _conjugate(write: Writing, name: str, z: Any) -> Any:
    return Pair(z.real, write.call("neg.default", z.imag)) if isinstance(z, Pair) else z


def _angles(n: int, rows: int, columns: int) -> Matrix:
    """2π jk/n, (rows, columns), reduced to one turn first."""
    turned: Matrix = np.outer(np.arange(rows), np.arange(columns)) % n * np.float64(2.0 * math.pi / n)
    return turned


def _along(write: Writing, x: Held, dim: int, matrix: Matrix) -> Held:
    """The product of every row along a dimension with a constant matrix."""
    rank = x.at[0].ndim
    order = [one for one in range(rank) if one != dim % rank] + [dim % rank]
    back = tuple(order.index(one) for one in range(rank))
    turned = write.call("permute.default", x, tuple(order))
    constant = write.matrix(matrix)
    return write.call("permute.default", write.call("matmul.default", turned, constant), back)  # type: ignore[no-any-return]


def _length(x: Held, dim: int) -> int:
    n, other = (one.shape[dim] for one in x.at)
    if n != other or n > _LONGEST:
        raise UnopenedError("fft")
    return int(n)


def _scaled(normalization: int, n: int) -> float:
    return (1.0, n**-0.5, 1.0 / n)[normalization]


def _to_spectrum(write: Writing, z: Any, dim: int, normalization: int, sign: float, columns: int | None = None) -> Pair:
    """The transform along one dimension of a complex or real value, its first columns."""
    a, b = _parts(z)
    n = _length(a, dim)
    angles = _angles(n, n, columns or n)
    cos, sin = (_scaled(normalization, n) * one for one in (np.cos(angles), sign * np.sin(angles)))
    real, imag = _along(write, a, dim, cos), _along(write, a, dim, sin)
    if b is None:
        return Pair(real, imag)
    return Pair(
        write.call("sub.Tensor", real, _along(write, b, dim, sin)),
        write.call("add.Tensor", imag, _along(write, b, dim, cos)),
    )


def _complex_to_complex(write: Writing, name: str, z: Any, dims: Any, normalization: int, forward: bool) -> Any:
    for dim in dims:
        z = _to_spectrum(write, z, dim, normalization, -1.0 if forward else 1.0)
    return z


def _real_to_complex(write: Writing, name: str, x: Held, dims: Any, normalization: int, onesided: bool) -> Any:
    *others, last = dims
    columns = _length(x, last) // 2 + 1 if onesided else None
    z = _to_spectrum(write, x, last, normalization, -1.0, columns)
    return _complex_to_complex(write, name, z, others, normalization, True)


def _complex_to_real(write: Writing, name: str, z: Any, dims: Any, normalization: int, n: Any) -> Held:
    *others, last = dims
    z = _complex_to_complex(write, name, z, others, normalization, False)
    half = _length(z.real, last)
    if not isinstance(n, int) or n > _LONGEST:
        raise UnopenedError("fft")
    weights = np.full((half, 1), 2.0)
    weights[0] = 1.0
    if n % 2 == 0:
        weights[n // 2] = 1.0
    weights *= _scaled(normalization, n)
    angles = _angles(n, half, n)
    parts = _along(write, z.real, last, weights * np.cos(angles)), _along(write, z.imag, last, weights * np.sin(angles))
    return write.call("sub.Tensor", *parts)  # type: ignore[no-any-return]


def _short_time(write: Writing, name: str, x: Held, n: int, hop: Any, width: Any, window: Any, *options: Any) -> Any:
    """Transforms of windows of n numbers, which begin `hop` apart; frequencies come before the windows."""
    defaults: tuple[Any, ...] = (False, None, None, None)
    normalized, onesided, as_complex, align = (*options, *defaults[len(options) :])
    if name != "stft.default" or align or width not in (None, n):
        raise UnopenedError("stft")
    frames = write.call("unfold.default", x, -1, n, n // 4 if hop is None else hop)
    frames = frames if window is None else write.call("mul.Tensor", frames, window)
    rank = frames.at[0].ndim
    z = _real_to_complex(write, name, frames, (rank - 1,), 1 if normalized else 0, onesided is not False)
    turned = Pair(*(write.call("transpose.int", part, rank - 2, rank - 1) for part in (z.real, z.imag)))
    return turned if as_complex else write.call("stack.default", (turned.real, turned.imag), -1)


RULES: dict[str, Rule] = {
    **dict.fromkeys(_BOTH.split(), _apart),
    "_to_copy": _converted,
    "add": _added,
    "sub": _added,
    "mul": _multiplied,
    "div": _divided,
    **dict.fromkeys(("mm", "bmm", "matmul"), _product),
    "abs": _size,
    "exp": _exponential,
    "complex": lambda write, name, a, b: Pair(a, b),
    "polar": _from_polar,
    "view_as_complex": _from_reals,
    "view_as_real": lambda write, name, z: write.call("stack.default", (z.real, z.imag), -1),
    "real": lambda write, name, z: z.real,
    "imag": lambda write, name, z: z.imag,
    **dict.fromkeys(("_conj", "_conj_physical", "conj_physical"), _conjugate),
    **dict.fromkeys(("resolve_conj", "resolve_neg"), lambda write, name, z: z),
    "stft": _short_time,
    "_fft_c2c": _complex_to_complex,
    "_fft_r2c": _real_to_complex,
    "_fft_c2r": _complex_to_real,
}
