"""Florence-2's answers, ours against transformers' generate: the same scenes and weights, in turn.

    python benchmarks/decode.py --scenes 192 --beams 3

Prints the time of both engines over the same prompts, the fastest of `--rounds` paired rounds each, with and
without the encoders (which both share; timed alone), and how many answers are the same.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from maskgen import config, pixels
from maskgen.demo.drawing import draw
from maskgen.demo.scenes import encode_image, scene_query
from maskgen.grounding.florence2 import Florence2Proposer
from maskgen.sample import Picture, Proposal, Query, Sample

FIRST = 2_000_000


def scenes(count: int) -> tuple[list[Picture], list[Sample]]:
    """Held-out scenes as the pipeline reads them."""
    drawn = [draw(seed) for seed in range(FIRST, FIRST + count)]
    pictures = [pixels.decode(encode_image(scene)[1], config.Limits()) for scene in drawn]
    texts = [scene_query(scene).text for scene in drawn]
    return pictures, [Sample(str(i), str(i), "", (), Query(text, ())) for i, text in enumerate(texts)]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def same(first: Proposal, second: Proposal) -> bool:
    """Whether two answers hold the same outlines."""
    return len(first.polygons) == len(second.polygons) and all(
        map(np.array_equal, first.polygons, second.polygons)
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=192)
    parser.add_argument("--beams", type=int, default=None, help="default: the checkpoint's own")
    parser.add_argument(
        "--model", default="demo", help="a local Florence-2 folder; default: the embedded one"
    )
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures, samples = scenes(options.scenes)

    def proposer(engine: str) -> Florence2Proposer:
        settings = {
            "model": options.model,
            "dtype": "float32",
            "batch": options.batch,
            "slots": options.slots,
        }
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

    fast = engines["fast"]
    prompts = [(i, fast._prompt(sample.query.text)[0]) for i, sample in enumerate(samples)]

    @torch.inference_mode()
    def encode() -> None:
        assert fast._writer is not None
        for _ in fast._writer._encoded(list(fast._pixels(pictures)), prompts):
            pass

    best = {"reference": float("inf"), "fast": float("inf"), "encode": float("inf")}
    for _ in range(options.rounds):
        for name in ("reference", "fast"):
            best[name] = min(best[name], seconds(lambda name=name: propose(name)))  # type: ignore[misc]
        best["encode"] = min(best["encode"], seconds(encode))
    agree = sum(map(same, answers["reference"], answers["fast"]))
    decoding = {name: best[name] - best["encode"] for name in ("reference", "fast")}
    tokens = np.mean([answer.tokens for answer in answers["fast"]])
    print(f"{len(samples)} prompts, {tokens:.1f} tokens on average, {options.threads} threads, fp32")
    print(f"pixels and encoders, shared  {best['encode']:7.2f} s")
    for name in ("reference", "fast"):
        rate = len(samples) / best[name]
        print(f"{name:9}  {best[name]:7.2f} s  ({rate:6.1f} images/s), decoding {decoding[name]:6.2f} s")
    whole, alone = best["reference"] / best["fast"], decoding["reference"] / decoding["fast"]
    print(f"ratio {whole:.2f}, of decoding alone {alone:.2f}")
    print(f"the same outlines: {agree} of {len(samples)}")


if __name__ == "__main__":
    main()
