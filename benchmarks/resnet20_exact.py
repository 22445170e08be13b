"""ResNet-20 as an implicit model: how exact it is, how long it takes, how much memory.

    python benchmarks/resnet20_exact.py      # half a minute; needs the data, as benchmarks/resnet20.py does

Times are medians of 9 in turns with the network's own. Prints the table and writes results/resnet20_exact.json and
results/resnet20_exact.md beside this file.
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from resnet20 import Data, trained
from results import arguments, keep, machine, timed

import simplicit as sp

BATCH, REPEATS = 128, 9


def measured(folder: Path) -> dict[str, Any]:
    data, net = Data.read(folder), trained(folder)
    labels = torch.from_numpy(data.test_labels)
    torch.set_flush_denormal(True)
    model, capturing = timed(lambda: sp.from_torch(net, data.test[:2]))
    images, own, ours = data.test[:BATCH], [], []
    with torch.no_grad():
        for _ in range(REPEATS + 2):  # two to warm up
            own.append(timed(lambda: net(images))[1])
            ours.append(timed(lambda: model.predict(images))[1])
        expected, found = net(data.test), model.predict(data.test)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    eigenvalue, seeking = timed(lambda: sp.perron_frobenius(model))
    scaled, scaling = timed(lambda: sp.rescale(model))
    apart = (scaled.predict(data.test) - found).abs().max() / found.abs().max()
    with tempfile.TemporaryDirectory() as place:
        sp.save(model, Path(place) / "model")
        size = sum(file.stat().st_size for file in (Path(place) / "model").iterdir())
    return {
        "states": model.n_states,
        "non-zeros of M": model.nnz,
        "largest difference of logits, relative": float((expected - found).abs().max() / expected.abs().max()),
        "accuracy of the network, %": 100 * float((expected.argmax(1) == labels).double().mean()),
        "accuracy of the implicit model, %": 100 * float((found.argmax(1) == labels).double().mean()),
        "capture, s": capturing,
        f"{BATCH} images by the network, s": median(own[2:]),
        f"{BATCH} images by the implicit model, s": median(ours[2:]),
        "implicit model / network": median(ours[2:]) / median(own[2:]),
        "peak memory to there, MB": peak,
        "Perron-Frobenius eigenvalue": float(eigenvalue),
        "Perron-Frobenius eigenvalue, s": seeking,
        "rescaling, s": scaling,
        "rescaled model, largest difference, relative": float(apart),
        "saved, bytes": size,
        "as CSR, bytes": model.csr_bytes,
    }


def shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def main() -> None:
    parser = arguments(__doc__)
    options = parser.parse_args()
    figures, of = measured(options.data_dir), machine()
    lines = [
        "# ResNet-20 as an implicit model",
        "",
        f"`python benchmarks/resnet20_exact.py`, {of['cores']} cores, Python {of['python']}, torch {of['torch']}; "
        "float32, the 1,000 CIFAR-10 test images.",
        "",
        "| figure | value |",
        "| --- | ---: |",
        *(f"| {name} | {shown(value)} |" for name, value in figures.items()),
        "",
    ]
    keep(options.output, "resnet20_exact", {"machine": of, "figures": figures}, "\n".join(lines))


if __name__ == "__main__":
    main()
