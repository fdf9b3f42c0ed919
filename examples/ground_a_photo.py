"""Ground one image and a text: python examples/ground_a_photo.py IMAGE "the red cup" [--pipeline pretrain].

`demo` has small models that ship with the package and know drawn scenes alone; for photographs give
`pretrain` and --set refiner.checkpoint=sam_vit_h_4b8939.pth.
"""

import argparse

import numpy as np
from PIL import Image

import maskgen

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image")
parser.add_argument("text")
parser.add_argument("--pipeline", default="demo")
parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
parser.add_argument("--out", default="mask.png")
options = parser.parse_args()

grounder = maskgen.load_grounder(options.pipeline, overrides=options.set)
found = grounder.ground(options.image, options.text)
print(f"{found.outcome}: {found.coverage:.1%} of the image, SAM's own IoU {found.sam_iou:.2f}")
print(f"the grid has {np.count_nonzero(found.grid)} cells of {found.grid.size} with a part of the mask")
Image.fromarray(found.mask.astype(np.uint8) * 255).save(options.out)
