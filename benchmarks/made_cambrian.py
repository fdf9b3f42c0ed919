"""A made-up Cambrian in the published layout: planned in how much memory, and grounded to the last sample?

    python benchmarks/made_cambrian.py --rows 200000 --count 20000

Writes rows, and tiny images in archives as the hub has them, to a temporary folder; a quarter of the rows has
no image, one image in twenty is missing. `maskgen plan` and `maskgen run` (recorded shapes, no model) follow,
with their peak memory, and what became of the rows. Ends with 1 if a sample is missing or a command fails.
"""

import argparse
import contextlib
import io
import json
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

_PREFIX = "mnt/disks/storage/data/pretrain_data/2.5m_v2/"
_NO_IMAGE = (None, "", "None", "none", "nan")
_SETS = {
    # rows' beginning: (archive, what members begin with in its place, parts)
    "coco/train2017/": ("coco.tar", "coco/train2017/", 1),
    "sam/images/": ("sam.tar", "sam/images/", 5),
    "allava/images/": ("allava.tar", f"{_PREFIX}allava/images/", 3),
    "gqa/images/": ("gqa.tar.gz", "gqa/images/", 1),
    "vflan/": ("data_engine/vflan.tar.gz", "vflan/", 2),
    "hfdata/iconqa/": ("", "iconqa/", 1),  # files, and rows with a prefix that they lack
}
_SOURCES = ("lvis_instruct4v_220k.json", "gqa_140k.json", "allava_700k.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--folder", default=None, help="where the temporary folder is made")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        data, out = Path(folder, "data"), Path(folder, "out")
        made = write(data, args.rows)
        size = sum(path.stat().st_size for path in data.rglob("*") if path.is_file())
        print(f"{args.rows:,} rows, {made:,} images that are there, {size / 1e6:,.0f} MB")
        options = [*settings(args.count), "--data", str(data), "--out", str(out)]
        codes = [maskgen(command, options) for command in ("plan", "run")]
        outcomes = pq.read_table(out / "index.parquet")["outcome"].value_counts().to_pylist()
        print(", ".join(f"{one['counts']:,} {one['values']}" for one in outcomes))
        good = next((one["counts"] for one in outcomes if one["values"] == "ok"), 0)
        sys.exit(0 if codes == [0, 0] and good == args.count else 1)


def settings(count: int) -> list[str]:
    """The options of `maskgen plan` and `run`, but for the places."""
    chosen = {
        "select.count": str(count),
        "proposer": "{kind: recorded, file: shapes.json}",
        "refiner": "{kind: none}",
        "shards.size": "1000",
    }
    return ["--split", "pretrain", *(part for pair in chosen.items() for part in ("--set", "=".join(pair)))]


def write(data: Path, rows: int) -> int:
    """Rows, shapes and images; returns how many images are there."""
    draw = random.Random(0)
    pictures = [_picture(draw) for _ in range(20)]
    shapes, there = {}, 0
    data.mkdir()
    (data / "jsons").mkdir()
    with contextlib.ExitStack() as stack:
        tars = {
            start: stack.enter_context(_tar(data / archive)) if archive else None
            for start, (archive, _, _) in _SETS.items()
        }
        lines = stack.enter_context((data / "jsons" / "alignment_2.5m.jsonl").open("w"))
        for number in range(rows):
            image = draw.choice(_NO_IMAGE)
            if number % 4:
                start = draw.choice(list(_SETS))
                image = f"{start}{number:09d}.jpg"
                shapes[image] = [{"label": "thing", "polygon": [[4, 4], [60, 6], [40, 44]]}]
                if number % 20 != 1:
                    there += 1
                    data_bytes = pictures[number % 20]
                    unlike = data_bytes[:-2] + b"%09d" % number + data_bytes[-2:]  # digits: no JPEG marker
                    _put(data, tars[start], image.replace(start, _SETS[start][1], 1), unlike)
            lines.write(json.dumps(_row(number, image, draw)) + "\n")
            if number in (rows // 3, rows // 2):
                lines.write('{"id": "broken", "conversations": [{"from": "hu\n')
    for archive, _, parts in _SETS.values():
        if parts > 1:
            _split(data / archive, parts)
    (data / "shapes.json").write_text(json.dumps(shapes))
    return there


def maskgen(command: str, options: list[str]) -> int:
    """Run it; print its last lines, seconds and the peak memory of its largest process."""
    began = time.perf_counter()
    line = [sys.executable, "-m", "maskgen", command, *options]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    took, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    said = (done.stdout + done.stderr if done.returncode else done.stdout).strip().splitlines()
    print(f"maskgen {command}: exit code {done.returncode}, {took:,.0f} s, peak {peak / 1024:,.0f} MB")
    print("\n".join(f"    {line}" for line in said))
    return done.returncode


@contextlib.contextmanager
def _tar(path: Path) -> Iterator[tarfile.TarFile]:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=tarfile.GNU_FORMAT) as tar:
        yield tar


def _put(data: Path, tar: tarfile.TarFile | None, name: str, content: bytes) -> None:
    if tar is None:
        path = data / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
    tar.members.clear()  # type: ignore[attr-defined]  # or every member stays in memory


def _split(path: Path, parts: int) -> None:
    """Cut an archive as the publisher did: NAME_part1 …, or NAME_part_aa … of the packed ones."""
    content = path.read_bytes()
    step = len(content) // parts + 1
    for part in range(parts):
        ending = f"_part_a{chr(ord('a') + part)}" if path.suffix == ".gz" else f"_part{part + 1}"
        path.with_name(path.name + ending).write_bytes(content[part * step : (part + 1) * step])
    path.unlink()


def _row(number: int, image: str | None, draw: random.Random) -> dict[str, object]:
    question = "<image>\nWhat is shown? Answer the question using a single word or phrase."
    turns = [
        {"from": "human", "value": question if number % 4 else "What is the capital?"},
        {"from": "gpt", "value": f"A thing, number {draw.randrange(10**6)}, in front of other things."},
    ]
    row: dict[str, object] = {"id": f"{number:09d}", "conversations": turns, "source": draw.choice(_SOURCES)}
    return row if image is None else {**row, "image": image}


def _picture(draw: random.Random) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 48), tuple(draw.randbytes(3))).save(stream, "JPEG")
    return stream.getvalue()


if __name__ == "__main__":
    main()
