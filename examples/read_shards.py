"""Read a finished set three ways: python examples/read_shards.py OUT.

With maskgen; with webdataset alone, which needs nothing of maskgen; with `datasets`, if it is installed.
"""

import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import webdataset as wds

import maskgen

out = Path(sys.argv[1])

shards = maskgen.open_set(out)
for sample in shards:
    print(f"maskgen: {sample.key}: {sample.query.text!r}, {sample.fields.outcome}")
    mask, grid = sample.mask_pixels(), sample.grid  # bool (height, width); uint8 (cells, cells)
    print(f"  mask {mask.shape}, {mask.mean():.1%} of the image; M' has {maskgen.binarise(grid).sum()} cells")
    break
print(f"maskgen: {len(shards)} samples, {dict(shards.outcomes)}")

tars = sorted(str(path) for path in out.glob("*.tar"))
count = 0
for raw in wds.WebDataset(tars, shardshuffle=False):
    grid = np.load(io.BytesIO(raw["mask.npy"]), allow_pickle=False)
    text, fields = raw["txt"].decode(), json.loads(raw["json"])
    count += 1
    if count == 1:
        print(f"webdataset: {raw['__key__']}: {text!r}, {fields['outcome']}, grid {grid.shape}")
print(f"webdataset: {count} samples")

if importlib.util.find_spec("datasets"):
    from datasets import Features, load_dataset

    features = Features.from_dict(json.loads((out / "features.json").read_text()))
    rows = load_dataset("webdataset", data_files=tars, split="train", streaming=True, features=features)
    first = next(iter(rows))
    print(f"datasets: {first['__key__']}: {first['txt']!r}, columns {sorted(first)}")
