"""How fast is planning, and in how much memory? Beside it, the bare parse of the same file.

    python benchmarks/plan.py --rows 10000000

Writes a JSONL file of made-up rows in Cambrian's layout to a temporary folder, then measures in one run:
`orjson.loads` of every line, and `make_plan` in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from maskgen.config import parse
from maskgen.sources.plan import make_plan

IMAGES = 1000
_WORDS = [
    *("what", "colour", "is", "the", "small", "dog", "beside", "red", "car", "under", "tree", "on", "left"),
    *("of", "wooden", "table", "in", "front", "an", "old", "house", "describe", "answer", "with", "single"),
    *("word", "or", "phrase", "people", "holding", "white", "umbrella", "near", "window", "behind", "large"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--count", type=int, default=150_000, help="select.count; 0 plans every row")
    parser.add_argument("--folder", default=None, help="where the temporary folder is made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        file = Path(folder, "rows.jsonl")
        write_rows(file, args.rows)
        print(f"{args.rows:,} rows, {file.stat().st_size / 1e9:.2f} GB, {os.cpu_count()} CPUs")
        read = in_child(parse_bare, file)
        plan = in_child(run_plan, file, args.count)
    for name, result in (("bare parse", read), ("make_plan", plan)):
        print(
            f"{name:<11}{args.rows / result['seconds']:>10,.0f} rows/s "
            f"({args.rows / result['cpu_seconds']:,.0f} a CPU second)  "
            f"{result['seconds']:,.1f} s  peak {result['peak_mb']:,.0f} MB"
        )
    print(
        f"ratio      {read['seconds'] / plan['seconds']:>10.2f}        "
        f"({read['cpu_seconds'] / plan['cpu_seconds']:.2f} of CPU time)"
    )
    print(f"planned    {plan['value']['planned']:>12,} rows in {plan['value']['shards']:,} shards")


def write_rows(file: Path, rows: int) -> None:
    """Rows of one to three question-answer pairs, 300 to 900 bytes; one in eight has no image."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(_WORDS, k=draw.randint(5, 60))).capitalize() for _ in range(4096)]
    with file.open("wb", buffering=1 << 20) as out:
        for index in range(rows):
            turns = []
            for pair in range(draw.choice((1, 1, 2, 3))):
                question, answer = draw.choice(texts), draw.choice(texts)
                turns += [
                    {"from": "human", "value": f"<image>\n{question}?" if pair == 0 else f"{question}?"},
                    {"from": "gpt", "value": f"{answer}."},
                ]
            row: dict[str, Any] = {"id": f"{index:09d}", "conversations": turns}
            if index % 8:
                row["image"] = f"coco/train2017/{index % IMAGES:012d}.jpg"
            out.write(orjson.dumps(row) + b"\n")
    images = file.parent / "coco" / "train2017"
    images.mkdir(parents=True)
    for index in range(IMAGES):
        (images / f"{index:012d}.jpg").touch()


def parse_bare(file: Path) -> None:
    with file.open("rb") as lines:
        for line in lines:
            orjson.loads(line)


def run_plan(file: Path, count: int) -> dict[str, Any]:
    config = parse(
        {
            "split": "benchmark",
            "source": {"files": [file.name]},
            "select": {"count": count} if count else {},
            "text": {"query": "question"},
        },
        "benchmark",
    )
    return make_plan(config, str(file.parent), file.parent / "plan.parquet").to_dict()


def in_child(task: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """Run `task` in a fresh process: its value, wall-clock and CPU seconds, peak resident memory."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(sender, task, args))
    child.start()
    sender.close()
    try:
        result: dict[str, Any] = json.loads(receiver.recv_bytes())
    except EOFError:
        sys.exit(f"{task.__name__} failed")
    child.join()
    return result


def measure(sender: Any, task: Callable[..., Any], args: tuple[Any, ...]) -> None:
    began, cpu_began = time.perf_counter(), time.process_time()
    value = task(*args)
    own, below = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "value": value,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu_began + below.ru_utime + below.ru_stime,
        # Linux counts in KiB; of the processes that planning starts, the largest counts for each of them.
        "peak_mb": (own.ru_maxrss + len(os.sched_getaffinity(0)) * below.ru_maxrss) / 1024,
    }
    sender.send_bytes(json.dumps(result).encode())


if __name__ == "__main__":
    main()
