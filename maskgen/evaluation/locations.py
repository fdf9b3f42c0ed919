"""Where a benchmark's files lie: its annotations and pictures below a folder of downloads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskgen.errors import MaskgenError
from maskgen.evaluation import published_files
from maskgen.evaluation.benchmark_images import Pictures
from maskgen.evaluation.benchmarks.benchmark import Benchmark
from maskgen.evaluation.question import Question


@dataclass(frozen=True)
class Source:
    """A benchmark's questions, and the places its pictures may lie in."""

    questions: list[Question]
    folders: list[Path]
    tables: list[Path]

    def pictures(self) -> Pictures:
        """All pictures, none of them missing. MaskgenError otherwise."""
        found = Pictures(self.folders, self.tables)
        found.check(question.image for question in self.questions if question.image)
        return found


def find(
    benchmark: Benchmark, data: str = "", annotations: Sequence[str] = (), images: str = "", limit: int = 0
) -> Source:
    """Read a benchmark from DATA/NAME, or from DATA itself, or from files and a folder that are named.

    Data or annotations must be given.

    `limit`: so many questions, spread evenly over all; 0 for all. MaskgenError if something is missing.
    """
    root = [_root(benchmark, data)] if data else []
    files = [Path(file) for file in annotations] or [
        file for place in root for file in _files(benchmark, place)
    ]
    questions = benchmark.read(published_files.read(files))
    _check(benchmark, questions)
    if 0 < limit < len(questions):
        questions = [questions[at * len(questions) // limit] for at in range(limit)]
    if images and not Path(images).is_dir():
        raise MaskgenError(f"no image folder {images}. Check --images.")
    places = [Path(images)] if images else [*root, *(file.parent for file in files)]
    folders = [place / folder for place in dict.fromkeys(places) for folder in benchmark.folders]
    tables = [file for file in files if _is_parquet(file)]
    return Source(questions, [folder for folder in dict.fromkeys(folders) if folder.is_dir()], tables)


def _root(benchmark: Benchmark, data: str) -> Path:
    own = Path(data) / benchmark.name
    if own.is_dir():
        return own
    if not Path(data).is_dir():
        raise MaskgenError(f"no data folder {data}. Give --data the folder that holds the benchmarks' files.")
    return Path(data)


def _files(benchmark: Benchmark, root: Path) -> list[Path]:
    """The files that the first alternative with a match names."""
    for alternative in benchmark.files:
        patterns = alternative.split(",")
        found = sorted({path for pattern in patterns for path in root.rglob(pattern) if path.is_file()})
        if found:
            return found
    raise MaskgenError(
        f"{root} has no file of {benchmark.name}: none matches {' or '.join(benchmark.files)}. Download the "
        "benchmark there, or name its files with --annotations."
    )


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
