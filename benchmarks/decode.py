"""Florence-2's answers, ours against transformers' generate: the same scenes and weights, in turn.

    python benchmarks/decode.py --scenes 192 --beams 3
    python benchmarks/decode.py --tiny

`--tiny` makes a checkpoint of the size that the tests use (one layer of width 16), weights at random, whose
answers have drawn lengths: arithmetic costs next to nothing there, so the ratio is one of overheads.

Prints the time of both engines over the same prompts, the fastest of `--rounds` paired rounds each, with and
without the encoders (which both share; timed alone), and how many answers are the same. `--processor` counts
processor time, which other work on the machine disturbs less.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from maskgen import config, pixels
from maskgen.bench import random_checkpoints
from maskgen.bench.answer_lengths import Lengths
from maskgen.grounding.florence2 import Florence2Proposer
from maskgen.runtime.spans import Recorder
from maskgen.sample import Picture, Proposal, Query, Sample
from maskgen.scenes.drawing import draw_scene
from maskgen.scenes.scene_dataset import encode_image, scene_query
from maskgen.small_models import small_florence2

FIRST = 2_000_000


TINY = dataclasses.replace(small_florence2.TINY, positions=256, words=1200)
LENGTHS = Lengths(40)


def scenes(count: int, endings: list[str]) -> tuple[list[Picture], list[Sample]]:
    """Held-out scenes as the pipeline reads them; each query ends in its own ending."""
    drawn = [draw_scene(seed) for seed in range(FIRST, FIRST + count)]
    pictures = [pixels.decode(encode_image(scene)[1], config.Limits()) for scene in drawn]
    texts = [f"{scene_query(scene).text}{ending}" for scene, ending in zip(drawn, endings, strict=True)]
    return pictures, [Sample(str(i), str(i), "", (), Query(text, ())) for i, text in enumerate(texts)]


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return clock() - began


def same(first: Proposal, second: Proposal) -> bool:
    """Whether two answers hold the same outlines."""
    return len(first.polygons) == len(second.polygons) and all(
        map(np.array_equal, first.polygons, second.polygons)
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=None, help="default: 192; with --tiny 256")
    parser.add_argument("--tiny", action="store_true", help="random weights of the tests' size, 3 beams")
    parser.add_argument("--beams", type=int, default=None, help="default: the checkpoint's own")
    parser.add_argument(
        "--model", default="demo", help="a local Florence-2 folder; default: the embedded one"
    )
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor", action="store_true", help="count processor time, not the clock's")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor else time.perf_counter
    folder = tempfile.TemporaryDirectory()  # until the end
    endings = [""] * (options.scenes or 192)
    if options.tiny:
        words = LENGTHS.draw(options.scenes or 256, 0)
        endings = [f" {word}" for word in words]
        options.model, options.beams = folder.name, options.beams or 3
    pictures, samples = scenes(len(endings), endings)
    if options.tiny:
        texts = [sample.query.text for sample in samples]
        random_checkpoints.write_florence2(Path(folder.name), TINY, 0, LENGTHS, texts, torch.float32)

    def proposer(engine: str) -> Florence2Proposer:
        settings = {
            "model": options.model,
            "dtype": "float32",
            "batch": options.batch,
            "slots": options.slots,
        }
        settings |= {"max_new_tokens": TINY.positions - 2} if options.tiny else {}
        settings |= {"num_beams": options.beams, "engine": engine}
        return Florence2Proposer(config.Florence2.model_validate(settings), "cpu")

    engines = {name: proposer(name) for name in ("reference", "fast")}
    steps = {"reference": options.batch, "fast": len(samples)}
    answers: dict[str, list[Proposal]] = {}

    def propose(name: str) -> None:
        step = steps[name]
        starts = range(0, len(samples), step)
        answers[name] = [
            a for i in starts for a in engines[name].propose(pictures[i : i + step], samples[i : i + step])
        ]

    best = {"reference": float("inf"), "fast": float("inf"), "encode": float("inf")}
    for _ in range(options.rounds):
        for name in ("reference", "fast"):
            best[name] = min(best[name], seconds(lambda name=name: propose(name), clock))  # type: ignore[misc]
        with Recorder() as recorder:
            propose("fast")
        spent = recorder.processor if options.processor else recorder.seconds
        shared = spent["florence2.preprocess"] + spent["florence2.encode"]
        best["encode"] = min(best["encode"], shared)
    agree = sum(map(same, answers["reference"], answers["fast"]))
    decoding = {name: best[name] - best["encode"] for name in ("reference", "fast")}
    tokens = [answer.tokens for answer in answers["fast"]]
    print(
        f"{len(samples)} prompts, {np.mean(tokens):.1f} tokens on average ({min(tokens)} to {max(tokens)}), "
        f"{options.threads} threads, fp32{', processor time' if options.processor else ''}"
    )
    print(f"pixels and encoders, shared  {best['encode']:7.2f} s")
    for name in ("reference", "fast"):
        rate = len(samples) / best[name]
        print(f"{name:9}  {best[name]:7.2f} s  ({rate:6.1f} images/s), decoding {decoding[name]:6.2f} s")
    whole, alone = best["reference"] / best["fast"], decoding["reference"] / decoding["fast"]
    print(f"ratio {whole:.2f}, of decoding alone {alone:.2f}")
    print(f"the same outlines: {agree} of {len(samples)}")


if __name__ == "__main__":
    main()
