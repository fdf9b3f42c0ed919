"""The five benchmarks of Table 2, a module each. A new one goes here, and into `BENCHMARKS`."""

from maskgen.errors import MaskgenError
from maskgen.evaluation.benchmarks import cvbench, hallusionbench, ocrbench, pope, realworldqa
from maskgen.evaluation.benchmarks.benchmark import PAPER, Benchmark

__all__ = ["BENCHMARKS", "PAPER", "Benchmark", "named"]

# In the order of Table 2's columns.
BENCHMARKS: dict[str, Benchmark] = {
    each.BENCHMARK.name: each.BENCHMARK for each in (hallusionbench, ocrbench, cvbench, realworldqa, pope)
}


def named(name: str) -> Benchmark:
    """The benchmark of that name. MaskgenError if there is none."""
    if name not in BENCHMARKS:
        raise MaskgenError(f"there is no benchmark {name}; there are: {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]
