"""SAM's masks, ours against segment-anything's own forward: the same regions and weights, in turn.

    python benchmarks/refine.py --scenes 128

Prints the time of both engines over the true outlines of drawn scenes, the fastest of `--rounds` paired
rounds each, and how many masks are the same.
"""

import argparse
import time

import numpy as np
import torch

from maskgen import config, pixels
from maskgen.grounding import polygon
from maskgen.grounding.interface import Refinement
from maskgen.grounding.sam import SamRefiner
from maskgen.scenes.drawing import draw_scene
from maskgen.scenes.scene_dataset import encode_image, scene_query

FIRST = 2_000_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures, regions = [], []
    for scene in map(draw_scene, range(FIRST, FIRST + options.scenes)):
        targets = scene_query(scene).targets
        if outlines := [points for target in targets for points in scene.visible_outlines(target)]:
            pictures.append(pixels.decode(encode_image(scene)[1], config.Limits()))
            regions.append(polygon.clean(outlines, pictures[-1].width, pictures[-1].height))

    names = ("reference", "fast")
    sam = {name: SamRefiner(config.Sam(model="demo", checkpoint="", engine=name), "cpu") for name in names}
    found: dict[str, list[Refinement]] = {}
    best = dict.fromkeys(names, float("inf"))
    for _ in range(options.rounds):
        for name in names:
            began = time.perf_counter()
            starts = range(0, len(regions), options.batch)
            parts = [slice(i, i + options.batch) for i in starts]
            found[name] = [one for part in parts for one in sam[name].refine(pictures[part], regions[part])]
            best[name] = min(best[name], time.perf_counter() - began)
    same = sum(np.array_equal(a.mask, b.mask) for a, b in zip(found["reference"], found["fast"], strict=True))
    for name in names:
        print(f"{name:9}  {best[name]:6.2f} s  ({len(regions) / best[name]:6.1f} regions/s)")
    print(f"ratio {best['reference'] / best['fast']:.2f}; the same masks: {same} of {len(regions)}")


if __name__ == "__main__":
    main()
