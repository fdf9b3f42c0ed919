"""Where a benchmark's files lie: its annotations and pictures below a folder of downloads."""

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from maskgen.errors import MaskgenError
from maskgen.evaluation import published_files
from maskgen.evaluation.benchmark_images import Pictures
from maskgen.evaluation.benchmarks import BENCHMARKS, PAPER, of_row
from maskgen.evaluation.benchmarks.benchmark import Benchmark
from maskgen.evaluation.published_files import Row
from maskgen.evaluation.question import Question
from maskgen.evaluation.question_sample import sample

MOST_ENTRIES = 300_000
"""How many files and folders of a data folder are looked through."""


@dataclass(frozen=True)
class BenchmarkSource:
    """A benchmark's questions, of `total` in its files, the places its pictures may lie in, and its Parquet
    files by their labels."""

    questions: list[Question]
    folders: list[Path]
    tables: Mapping[str, Path]
    total: int

    def pictures(self) -> Pictures:
        """All pictures, none of them missing. MaskgenError otherwise."""
        found = Pictures(self.folders, self.tables)
        found.check(question.image for question in self.questions if question.image)
        return found


def there(data: str) -> list[str]:
    """The benchmarks that are meant by a data folder alone.

    All of them, if it holds a folder of one of their names. Otherwise it is itself the folder of some of
    them, and its files' fields tell of which. MaskgenError if they are of none, or it is missing.
    """
    root = _folder(data)
    if any((root / name).is_dir() for name in BENCHMARKS):
        return list(BENCHMARKS)
    held = _files_below(root)
    first = {matching[0] for each in BENCHMARKS.values() for matching in _alternatives(each, held)}
    found = {of_row(row.fields) for file in first for row in _first_row(root / file)}
    if not found - {""}:
        raise MaskgenError(
            f"{data} has neither a folder of a benchmark's name ({', '.join(BENCHMARKS)}) nor a benchmark's "
            "files. Give --data their folder, or --bench NAME and --annotations."
        )
    return [name for name in BENCHMARKS if name in found]


def find(
    benchmark: Benchmark,
    data: str = "",
    annotations: Sequence[str] = (),
    images: str = "",
    limit: int = 0,
    prompt: str = PAPER,
) -> BenchmarkSource:
    """Read a benchmark from DATA/NAME, or from DATA itself, or from files and a folder that are named.

    Data or annotations must be given. Where a benchmark is there in several forms, such as JSON lines beside
    Parquet files, it is the first whose pictures are all there.

    `limit`: so many questions, see `sample`; 0 for all. `prompt`: how they are put. MaskgenError if
    something is missing.
    """
    if images and not Path(images).is_dir():
        raise MaskgenError(f"no image folder {images}. Check --images.")
    root = [_root(benchmark, data)] if data else []
    forms = [[Path(file) for file in annotations]] if annotations else _forms(benchmark, root[0])
    places = [Path(images)] if images else root
    first = _source(benchmark, forms[0], places, bool(images))
    source = first
    for files in forms[1:]:
        if _is_whole(source):
            break
        try:
            source = _source(benchmark, files, places, bool(images))
        except MaskgenError:  # it is the first that must be right
            continue
    source = source if _is_whole(source) else first
    questions = source.questions
    if 0 < limit < len(questions):
        questions = sample(questions, limit)
    return BenchmarkSource(benchmark.asked(questions, prompt), source.folders, source.tables, source.total)


def _source(
    benchmark: Benchmark, files: Sequence[Path], places: Sequence[Path], named: bool
) -> BenchmarkSource:
    """`named`: pictures lie in `places` alone, not beside the files too."""
    questions = benchmark.read(_own_rows(benchmark, published_files.read(files)))
    _check(benchmark, questions)
    roots = [*places, *(() if named else (file.parent for file in files))]
    folders = [place / folder for place in dict.fromkeys(roots) for folder in benchmark.folders]
    tables = {label: file for label, file in published_files.labels(files).items() if _is_parquet(file)}
    there = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    return BenchmarkSource(questions, there, tables, len(questions))


