"""Train the byte-level GPT-2 that benchmarks/one_shot.py prunes: 3.2 M weights, on docstrings.

    python benchmarks/train_gpt2.py --folder gpt2_bytes      # half an hour on one core; first `make census-env`

The network is Hugging Face's GPT2LMHeadModel with one token for every byte, 4 blocks of 256 states, and windows of 128
bytes. The text is that of `networks/texts.py`: the docstrings of the standard library and of installed packages, one
file in ten held out, which takes minutes to read and is kept in --texts. Every 250 steps what training knows is kept
in the folder, from where it goes on if it was broken off. Writes the folder as `save_pretrained` does, and
`training.json` beside: settings, digests of the texts, and the perplexity on held-out windows.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks.texts import digest, kept, prose
from results import say
from torch import Tensor

LENGTH, WIDTH, BLOCKS, HEADS = 128, 256, 4, 4
BATCH, RATE, WARMUP, DECAY = 16, 2e-3, 100, 0.1
#: Windows that the perplexity is taken on.
HELD_OUT = 400
EVERY = 250
UNFINISHED = "unfinished.pt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/gpt2_bytes"), help="where the network goes")
    parser.add_argument("--texts", type=Path, default=Path("build/texts"), help="where texts are kept")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    text, held = (text_of(options.texts, held) for held in (False, True))
    net, begun = untrained(), time.process_time()
    train(net, text, options)
    net.eval().save_pretrained(options.folder)
    record = {
        "command": f"python benchmarks/train_gpt2.py --steps {options.steps} --seed {options.seed}",
        "parameters": sum(p.numel() for p in net.parameters()),
        "bytes": [len(text), len(held)],
        "digests": [digest(text.tobytes()), digest(held.tobytes())],
        "processor_seconds": time.process_time() - begun,
        "perplexity": perplexity(net, windows(held, HELD_OUT, seed=0)),
    }
    (options.folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.folder / UNFINISHED).unlink(missing_ok=True)
    say(json.dumps(record))


def text_of(folder: Path, held: bool) -> np.ndarray:
    """The bytes (n,) that are trained on, or those held out."""
    file = folder / f"prose-{'held-out' if held else 'trained'}.txt"
    return np.frombuffer(kept(file, lambda: prose()[held].decode("ascii")).encode("ascii"), dtype=np.uint8)


def untrained() -> Any:
    """The network before training."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_positions": LENGTH, "n_embd": WIDTH, "n_layer": BLOCKS, "n_head": HEADS}
    free = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **sizes, **free))


def windows(text: np.ndarray, count: int, seed: int) -> Tensor:
    """Token ids (count, LENGTH) of windows drawn from a text (n,)."""
    starts = np.random.default_rng(seed).integers(0, len(text) - LENGTH, count)
    return torch.from_numpy(text[starts[:, None] + np.arange(LENGTH)].astype(np.int64))


def train(net: Any, text: np.ndarray, options: argparse.Namespace) -> None:
    """AdamW, a linear start and a cosine down to a tenth; goes on where it was broken off."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=DECAY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    parts = {"net": net, "optimizer": optimizer, "scheduler": scheduler}
    unfinished, first = options.folder / UNFINISHED, 0
    if unfinished.exists():
        stored = torch.load(unfinished, weights_only=True)
        first = stored["step"]
        for name, part in parts.items():
            part.load_state_dict(stored[name])
    net.train()
    for step in range(first, options.steps):
        batch = windows(text, BATCH, seed=options.seed * 1_000_000_007 + step)
        loss = net(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if (step + 1) % EVERY == 0:
            say(f"{step + 1:6d} {loss.item():.3f}")
            options.folder.mkdir(parents=True, exist_ok=True)
            torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}, unfinished)


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARMUP) * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def perplexity(net: Any, ids: Tensor) -> float:
    """Of each byte of windows (m, LENGTH), given those before it."""
    with torch.no_grad():
        losses = [net(input_ids=part, labels=part).loss.item() * len(part) for part in torch.split(ids, 50)]
    return math.exp(sum(losses) / len(ids))


if __name__ == "__main__":
    main()
