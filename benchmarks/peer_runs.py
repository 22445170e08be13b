"""Start the peers in their environment and read what they leave: NumPy files in a temporary folder, no pickle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from problems import Problem

HERE = Path(__file__).parent
PYTHON = HERE / "peers" / ".venv" / "bin" / "python"
CONSTRAINED = ("torchidl",)
UNCONSTRAINED = ("scikit_learn_lars", "scikit_learn", "celer", "skglm")
#: Seconds beyond the limit after which a peer that does not stop by itself is ended.
GRACE = 180.0


@dataclass(frozen=True)
class PeerRun:
    """What a peer returned: coefficients (r, d), which rows it solved (r,), seconds, "yes" or why not, versions."""

    coefficients: npt.NDArray[np.float64]
    solved: npt.NDArray[np.bool_]
    seconds: float
    finished: str
    versions: str

    @property
    def seconds_for_all(self) -> float | None:
        """Seconds, extrapolated in proportion where only some rows were solved; None where no row was."""
        done = int(self.solved.sum())
        return self.seconds * len(self.solved) / done if done else None


def run_peer(name: str, problem: Problem, limit: float) -> PeerRun:
    """All rows by one peer, in a process group of its own with one BLAS thread per process."""
    if not PYTHON.exists():
        raise SystemExit("the peers are not installed: run `make peers` first, or leave the section `peers` out")
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = os.environ | dict.fromkeys(threads, "1")
    environment.pop("PYTHONPATH", None)
    r, d = problem.targets.shape[1], problem.features.shape[1]
    with tempfile.TemporaryDirectory() as folder:
        stored, result = Path(folder) / "problem.npz", Path(folder) / "result.npz"
        np.savez(
            stored,
            features=problem.features,
            targets=problem.targets,
            weight=problem.weight,
            beta=problem.beta,
            kappa=np.nan if problem.kappa is None else problem.kappa,
            n_ball=problem.n_ball,
        )
        command = [str(PYTHON), "-m", "peers.run", name, str(stored), str(result), "--limit", str(limit)]
        failure = _ended(command, environment, limit + GRACE)
        if failure is not None:
            return PeerRun(np.zeros((r, d)), np.zeros(r, dtype=bool), limit, failure, "")
        with np.load(result, allow_pickle=False) as arrays:
            return PeerRun(
                coefficients=arrays["coefficients"],
                solved=arrays["solved"],
                seconds=float(arrays["seconds"]),
                finished=str(arrays["finished"]),
                versions=str(arrays["versions"]),
            )


def _ended(command: list[str], environment: dict[str, str], limit: float) -> str | None:
    """Run to the end; why there is no result, or None."""
    process = subprocess.Popen(
        command,
        cwd=HERE,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return f"did not stop within {limit:.0f} s"
    finally:
        if process.poll() is None:
            _end_group(process)
    if process.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return f"exit code {process.returncode}: {last}"
    return None


def _end_group(process: subprocess.Popen[str]) -> None:
    """End the peer and what it started: first so that Python's resource tracker can unlink shared memory."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
        time.sleep(1)
