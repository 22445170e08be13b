"""Kill a run at random moments, over and over, and look: nothing lost, nothing different, nothing left behind.

    python benchmarks/kill_test.py                      # 200 kills, some 20 minutes; writes results/kill_test.json
    python benchmarks/kill_test.py --kills 20 --seed 7 --output build/trial

A run is `simplicit solve --executor processes --journal J`. At a random moment kill -9 goes to its parent, to one
worker, or to all its processes at once. Then this looks:

- after a worker's death the run must end well by itself;
- after its parent's death every process of the run must be gone within seconds, and whatever block is in the journal
  must be whole;
- there must be no new entry in /dev/shm: no segment, no semaphore; and no new entry in the temporary folder;
- the same command again must go on, however often it is killed, and end with the coefficients of an undisturbed serial
  run, to the bit.

The journal is begun anew after every run that ended. Linux only; it kills only processes that it has started. Shared
memory that a living process holds is not taken for the run's, whose processes are gone by then; what others *leave*
there meanwhile would be.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from results import arguments, command, machine, say
from shared_memory import held

from simplicit.executors import Journal

COMMAND = "import sys; from simplicit.cli import main; sys.exit(main())"
MARK = "SIMPLICIT_KILL_TEST"
VICTIMS = {"parent": 0.25, "worker": 0.6, "all": 0.15}
#: How long processes may take to notice that their parent is gone, and a run to end: many times what they do.
GONE_SECONDS, END_SECONDS = 15.0, 300.0
#: Blocks that must be finished between two kills of workers: so many that the one that was lost is among them.
RECOVERED_BLOCKS = 4


@dataclass
class Report:
    """What was done and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    finished: int = 0
    resumed_blocks: int = 0
    broken: list[str] = field(default_factory=list)
    slowest_exit: float = 0.0

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


