"""What each option does to masks: the embedded models on held-out scenes, every option against the default.

    python benchmarks/options.py --scenes 256

A scene's mask by an option and by the default settings: their IoU (1 where both are empty), how many are
equal to the pixel, how many are another object (IoU below a half), and the mean IoU with the true mask.
"""

import argparse

import numpy as np
import torch

from maskgen import config, pixels
from maskgen.grounding.grounder import Grounder
from maskgen.sample import Query, Sample
from maskgen.scenes.drawing import draw_scene
from maskgen.scenes.scene_dataset import encode_image, scene_query, target_mask

FIRST = 2_000_000
OPTIONS = {
    "default (fp32, greedy)": [],
    "reference engines": ["proposer.engine=reference", "refiner.engine=reference"],
    "3 beams": ["proposer.num_beams=3"],
    "5 beams": ["proposer.num_beams=5"],
    "Florence-2 in bf16": ["proposer.dtype=bfloat16"],
    "the same, --exact": ["proposer.dtype=bfloat16", "proposer.exact=true"],
    "Florence-2 encoders in fp8": ["proposer.fp8=true"],
    "SAM encoder in bf16": ["refiner.dtype=bfloat16"],
    "SAM encoder in fp8": ["refiner.fp8=true"],
    "both in bf16, fp8": [
        *("proposer.dtype=bfloat16", "proposer.fp8=true", "refiner.dtype=bfloat16", "refiner.fp8=true"),
    ],
}


def iou(first: np.ndarray, second: np.ndarray) -> float:
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--smaller-sam", default="", help="the folder of one, to measure it too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scenes = [draw_scene(seed) for seed in range(FIRST, FIRST + options.scenes)]
    asked = [scene_query(scene) for scene in scenes]
    pictures = [pixels.decode(encode_image(scene)[1], config.Limits()) for scene in scenes]
    samples = [Sample(str(i), str(i), "", (), Query(each.text, ())) for i, each in enumerate(asked)]
    truth = [target_mask(scene, each) for scene, each in zip(scenes, asked, strict=True)]

    print(f"{len(scenes)} scenes    IoU with the default's  the same  another object  IoU with the truth")
    default: list[np.ndarray] = []
    if options.smaller_sam:
        OPTIONS["a smaller SAM"] = [f"refiner.checkpoint={options.smaller_sam}"]
    for name, overrides in OPTIONS.items():
        grounder = Grounder(config.load("demo", overrides=overrides), "", "cpu")
        masks = [grounding.mask for grounding in grounder.ground(pictures, samples)]
        default = default or masks
        near = np.array([iou(*pair) for pair in zip(masks, default, strict=True)])
        same = sum(map(np.array_equal, masks, default))
        true = np.mean([iou(mask, real) for mask, real in zip(masks, truth, strict=True) if real.any()])
        print(f"{name:27} {near.mean():17.4f} {same:11} {np.sum(near < 0.5):12} {true:17.4f}", flush=True)


if __name__ == "__main__":
    main()
