"""Images read at random: from .tar, .zip and .tar.gz archives, beside the same files unpacked.

    python benchmarks/archives.py --images 4000

Writes made-up JPEGs of 640 x 480 to a temporary folder in each layout, indexes them as planning does, and
reads them in one seeded random order as a worker does. One run, one table; the files are in the page cache.
"""

import argparse
import io
import os
import random
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from maskgen.config import Source
from maskgen.runtime.store import Store
from maskgen.sample import Query, Sample
from maskgen.sources.image_index import ImageIndex
from maskgen.sources.images import ImageRoot

_LAYOUTS = ("files", "tar", "zip", "tar.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=4, help="as resources.threads")
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--folder", default=None, help="where the temporary folder is made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        roots = write(Path(folder), args.images)
        size = sum(path.stat().st_size for path in roots["files"].rglob("*.jpg"))
        print(f"{args.images:,} images, {size / 1e6:,.0f} MB, {args.threads} threads, {os.cpu_count()} CPUs")
        print(f"{'':<10}{'indexed in':>12}{'kept':>12}{'images/s':>12}{'of files':>10}{'ms CPU each':>13}")
        rates: dict[str, float] = {}
        for layout in _LAYOUTS:
            kept = Store(str(Path(folder, f"kept-{layout}")))
            seconds, samples = index(roots[layout], kept, args.images)
            rates[layout], cpu = read(roots[layout], kept, samples, args.reads, args.threads)
            kept_bytes = sum(kept.size(name) or 0 for name in kept.names())
            print(
                f"{layout:<10}{seconds:>10,.1f} s{kept_bytes / 1e6:>9,.1f} MB{rates[layout]:>12,.0f}"
                f"{rates[layout] / rates['files']:>10.2f}{cpu * 1e3:>13.2f}"
            )


def write(folder: Path, images: int) -> dict[str, Path]:
    """The same images in a folder of its own for each layout."""
    roots = {layout: folder / layout for layout in _LAYOUTS}
    for root in roots.values():
        root.mkdir()
    (roots["files"] / "train").mkdir()
    rng = np.random.default_rng(0)
    pictures = [picture(rng) for _ in range(50)]
    with (
        tarfile.open(roots["tar"] / "train.tar", "w") as tar,
        zipfile.ZipFile(roots["zip"] / "train.zip", "w") as archive,
    ):
        for number in range(images):
            data = pictures[number % len(pictures)]
            data = data[:-2] + rng.bytes(8) + data[-2:]  # no two alike, or gzip would see it
            name = f"train/{number:012d}.jpg"
            (roots["files"] / name).write_bytes(data)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            archive.writestr(name, data)
    with tarfile.open(roots["tar.gz"] / "train.tar.gz", "w:gz", compresslevel=6) as packed:
        packed.add(roots["files"] / "train", "train")
    return roots


def picture(rng: np.random.Generator) -> bytes:
    """A JPEG of about 90 kB: soft colours under a camera's noise."""
    coarse = rng.normal(0, 1, (30, 40, 3)).cumsum(0).cumsum(1)
    coarse = 255 * (coarse - coarse.min()) / (coarse.max() - coarse.min())
    soft = Image.fromarray(coarse.astype(np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    noisy = np.asarray(soft, np.float64) + rng.normal(0, 14, (480, 640, 3))
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def index(root: Path, kept: Store, images: int) -> tuple[float, list[Sample]]:
    """Seconds that planning's look took, and the samples with their places."""
    names = [f"train/{number:012d}.jpg" for number in range(images)]
    began = time.perf_counter()
    with ImageIndex(str(root), Source(files=[]), kept) as found:
        places = found.find(names)
    seconds = time.perf_counter() - began
    assert all(places)
    pairs = zip(names, places, strict=True)
    return seconds, [Sample("", "", name, (), Query("", ()), there.member) for name, there in pairs if there]


def read(root: Path, kept: Store, samples: list[Sample], reads: int, threads: int) -> tuple[float, float]:
    """Images a second, and CPU seconds an image."""
    images = ImageRoot(str(root), 64_000_000, kept=kept)
    drawn = random.Random(0).choices(samples, k=reads)
    images.read(drawn[0])
    with ThreadPoolExecutor(threads) as pool:
        began, cpu = time.perf_counter(), time.process_time()
        for _ in pool.map(images.read, drawn):
            pass
        return reads / (time.perf_counter() - began), (time.process_time() - cpu) / reads


if __name__ == "__main__":
    main()
