"""Operations that make tensors of a size, of which only the number of samples is not known before."""

from __future__ import annotations

import numpy as np

from simplicit.implicit.groups.program import Samples
from simplicit.runtime.onnx.operations.calls import Call
from simplicit.runtime.onnx.operations.registry import Entry, alike


def _filled(value: float | None) -> Entry:
    """One value everywhere; None stands for the argument of that name."""

    def written(call: Call) -> str:
        filling = value
        if filling is None:
            filling = next(call[name] for name in ("fill_value", "value", "s") if call[name] is not None)
        if isinstance(filling, Samples):
            number = call.graph().node("Squeeze", call.writer.integer(filling))
            return call.expand(call.cast(number, call.result.dtype), (), call.result.sizes)
        return call.expand(call.tensor(filling, call.result.dtype), (), call.result.sizes)

    return written


def _counted(call: Call) -> str:
    start, end, step = call["start"] or 0, call["end"], call["step"]
    step = 1 if step is None else step
    call.refuse(not all(isinstance(one, int) for one in (start, step)), "begins with no integer")
    bounds = [call.graph().node("Squeeze", bound) for bound in map(call.writer.integer, (start, end))]
    whole = call.graph().node("Range", *bounds, np.array(step, dtype=np.int64))
    return call.cast(whole, call.result.dtype)


MAKING: dict[str, Entry] = {
    **alike("zeros zeros_like new_zeros", _filled(0.0)),
    **alike("ones ones_like new_ones", _filled(1.0)),
    **alike("full full_like new_full fill scalar_tensor", _filled(None)),
    "arange": _counted,
}
