"""The five benchmarks of Table 2, a module each. A new one goes here, and into `BENCHMARKS`."""

from collections.abc import Collection

from maskgen.errors import MaskgenError, did_you_mean
from maskgen.evaluation.benchmarks import cvbench, hallusionbench, ocrbench, pope, realworldqa
from maskgen.evaluation.benchmarks.benchmark import PAPER, Benchmark

__all__ = ["BENCHMARKS", "PAPER", "Benchmark", "named", "of_row"]

# In the order of Table 2's columns.
BENCHMARKS: dict[str, Benchmark] = {
    each.BENCHMARK.name: each.BENCHMARK for each in (hallusionbench, ocrbench, cvbench, realworldqa, pope)
}


def named(name: str) -> Benchmark:
    """The benchmark of that name. MaskgenError if there is none."""
    if name not in BENCHMARKS:
        near = did_you_mean(name, BENCHMARKS)
        raise MaskgenError(f"there is no benchmark {name}.{near} There are {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name]


def of_row(fields: Collection[str]) -> str:
    """Which benchmark a row with these fields is of, "" if of none."""
    # RealWorldQA last: the others have its fields too.
    for name in ("hallusionbench", "cvbench", "ocrbench", "pope", "realworldqa"):
        if any(set(some) <= set(fields) for some in BENCHMARKS[name].fields):
            return name
    return ""
