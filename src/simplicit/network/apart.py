"""Whether a graph is a function of one sample: the same each time, whatever other samples are beside it.

A model is read operation by operation, and what is random or takes samples together is refused there, by its name. Who
works on the graph alone has the same checked by its values: two samples go through it twice, with other random numbers,
and one of them in the place of both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simplicit.checks import lookups_checked, refused
from simplicit.network.graph import NetworkGraph
from simplicit.network.operations import RANDOM_WITH_DROPOUT, name_of, unsupported

# Values differ where they differ by more than this share of the largest: rounding depends on how samples come.
_DIFFER = 1e-3


def check_function(graph: NetworkGraph, samples: Tensor) -> None:
    """Refuse a graph that is no function of single samples, by the first two of ``samples`` (m, *input_shape).

    Raises
    ------
    UnsupportedOperationError
        It is random, also in evaluation mode.
    InputError
        It mixes the samples of a batch, returns NaN, or an input cannot be looked up.
    """
    two = samples[:2] if len(samples) > 1 else samples.expand(2, *samples.shape[1:])
    first = _outputs(graph, two, seed=0)
    if not _alike(first, _outputs(graph, two, seed=1)):
        seeded = [node for node in graph.module.graph.nodes if is_random(node.target)]
        plain = [node for node in seeded if name_of(node) not in RANDOM_WITH_DROPOUT]
        if seeded:
            raise unsupported((plain or seeded)[0], "it is random also in evaluation mode")
        raise refused("net", "it gives other outputs each time that it is called with the same input")
    if not _alike(first[0], _outputs(graph, two[[0, 0]], seed=0)[0]):
        raise refused("net", "it mixes the samples of a batch: an output changes with the sample beside it")
    if bool(first.isnan().any()):
        raise refused("net", "it returns NaN for the first samples, to which nothing can be fitted; leave those out")


def _outputs(graph: NetworkGraph, two: Tensor, seed: int) -> Tensor:
    with torch.no_grad(), torch.random.fork_rng(devices=()), lookups_checked():
        torch.manual_seed(seed)
        result: Tensor = graph.module(*graph.constants.values(), two.clone())
        return result


def _alike(one: Tensor, other: Tensor) -> bool:
    scale = one.nan_to_num(0.0, 0.0, 0.0).abs().max()
    return torch.allclose(one, other, rtol=0.0, atol=float(_DIFFER * scale), equal_nan=True)


def is_random(target: object) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())
