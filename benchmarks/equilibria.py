"""Cells at rest beside torchdeq: the same equilibrium, the same gradient, how long and in how many steps.

    python benchmarks/equilibria.py      # ten minutes; needs torchdeq beside simplicit, in an environment of its own

Four cells in float64, 64 samples: tanh layers with input injection, 64 and 512 wide, with random signs and with
positive weights (where all eigenvalues count), and a convolutional one. All solvers are asked for 1e-9: ours in the
largest error of a state, which it proves, torchdeq's in the relative step, which is its measure. Times are medians of
3. Prints the table and writes results/equilibria.json and results/equilibria.md beside this file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from results import arguments, command, grid, keep, machine, say, timed
from torch import Tensor, nn

import simplicit as sp

SAMPLES, REPEATS, TOL, STEPS = 64, 3, 1e-9, 1_000
F64 = torch.float64


class Layer(nn.Module):
    """x = tanh(W x + V u + b) with λ_pf(|W|) = ``radius``."""

    def __init__(self, n: int, p: int, radius: float, *, positive: bool = False) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(n, n, bias=False), nn.Linear(p, n)
        with torch.no_grad():
            if positive:
                self.inner.weight.abs_()
            self.inner.weight *= radius / torch.linalg.eigvals(self.inner.weight.abs().double()).abs().max().float()
            self.outer.weight *= 0.3

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(self.inner(x) + self.outer(u))


class Convolution(nn.Module):
    """x = tanh(W * x + V * u + b), kernels of absolute sum ``radius``."""

    def __init__(self, channels: int, inputs: int, radius: float) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.outer = nn.Conv2d(inputs, channels, 3, padding=1)
        with torch.no_grad():
            self.inner.weight *= radius / self.inner.weight.abs().sum((1, 2, 3), keepdim=True)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        return torch.tanh(self.inner(x) + self.outer(u))


#: Cells with the shapes of their states and inputs.
CELLS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "tanh, 64 wide": (lambda: Layer(64, 32, 0.9), (64,), (32,)),
    "tanh, 64 wide, positive": (lambda: Layer(64, 32, 0.98, positive=True), (64,), (32,)),
    "tanh, 512 wide": (lambda: Layer(512, 128, 0.9), (512,), (128,)),
    "convolution, 8 x 12 x 12": (lambda: Convolution(8, 3, 0.9), (8, 12, 12), (3, 12, 12)),
}


def gradient(run: Callable[[Tensor], Tensor], u: Tensor, direction: Tensor) -> Tensor:
    v = u.clone().requires_grad_()
    (found,) = torch.autograd.grad((run(v) * direction).sum(), v)
    return found


def peers(cell: nn.Module, state: Tensor) -> dict[str, tuple[Callable[[Tensor], Tensor], list[int]]]:
    """torchdeq by its solvers, each with the evaluations of the cell that it took."""
    from torchdeq import get_deq

    found: dict[str, tuple[Callable[[Tensor], Tensor], list[int]]] = {}
    for solver in ("fixed_point_iter", "anderson", "broyden"):
        deq = get_deq(
            f_solver=solver, b_solver=solver, f_tol=TOL, b_tol=TOL, f_max_iter=STEPS, b_max_iter=STEPS, ift=True
        ).double()
        counts: list[int] = [0]

        def run(u: Tensor, deq: Any = deq, counts: list[int] = counts) -> Tensor:
            counts[0] = 0

            def step(x: Tensor) -> Tensor:
                counts[0] += 1
                result: Tensor = cell(x, u)
                return result

            result: Tensor = deq(step, state)[0][-1]
            return result

        found[f"torchdeq, {solver}"] = run, counts
    return found


def measured(name: str) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    make, shape, given = CELLS[name]
    cell = make().double().eval()
    state, u = torch.zeros(SAMPLES, *shape, dtype=F64), torch.randn(SAMPLES, *given, dtype=F64)
    sp.from_cell(Layer(2, 2, 0.5).eval(), torch.zeros(2, 2), torch.zeros(2, 2))  # torch.export takes seconds to begin
    begun = time.perf_counter()
    model = sp.from_cell(cell, state, u)
    capture = time.perf_counter() - begun
    exact = sp.equilibrium(model, u, 1e-13, method="anderson").states.reshape(SAMPLES, *shape)
    direction = torch.randn(exact.shape, dtype=F64)
    module = sp.to_torch(model)
    truth = gradient(module, u, direction)
    rows: list[dict[str, Any]] = []

    def add(
        what: str, run: Callable[[], Any], back: Callable[[], Tensor], steps: Callable[[Any], Any], bound: Any
    ) -> None:
        found, seconds = timed(run, REPEATS)
        states, count = found if isinstance(found, tuple) else (found, None)
        again, both = timed(back, REPEATS)
        rows.append(
            {
                "cell": name,
                "method": what,
                "forward, ms": 1e3 * seconds,
                "with gradient, ms": 1e3 * both,
                "steps": steps(count),
                "largest error": float((states.reshape(exact.shape) - exact).abs().max()),
                "proved error": bound(),
                "gradient apart, relative": float((again - truth).abs().max() / truth.abs().max()),
            }
        )

    for method in ("picard", "newton", "anderson"):
        if method == "newton" and model.n_states > 100:
            continue

        def ours(method: str = method) -> Any:
            found = sp.equilibrium(model, u, TOL, method=method)
            return found.states, found

        def proved(method: str = method) -> float:
            return float(sp.equilibrium(model, u, TOL, method=method).error_bound.max())

        add(
            f"simplicit, {method}, with its bound",
            ours,
            lambda: gradient(module, u, direction),
            lambda found: found.iterations,
            proved,
        )
    plain: Callable[[], Any] = lambda: model.predict(u)  # noqa: E731
    add("simplicit, predict", plain, lambda: gradient(module, u, direction), lambda _: None, lambda: None)
    for what, (run, counts) in peers(cell, state).items():

        def forward(run: Callable[[Tensor], Tensor] = run) -> Tensor:
            with torch.no_grad():
                return run(u)

        forward()
        add(what, forward, partial(gradient, run, u, direction), partial(_first, counts[0]), lambda: None)
    rows[0]["capture, s"], rows[0]["lambda_pf"] = capture, float(sp.perron_frobenius(model))
    return rows


def _first(count: int, _: Any) -> int:
    return count


def page(report: dict[str, Any]) -> str:
    of = report["machine"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "cell": lambda row: row["cell"],
        "method": lambda row: row["method"],
        "forward, ms": lambda row: f"{row['forward, ms']:.1f}",
        "with gradient, ms": lambda row: f"{row['with gradient, ms']:.1f}",
        "steps": lambda row: "" if row["steps"] is None else str(row["steps"]),
        "largest error": lambda row: f"{row['largest error']:.1e}",
        "proved error": lambda row: "" if row["proved error"] is None else f"{row['proved error']:.1e}",
        "gradient apart, relative": lambda row: f"{row['gradient apart, relative']:.1e}",
    }
    known = [row for row in report["rows"] if "lambda_pf" in row]
    lines = [
        "# Cells at rest",
        "",
        f"`{report['command']}`: {SAMPLES} samples in float64, {of['cores']} cores ({of['processor']}), Python "
        f"{of['python']}, torch {of['torch']}, torchdeq {report['torchdeq']}.",
        "",
        "Errors are against Anderson's mixing to 1e-13; gradients against ours. `equilibrium` computes its bound of "
        "the error too, which `predict` does not.",
        "",
        *grid(columns, report["rows"]),
        "",
        *(
            f"- {row['cell']}: λ_pf = {row['lambda_pf']:.3f}, captured and proved in {row['capture, s']:.2f} s."
            for row in known
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--only", action="append", choices=CELLS, help="a cell (default: all)")
    args = parser.parse_args()
    try:
        from importlib.metadata import version

        peer = version("torchdeq")
    except ImportError:
        parser.error("torchdeq is not installed: pip install torchdeq, into an environment of its own")
    rows: list[dict[str, Any]] = []
    for name in args.only or CELLS:
        say(name)
        rows += measured(name)
    report = {"command": command(), "machine": machine(), "torchdeq": peer, "rows": rows}
    keep(args.output, "equilibria", report, page(report))


if __name__ == "__main__":
    main()
