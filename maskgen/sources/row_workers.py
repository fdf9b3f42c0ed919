"""Processes that share the work on rows: the pass over large files, and what makes a plan of the chosen."""

import multiprocessing
import os
import random
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from maskgen.config import Config
from maskgen.errors import MaskgenError
from maskgen.runtime.storage import Files
from maskgen.sources.row_scan import RowScanner, ScannedRows, prepare
from maskgen.sources.rows import is_json_lines, read_lines, read_rows
from maskgen.sources.selection import EVERYTHING, RANK_BYTES, Chosen

BATCH_ROWS = 10_000
PORTION_BYTES = 16 << 20
PARALLEL_BYTES = 256 << 20  # below, starting processes takes longer than it saves
_WORKERS = 8  # more would wait for the disk
_LOOKS, _LOOK_BYTES = 64, 64 << 10  # pieces of files from which the number of rows is estimated


class Portion(NamedTuple):
    """A part of an annotation file: the lines that begin in these bytes."""

    file: str
    start: int
    end: int


class RowWorkers:
    """Scans files and prepares rows: here, or where there is much to read in processes of their own.

    Use as a context manager: rows that may be chosen are spilled to `folder` until then.
    """

    def __init__(self, config: Config, without: frozenset[str], counts: bool, files: list[str], folder: Path):
        """As of `RowScanner`."""
        self._parts = portions(files)
        self._config = config
        self._make_scanner = partial(RowScanner, config, without, counts, folder)
        self._pool: ProcessPoolExecutor | None = None
        self._count = min(len(os.sched_getaffinity(0)), _WORKERS)

    def __enter__(self) -> "RowWorkers":
        self._scanner = self._make_scanner("here")
        if self._count > 1 and _bytes(self._parts) >= PARALLEL_BYTES:
            context = multiprocessing.get_context("spawn")
            begin = (self._make_scanner, self._config)
            self._pool = ProcessPoolExecutor(self._count, context, _begin, begin)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._scanner.close()

    def scan(self, bound: Callable[[], bytes], take: Callable[[str, ScannedRows], None]) -> None:
        """Scan every part; `take` gets each file's findings in order, `bound` is what ranks are below."""
        cut = (part for part in self._parts if isinstance(part, Portion))
        found = self._share(_scan, ((part, bound()) for part in cut))
        for part in self._parts:
            if isinstance(part, Portion):
                take(part.file, next(found))
            else:
                self._scan_whole(part, bound, take)

    def prepare(self, chunks: Iterable[Sequence[Chosen]]) -> Iterator[pa.Table]:
        """Each chunk as rows of a plan, in order."""
        return self._share(_prepare, ((chunk,) for chunk in chunks))

    def _scan_whole(
        self, file: str, bound: Callable[[], bytes], take: Callable[[str, ScannedRows], None]
    ) -> None:
        rows = read_rows(file)
        while True:
            found = self._scanner.scan(islice(rows, BATCH_ROWS), bound())
            take(file, found)
            if found.read < BATCH_ROWS:
                break

    def _share(self, task: Callable[..., Any], arguments: Iterator[tuple[Any, ...]]) -> Iterator[Any]:
        """The task's results in order, as far ahead as keeps every process busy."""
        if self._pool is None:
            yield from (task(self._scanner, self._config, *given) for given in arguments)
            return
        waiting: deque[Future[Any]] = deque()
        try:
            for given in arguments:
                waiting.append(self._pool.submit(_in_process, task, *given))
                if len(waiting) > 2 * self._count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise MaskgenError(
                "a process that reads rows ended by itself. Is memory short? Called from a script, maskgen "
                'needs `if __name__ == "__main__":` around it.'
            ) from error


def portions(files: list[str]) -> list[Portion | str]:
    """The files cut into portions where they can be: local JSON lines; the others whole."""
    parts: list[Portion | str] = []
    for file in files:
        size = _size_of_lines(file)
        if size:
            parts += [
                Portion(file, at, min(at + PORTION_BYTES, size)) for at in range(0, size, PORTION_BYTES)
            ]
        else:
            parts.append(file)
    return parts


def estimate_counted(files: list[str], scanner: RowScanner) -> float:
    """Roughly how many rows of large files count, from pieces all over them; 0 for small ones.

    `scanner`: one whose spill nobody will read.
    """
    parts = [part for part in portions(files) if isinstance(part, Portion)]
    size = _bytes(parts)
    if size < PARALLEL_BYTES:
        return 0
    draw, seen, counted = random.Random(0), 0, 0
    for part in parts[:: max(1, len(parts) // _LOOKS)]:
        at = draw.randrange(part.start, max(part.start + 1, part.end - _LOOK_BYTES))
        piece = part._replace(start=at, end=min(part.end, at + _LOOK_BYTES))
        counted += len(_scan(scanner, None, piece, EVERYTHING).ranks) // RANK_BYTES
        seen += piece.end - piece.start
    return counted / seen * size


_state: tuple[RowScanner, Config]


def _begin(make_scanner: Callable[[str], RowScanner], config: Config) -> None:
    """Begin a process of the pool: with a scanner of its own, and an end when its parent ends."""
    global _state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _state = make_scanner(str(os.getpid())), config


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_process(task: Callable[..., Any], *given: Any) -> Any:
    return task(*_state, *given)


def _scan(scanner: RowScanner, _: Config | None, part: Portion, bound: bytes) -> ScannedRows:
    with Path(part.file).open("rb", buffering=1 << 20) as stream:
        return scanner.scan_lines(read_lines(stream, part.start, part.end), bound)


def _prepare(_: RowScanner, config: Config, rows: Sequence[Chosen]) -> pa.Table:
    return prepare(config, rows)


def _bytes(parts: Sequence[Portion | str]) -> int:
    return sum(part.end - part.start for part in parts if isinstance(part, Portion))


def _size_of_lines(file: str) -> int:
    """Bytes of a local file of plain JSON lines; 0 for any other."""
    files = Files(file)
    if not files.is_local or not is_json_lines(files.path):
        return 0
    return Path(files.path).stat().st_size
