"""How operations of torch are written as nodes of an ONNX graph.

A new operation is one function and one line in a module here. The function is given a
:class:`~simplicit.runtime.onnx.operations.calls.Call` and returns the name of the result, or the names of the results;
a setting that it does not know it refuses with a :class:`~simplicit.runtime.onnx.operations.calls.NotWrittenError`.
"""

from simplicit.runtime.onnx.operations.activations import ACTIVATIONS
from simplicit.runtime.onnx.operations.arithmetic import ARITHMETIC
from simplicit.runtime.onnx.operations.attention import ATTENTION
from simplicit.runtime.onnx.operations.calls import Call, Held, NotWrittenError, Writer
from simplicit.runtime.onnx.operations.convolutions import CONVOLUTIONS
from simplicit.runtime.onnx.operations.indexing import INDEXING
from simplicit.runtime.onnx.operations.logic import LOGIC
from simplicit.runtime.onnx.operations.making import MAKING
from simplicit.runtime.onnx.operations.moving import MOVING
from simplicit.runtime.onnx.operations.norms import NORMS
from simplicit.runtime.onnx.operations.products import PRODUCTS
from simplicit.runtime.onnx.operations.recurrences import RECURRENCES
from simplicit.runtime.onnx.operations.reductions import REDUCTIONS
from simplicit.runtime.onnx.operations.registry import WITHOUT_FORM, Entry
from simplicit.runtime.onnx.operations.sorting import SORTING

#: How an operation is written, by its name in ``aten`` without overload.
OPERATIONS: dict[str, Entry] = {
    **MOVING,
    **MAKING,
    **ARITHMETIC,
    **LOGIC,
    **ACTIVATIONS,
    **REDUCTIONS,
    **SORTING,
    **NORMS,
    **PRODUCTS,
    **CONVOLUTIONS,
    **ATTENTION,
    **INDEXING,
    **RECURRENCES,
}

__all__ = ["OPERATIONS", "WITHOUT_FORM", "Call", "Held", "NotWrittenError", "Writer"]
