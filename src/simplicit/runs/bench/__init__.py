"""How fast and how large a run's network is, by several ways to run it that are measured in turn."""

from simplicit.runs.bench.measuring import BenchRun, BenchSettings, run_bench
from simplicit.runs.bench.ways import WAYS, Made, Way

__all__ = ["WAYS", "BenchRun", "BenchSettings", "Made", "Way", "run_bench"]
