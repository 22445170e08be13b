"""What a capture takes: time beside torch.export, memory beside weights and states, and predict beside the network.

    make census-env                                       # once: timm and transformers
    python benchmarks/capture_size.py                     # everything, ten minutes
    python benchmarks/capture_size.py --only densenet121  # one network

Each network is asked in a process of its own, on one thread, after torch.export and a capture have run once on a small
one. Memory is the largest that the process held above what it held with the network and its inputs; the bound is three
times the weights and the states of the three samples that it is captured with, in the network's dtype. The first
capture of a network also loads what torch needs of its own code for it; a second one, after what the first left has
gone back to the system, shows what the network itself needs, torch.export's graph with it. What torch.export takes
alone is measured in the same way, in the same process and before the capture, which finds part of it free again. Times
of predict and of the network are the least of several, one after the other.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from census import environment, interpreter
from networks import timm_nets, transformers_nets
from networks.entry import SAMPLES, Inputs, Maker, call, first, first_output, stub_torchvision
from networks.measure import call_of, made, peak_memory, reset_peak
from results import arguments, command, grid, keep, machine, say, source_digest, timed
from torch import nn

import simplicit

CAPTURED, REPEATS = 3, 7
Report = dict[str, Any]


def encoder() -> tuple[nn.Module, Inputs]:
    """torch's own encoder: two layers of 384 on 20 tokens."""
    layer = nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(SAMPLES, 20, 384)


def bert(**options: Any) -> tuple[nn.Module, Inputs]:
    """A BERT of Hugging Face on 20 tokens."""
    from transformers import BertConfig, BertModel

    net: nn.Module = BertModel(BertConfig(**options), add_pooling_layer=False)
    ids = torch.randint(0, options["vocab_size"], (SAMPLES, 20))
    return net, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def timm(name: str) -> tuple[nn.Module, Inputs]:
    """A network of timm as the census has it."""
    stub_torchvision()
    return timm_nets.ENTRIES[name]()


SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}
LIKE_MINILM = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 30522}
IMAGES = (
    *("densenet121", "inception_v3", "vgg11_bn", "resnet18", "resnetv2_18", "hgnetv2_b0", "res2net50_26w_4s"),
    *("mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"),
)
NETWORKS: dict[str, Maker] = {
    **{name: partial(timm, name) for name in IMAGES},
    "encoder, 2 x 384": encoder,
    "BERT, 2 x 32": partial(bert, num_hidden_layers=2, **SMALL),
    "BERT, 6 x 384": partial(bert, num_hidden_layers=6, **LIKE_MINILM),
    "GPT-2": transformers_nets.ENTRIES["gpt2"],
}


def main() -> None:
    """Ask all networks, or one."""
    parser = arguments(__doc__, data=False)
    parser.add_argument("--only", action="append", default=[], choices=NETWORKS, help="name of a network")
    parser.add_argument("--one", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(asked(NETWORKS[options.one])))
        return
    found: dict[str, Report] = {}
    for name in options.only or NETWORKS:
        words = [str(interpreter()), str(Path(__file__)), "--one", name]
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
        found[name] = (
            json.loads(done.stdout) if done.returncode == 0 else {"failed": done.stderr.splitlines()[-1][:300]}
        )
        say(f"{name}: {found[name]}")
    report = {"command": command(), "machine": machine(), "source": source_digest(), "networks": found}
    keep(options.output, "capture_size", report, page(report))


def asked(make: Maker) -> Report:
    """The figures of one network."""
    torch.set_num_threads(1)
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2), nn.Softmax(1)).eval()
    simplicit.from_torch(small, torch.rand(3, 1, 8, 8)).predict(torch.rand(3, 1, 8, 8))
    net, inputs = made(make)
    example = first(inputs, CAPTURED)
    call(net, example)
    in_order, by_name, shapes = call_of(net, example)
    with torch.no_grad():
        export = partial(torch.export.export, net, in_order, by_name, dynamic_shapes=shapes, strict=False)
        before = reset_peak()
        _, export_seconds = timed(export)
        export_peak = peak_memory() - before
    before = reset_peak()
    model, seconds = timed(lambda: simplicit.from_torch(net, example))
    peak = peak_memory() - before
    del model
    let_go()
    before = reset_peak()
    model = simplicit.from_torch(net, example)
    again = peak_memory() - before
    own = sum(tensor.nbytes for tensor in [*net.parameters(), *net.buffers()])
    states = CAPTURED * model.n_states * model.dtype.itemsize
    report: Report = {"export_seconds": export_seconds, "capture_seconds": seconds, "peak_mb": peak / 2**20}
    report["peak_again_mb"] = again / 2**20
    report["export_peak_mb"] = export_peak / 2**20
    report |= {"bound_mb": 3 * (own + states) / 2**20, "groups": len(model.groups), "states": model.n_states}
    for count in (1, 8):
        some = first(inputs, count)
        ours, theirs = partial(model.predict, some), partial(call, net, some)
        y, reference = torch.as_tensor(ours()), first_output(theirs())
        pairs = [(timed(ours)[1], timed(theirs)[1]) for _ in range(REPEATS)]
        report[f"predict_{count}"] = min(pair[0] for pair in pairs) / min(pair[1] for pair in pairs)
        report["error"] = float((y.reshape(reference.shape) - reference).abs().max() / reference.abs().max())
    return report


def let_go() -> None:
    """Give what nobody holds back to the system, so that it is not taken for memory that was there before."""
    gc.collect()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # of glibc
        library.malloc_trim(0)


def page(report: Report) -> str:
    """The table."""
    rows = [(name, one) for name, one in report["networks"].items() if "failed" not in one]
    columns: dict[str, Callable[[tuple[str, Report]], str]] = {
        "network": lambda row: row[0],
        "export, s": lambda row: f"{row[1]['export_seconds']:.1f}",
        "capture, s": lambda row: f"{row[1]['capture_seconds']:.1f}",
        "4 x export + 2 s": lambda row: f"{4 * row[1]['export_seconds'] + 2:.1f}",
        "export, MB": lambda row: f"{row[1]['export_peak_mb']:.0f}",
        "capture, MB": lambda row: f"{row[1]['peak_mb']:.0f}",
        "again, MB": lambda row: f"{row[1]['peak_again_mb']:.0f}",
        "3 x (weights + states), MB": lambda row: f"{row[1]['bound_mb']:.0f}",
        "predict / torch, 1 sample": lambda row: f"{row[1]['predict_1']:.2f}",
        "8 samples": lambda row: f"{row[1]['predict_8']:.2f}",
        "relative error": lambda row: f"{row[1]['error']:.0e}",
    }
    failed = [f"- {name}: {one['failed']}" for name, one in report["networks"].items() if "failed" in one]
    of = report["machine"]
    lines = [
        "# What a capture takes",
        "",
        f"`{report['command']}`, source {report['source']}, one thread of {of['cores']}",
    ]
    lines[-1] += f" cores ({of['processor']}), Python {of['python']}, torch {of['torch']}, float32."
    return "\n".join([*lines, "", *grid(columns, rows), *([""] * bool(failed)), *failed]) + "\n"


if __name__ == "__main__":
    main()