def _own_rows(benchmark: Benchmark, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, if the first is not of another benchmark."""
    first = next(rows, None)
    if first is None:
        return
    other = of_row(first.fields)
    if other not in (benchmark.name, ""):
        raise MaskgenError(f"{first.file} is of {other}, not of {benchmark.name}. Give --bench {other}.")
    yield from chain([first], rows)


def _is_whole(source: BenchmarkSource) -> bool:
    try:
        source.pictures()
    except MaskgenError:
        return False
    return True


def _root(benchmark: Benchmark, data: str) -> Path:
    root = _folder(data)
    if (root / benchmark.name).is_dir():
        return root / benchmark.name
    others = [name for name in BENCHMARKS if (root / name).is_dir()]
    if others:
        raise MaskgenError(
            f"{data} holds {', '.join(others)}, but no folder {benchmark.name}. Download the benchmark "
            f"there, or leave it out: --bench {','.join(others)}."
        )
    return root


def _folder(data: str) -> Path:
    if not Path(data).is_dir():
        raise MaskgenError(f"no data folder {data}. Give --data the folder that holds the benchmarks' files.")
    return Path(data)


def _forms(benchmark: Benchmark, root: Path) -> list[list[Path]]:
    """The files of each alternative with a match. MaskgenError if there is none."""
    found = [[root / file for file in some] for some in _alternatives(benchmark, _files_below(root))]
    if not found:
        raise MaskgenError(
            f"{root} has no file of {benchmark.name}: none matches {' or '.join(benchmark.files)}. Download "
            "the benchmark there, or name its files with --annotations."
        )
    return found


def _alternatives(benchmark: Benchmark, files: Sequence[str]) -> list[list[str]]:
    """Of paths below a folder those that each alternative names, without alternatives that name none."""
    found = [
        [file for file in files if any(_matches(file, pattern) for pattern in alternative.split(","))]
        for alternative in benchmark.files
    ]
    return [some for some in found if some]


def _matches(file: str, pattern: str) -> bool:
    """A pattern with a folder is for the end of the path, and its star for folders too."""
    if "/" in pattern:
        return fnmatch.fnmatchcase(f"/{file}", f"*/{pattern}")
    return fnmatch.fnmatchcase(file.rpartition("/")[2], pattern)


def _files_below(root: Path) -> list[str]:
    """The paths of all files below a folder, but for hidden ones, sorted. MaskgenError if they are many."""
    found, seen, count, waiting = list[str](), set[tuple[int, int]](), 0, [""]
    while waiting:
        below = waiting.pop()
        try:
            place = (root / below).stat()
            entries = [] if (place.st_dev, place.st_ino) in seen else list(os.scandir(root / below))
        except OSError as error:
            raise MaskgenError(f"{root / below} cannot be listed: {error.strerror}.") from error
        seen.add((place.st_dev, place.st_ino))  # links may lead in a circle
        count += len(entries)
        if count > MOST_ENTRIES:
            raise MaskgenError(
                f"{root} holds more than a benchmark: over {MOST_ENTRIES:,} files. Give --data the "
                "benchmarks' own folder, or --bench NAME and --annotations."
            )
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append(f"{below}{entry.name}/")
            elif entry.is_file():
                found.append(f"{below}{entry.name}")
    return sorted(found)


def _first_row(file: Path) -> Iterator[Row]:
    """One row, or none of a file that cannot be read."""
    try:
        yield from [next(iter(published_files.read([file])))]
    except (MaskgenError, StopIteration):
        return


def _check(benchmark: Benchmark, questions: Sequence[Question]) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise MaskgenError(
                f"{benchmark.name}: the question {question.id} is there twice. Name each file of the "
                "benchmark once: --annotations FILE."
            )
        seen.add(question.id)
    if not questions:
        raise MaskgenError(f"{benchmark.name}: its files hold no question that has an image.")


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"PAR1"