class Killer:
    """Runs in a scratch folder, and their undoing."""

    def __init__(self, folder: Path, seed: int, rows: int) -> None:
        self.folder, self.random, self.report = folder, np.random.default_rng(seed), Report()
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        rng = np.random.default_rng(0)
        features = rng.normal(size=(150, 250))
        truth = rng.normal(size=(250, rows)) * (rng.random((250, rows)) < 0.1)
        np.save(folder / "features.npy", features)
        np.save(folder / "targets.npy", features @ truth + 0.1 * rng.normal(size=(150, rows)))
        self.expected = self.solve("serial").joinpath("coefficients.safetensors").read_bytes()
        begun = time.monotonic()
        self.solve("processes")
        self.usual = time.monotonic() - begun

    def command(self, executor: str, output: Path, *more: str) -> list[str]:
        words = ["solve", "features.npy", "targets.npy", "--beta", "2", "--block-rows", "12", "--executor", executor]
        words += [] if executor == "serial" else ["--workers", "2"]
        return [sys.executable, "-c", COMMAND, *words, "--output", str(output), *more]

    def solve(self, executor: str) -> Path:
        """An undisturbed run."""
        output = self.folder / f"undisturbed-{executor}"
        subprocess.run(self.command(executor, output), cwd=self.folder, check=True, capture_output=True)
        return output

    def begin(self) -> Run:
        """A run that is going to be disturbed, on the journal of those before it."""
        self.report.runs += 1
        mark, output = secrets.token_hex(8), self.folder / f"out-{self.report.runs}"
        process = subprocess.Popen(
            self.command("processes", output, "--journal", "journal"),
            cwd=self.folder,
            env=os.environ | {MARK: mark, "TMPDIR": str(self.temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Run(process, mark, output)

    def disturb(self, most: int) -> None:
        """One run: wait, kill, look; again and again if it survives."""
        before = self.things()
        run = self.begin()
        self.report.resumed_blocks += self.finished_blocks()
        done = enough = 0
        while self.report.killed < most:
            # Much of the time goes by before the workers are up; what is of interest comes after.
            pause = float(self.random.uniform(0.1, 0.7) * self.usual)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.wait(pause)
            if run.process.poll() is not None:
                break
            victim = str(self.random.choice(list(VICTIMS), p=list(VICTIMS.values())))
            if victim == "worker" and (done := self.finished_blocks()) < enough:
                continue  # a run that is given no time to recover ends with an error, and rightly
            if run.kill(victim, self.random):
                self.report.kills[victim] += 1
                enough = done + RECOVERED_BLOCKS if victim == "worker" else 0
            if victim != "worker":
                break
        self.look(run, before)

    def finished_blocks(self) -> int:
        """How many blocks are in the journal."""
        return len(list((self.folder / "journal").glob("*/*.safetensors")))

    def look(self, run: Run, before: set[str]) -> None:
        """How it ended, and what is left."""
        try:
            _, told = run.process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self.report.broken.append("a run did not end")
            run.kill("all", self.random)
            return
        begun = time.monotonic()
        while (left := run.processes()) and time.monotonic() - begun < GONE_SECONDS:
            time.sleep(0.02)
        self.report.slowest_exit = max(self.report.slowest_exit, time.monotonic() - begun)
        if left:
            self.report.broken.append(f"processes left: {sorted(left)}")
            run.kill("all", self.random)
        while (new := self.things() - held() - before) and time.monotonic() - begun < GONE_SECONDS:
            time.sleep(0.02)  # others take a moment between making something and holding it
        if new:
            self.report.broken.append(f"things left: {sorted(new)}")
        self.check_journal()
        if run.output.exists():  # also of a run that was killed just after it had written it
            self.finish(run)
        elif run.process.returncode != -signal.SIGKILL:
            self.report.broken.append(f"exit code {run.process.returncode}: {told.strip()[-300:]}")

    def check_journal(self) -> None:
        """Every block that is there must be whole."""
        folder = self.folder / "journal"
        if not Journal.exists(folder):
            return
        for section in Journal.read(folder).sections():
            for number in section.numbers():
                if not section.intact(number):
                    self.report.broken.append(f"block {number} is damaged")

    def finish(self, run: Run) -> None:
        """Compare what a run has written, and clear the journal away."""
        self.report.finished += 1
        if (run.output / "coefficients.safetensors").read_bytes() != self.expected:
            self.report.broken.append("other coefficients")
        shutil.rmtree(self.folder / "journal")

    def finish_last(self) -> None:
        """Let the last run that was killed end well."""
        if (self.folder / "journal").exists():
            before = self.things()
            self.look(self.begin(), before)

    def things(self) -> set[str]:
        """What stands in the places where processes leave things behind."""
        return {str(path) for folder in (Path("/dev/shm"), self.temporary) for path in folder.iterdir()}


@dataclass
class Run:
    """A run: its parent, the mark in the environment of all its processes, and what it writes."""

    process: subprocess.Popen[str]
    mark: str
    output: Path

    def processes(self) -> set[int]:
        """All of its processes that live, whoever their parent is now."""
        found, wanted = set(), f"{MARK}={self.mark}".encode()
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdecimal() and wanted in (folder / "environ").read_bytes():
                    found.add(int(folder.name))
        return found

    def kill(self, victim: str, random: np.random.Generator) -> bool:
        """Whether there was something to kill."""
        workers = sorted(self.processes() - {self.process.pid})
        if victim == "parent":
            chosen = [self.process.pid]
        elif victim == "all":
            chosen = [self.process.pid, *workers]
        else:
            chosen = [int(random.choice(workers))] if workers else []
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(chosen)


def main() -> int:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--kills", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims (default: 0)")
    parser.add_argument("--rows", type=int, default=4000, help="of the problem (default: 4000)")
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-test-") as folder:
        killer = Killer(Path(folder), options.seed, options.rows)
        report = killer.report
        while report.killed < options.kills and len(report.broken) < 5:
            killer.disturb(options.kills)
            say(f"{report.killed} kills, {report.finished} runs ended, {report.broken}")
        killer.finish_last()
    write(options.output, report, time.monotonic() - begun)
    return 1 if report.broken else 0


def write(folder: Path, report: Report, seconds: float) -> None:
    """Keep the report, and print it."""
    found: dict[str, Any] = {
        "command": command(),
        "machine": machine(),
        "kills": dict(report.kills),
        "killed": report.killed,
        "runs": report.runs,
        "runs_that_ended_well": report.finished,
        "blocks_taken_over_from_killed_runs": report.resumed_blocks,
        "slowest_exit_of_a_process_seconds": round(report.slowest_exit, 3),
        "broken": report.broken,
        "seconds": round(seconds, 1),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kill_test.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(main())
