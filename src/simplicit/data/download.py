"""One published file, downloaded into the user's cache and checked against its published MD5 sum."""

from __future__ import annotations

import os
from pathlib import Path

from simplicit.errors import DataError

__all__ = ["download", "named_folder"]


def named_folder(data_dir: Path | None) -> Path | None:
    """`data_dir`, else what the environment variable ``SIMPLICIT_DATA`` names, else None."""
    return data_dir or (Path(os.environ["SIMPLICIT_DATA"]) if os.environ.get("SIMPLICIT_DATA") else None)


def download(url: str, md5: str, *, data: str, by_hand: str) -> Path:
    """Fetch a file by pooch, unless the cache has it already.

    Parameters
    ----------
    url : str
    md5 : str
    data : str
        Name of the data set; also of the folder in the cache.
    by_hand : str
        What to fetch by hand where the download fails, for the error.

    Raises
    ------
    DataError
        It cannot be downloaded, or what came has another sum.
    """
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # stdout and stderr belong to the caller
    name = url.rsplit("/", 1)[-1]
    try:
        return Path(
            pooch.retrieve(url=url, known_hash=f"md5:{md5}", fname=name, path=pooch.os_cache("simplicit") / data)
        )
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError is pooch's hash mismatch
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise DataError(
            f"{data} could not be downloaded ({name}: {reason}); fetch {by_hand} by hand and name the folder with "
            "--data-dir or SIMPLICIT_DATA, or use --data digits"
        ) from error
