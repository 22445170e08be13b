"""What makes a fit mean little, seen from the network and its samples alone, before any row is solved.

Where the evidence is clear the samples are refused; else there is a remark, which :func:`simplicit.fit` gives as a
:class:`DoubtfulInputsWarning` and the command line as a note beside the figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from simplicit.checks import refused

#: So many samples are looked at for their scale.
ASKED = 500
#: A batch norm was calibrated on other inputs where the median of its variances differs by more than this factor: by
#: a factor of ten in the inputs.
_FACTOR = 100.0
#: The largest value of a byte; whole numbers up to it that pass its half are taken for pixels.
_BYTE = 255


class DoubtfulInputsWarning(UserWarning):
    """The samples of a fit are taken as they are, but they do not look like those that the network was trained on."""


class _ReachedError(Exception):
    """A module that was waited for has been called, so that the rest of the network need not be."""


def doubts_of(network: nn.Module, inputs: Any, argument: str) -> list[str]:
    """What a user should know of the samples; InputError where all of them are equal.

    Parameters
    ----------
    network : torch.nn.Module
        In evaluation mode, as it computes.
    inputs : array (m, ...), or a tuple, list or mapping of such
        What it takes. Only one array alone is looked at for its scale.
    argument : str
        What the caller calls them.
    """
    if isinstance(inputs, Tensor | np.ndarray):
        arrays = [inputs]
        scale = other_scale(network, _tensor(inputs[:ASKED]))
    else:
        values = inputs.values() if isinstance(inputs, Mapping) else inputs
        arrays = [one for one in values if isinstance(one, Tensor | np.ndarray) and one.ndim]
        scale = None
    return [*repeated(arrays, argument), *([] if scale is None else [f"{scale}: are they normalised as in training?"])]


def repeated(arrays: Sequence[Any], argument: str) -> list[str]:
    """Refuse samples that are all the same; say where fewer than half of them are different, or there is but one.

    The arrays (m, ...) together are the samples. A single one that is an array itself, such as an image or a text, has
    many positions and is not remarked.
    """
    if not arrays:
        return []
    count = min(map(len, arrays))
    different = len({hash(b"".join(_bytes(one[row]) for one in arrays)) for row in range(count)})
    if count > 1 and different == 1:
        found = f"all {count} samples are equal, and say nothing of what else the network is to do"
        raise refused(argument, f"{found}; give some hundred different ones")
    if count == 1 and all(one.ndim == 2 for one in arrays):
        return ["a single sample says nothing of what else the network is to do; give some hundred different ones"]
    return [f"only {different} of the {count} samples are different"] if 2 * different < count else []


def other_scale(network: nn.Module, inputs: Tensor) -> str | None:
    """In words, by how much the inputs differ from those that the network was calibrated on, where that can be seen.

    What can be compared are the variances at its first batch norm with those that it has stored. Without any, whole
    numbers as far as 255 that reach its first layer as they are look like pixels that were not scaled.
    """
    norms = [one for one in network.modules() if isinstance(one, _BatchNorm) and one.num_batches_tracked]
    layers = [one for one in network.modules() if isinstance(one, nn.Linear | _ConvNd)]
    if norms and len(inputs) > 1 and norms[0].running_var is not None:
        return _unlike(norms[0], _reaching(network, norms[0], inputs), inputs)
    if norms or not layers or not _pixels(inputs):
        return None
    seen = _reaching(network, layers[0], inputs)
    if seen is None or not _pixels(seen):
        return None
    return f"inputs are whole numbers from {float(inputs.min()):.0f} to {float(inputs.max()):.0f}, as of pixels"


def _tensor(values: Any) -> Tensor:
    """An array as a tensor on the CPU, in the byte order and a type of torch's."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    native = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("="))
    return torch.from_numpy(
        native if native.dtype.itemsize <= 8 and native.dtype.kind != "u" else native.astype(np.float64)
    )


def _bytes(values: Any) -> bytes:
    """The bytes of one sample."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return bytes(np.asarray(values).tobytes())


def _pixels(values: Tensor) -> bool:
    """Whether values are whole numbers of a byte, beyond its half."""
    low, high = float(values.min()), float(values.max())
    return low >= 0 and _BYTE / 2 < high <= _BYTE and bool((values == values.round()).all())


def _unlike(norm: _BatchNorm, seen: Tensor | None, inputs: Tensor) -> str | None:
    """How much larger or smaller than at its calibration what reaches a batch norm is, where that is far off."""
    if seen is None or norm.running_var is None:
        return None
    found = seen.transpose(0, 1).reshape(seen.shape[1], -1).var(1)
    ratio = float(torch.median(found / (norm.running_var + norm.eps)))
    if 1 / _FACTOR <= ratio <= _FACTOR:
        return None
    what = f"inputs from {float(inputs.min()):.4g} to {float(inputs.max()):.4g}"
    reached = f"reach the network's first batch norm {math.sqrt(ratio):.3g} times as large"
    return f"{what} {reached} as those that it was calibrated on"


def _reaching(network: nn.Module, module: nn.Module, inputs: Tensor) -> Tensor | None:
    """What reaches a module of the network, which is called no further; None where that is not called."""
    seen: list[Tensor] = []

    def note(_: nn.Module, given: tuple[Any, ...]) -> None:
        seen.append(given[0].detach())
        raise _ReachedError

    hook = module.register_forward_pre_hook(note)
    dtype = next((value.dtype for value in network.parameters()), inputs.dtype)
    try:
        with torch.no_grad():
            network(inputs.to(dtype, copy=True))
    except _ReachedError:
        pass
    except Exception:  # the network's own code; what it cannot take is refused when it is captured
        return None
    finally:
        hook.remove()
    return seen[0] if seen else None
