"""Operations on boxes."""

from typing import Any


def batched_nms(*args: Any) -> Any:
    """Refuse: the whole of a face detector is not in the census."""
    raise NotImplementedError
