"""The pass over all rows: those that may be chosen go to disk on the way. Big files by several processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import fsspec
import orjson
from fsspec.implementations.local import LocalFileSystem

from maskgen.config import Config, NoProposer, Text
from maskgen.errors import MaskgenError
from maskgen.sample import Query
from maskgen.sources import conversation, row_layout
from maskgen.sources.image_names import renamed
from maskgen.sources.lenient_json import is_exact, loads
from maskgen.sources.row_filter import RowFilter
from maskgen.sources.row_layout import BrokenRow, RawRow
from maskgen.sources.rows import is_json_lines, parse_line, read_lines, read_rows
from maskgen.sources.selection import RANK_BYTES, Spill

BATCH_ROWS = 10_000
PORTION_BYTES = 16 << 20
PARALLEL_BYTES = 256 << 20  # below, starting processes takes longer than it saves
_EXAMPLES = 5
_WORKERS = 8  # more would wait for the disk
_JUDGED = 4096  # rows that a filter judges at a time


class Portion(NamedTuple):
    """A part of an annotation file: the lines that begin in these bytes."""

    file: str
    start: int
    end: int


@dataclass
class ScannedRows:
    """What a pass over some rows found. `ranks`: of the rows that count, one after the other.

    `lines`: of a portion, blank ones too. `broken`: the first broken rows. `columns`: of the condition, those
    that any row had; `others`: columns there are.
    """

    read: int = 0
    lines: int = 0
    broken_rows: int = 0
    broken: list[BrokenRow] = field(default_factory=list)
    ranks: bytearray = field(default_factory=bytearray)
    columns: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)


class RowScanner:
    """Looks at rows, and writes those that may be chosen to a spill."""

    def __init__(self, config: Config, without: frozenset[str], counts: bool, folder: Path, writer: str):
        """`counts`: whether rows that can be grounded are counted; `writer`: names this process's files."""
        self._seed = conversation.seed_bytes(config.select.seed)
        self._without = without
        self._counts = counts
        self._text_only = isinstance(config.proposer, NoProposer) and config.proposer.text_only == "keep"
        self._filter = RowFilter(config.select.where) if config.select.where else None
        self._spill = Spill(folder, writer).__enter__()
        self._waiting: list[tuple[bytes, str, bytes, RawRow]] = []  # rank, key, canonical content

    def close(self) -> None:
        self._spill.__exit__()

    def scan(self, rows: Iterable[RawRow | BrokenRow], bound: bytes) -> ScannedRows:
        """Spill every row that ranks below `bound` and is wanted."""
        found = ScannedRows()
        for row in rows:
            self._add(row, bound, found)
        return self._finish(found)

    def scan_lines(self, lines: Iterable[bytes], bound: bytes) -> ScannedRows:
        """As `scan`, of JSON lines. Most rows are read no further than their rank needs."""
        found, plain_rows, number = ScannedRows(), 0, 0
        parse, read, write, key_bytes = (
            orjson.loads,
            row_layout.plain,
            orjson.dumps,
            conversation.KEY_CHARS // 2,
        )
        seed, without, waiting = self._seed, self._without, self._waiting
        for number, line in enumerate(lines, start=1):
            try:
                columns = parse(line)
                row = read(columns)
            except ValueError:
                row = None
            if row is None:
                self._add(parse_line(line, number), bound, found)
                continue
            plain_rows += 1
            content = write(row)  # as `conversation.canonical`: what orjson has read has no lone surrogates
            key = blake2b(content, digest_size=key_bytes).hexdigest()
            rank = blake2b(seed + key.encode(), digest_size=RANK_BYTES).digest()
            if rank < bound and key not in without:
                exact = columns if is_exact(columns, line) else loads(line)
                waiting.append((rank, key, content, RawRow(*row, exact)))
                if len(waiting) >= _JUDGED:
                    self._keep(found)
        found.read += plain_rows
        found.lines = number
        return self._finish(found)

    def _add(self, row: RawRow | BrokenRow | None, bound: bytes, found: ScannedRows) -> None:
        if row is None:
            return
        found.read += 1
        if isinstance(row, BrokenRow):
            found.broken_rows += 1
            if len(found.broken) < _EXAMPLES:
                found.broken.append(row)
            return
        content = conversation.canonical(row)
        key = conversation.key(content)
        rank = conversation.rank(key, self._seed)
        if rank < bound and key not in self._without:
            self._waiting.append((rank, key, content, row))
            if len(self._waiting) >= _JUDGED:
                self._keep(found)

    def _finish(self, found: ScannedRows) -> ScannedRows:
        self._keep(found)
        self._spill.flush()
        return found

    def _keep(self, found: ScannedRows) -> None:
        """Spill the rows that wait, if they are wanted."""
        waiting = self._waiting.copy()
        self._waiting.clear()
        if self._filter and waiting:
            wanted = self._filter.judge([row for *_, row in waiting])
            waiting = [one for one, is_wanted in zip(waiting, wanted, strict=True) if is_wanted]
            found.columns |= self._filter.seen
            found.others |= self._filter.others
        for rank, key, content, row in waiting:
            self._spill.add(rank, key, content, row_layout.meta(row.columns))
            # A rough look: more rows are drawn than asked for, and the chosen ones are checked when written.
            if self._counts and (isinstance(row.image, str) or (self._text_only and row.image is None)):
                found.ranks += rank


def check_of(config: Config) -> conversation.Check:
    """What says whether a row can be used: for grounding, or for packing; of its image by the new name."""
    check = conversation.check
    if isinstance(config.proposer, NoProposer):
        check = partial(conversation.check_packed, text_only=config.proposer.text_only == "keep")
    rename = config.source.rename

    def check_renamed(image: conversation.Image, turns: Sequence[Sequence[str]], text: Text) -> Query:
        return check(renamed(image, rename) if isinstance(image, str) else image, turns, text)

    return check_renamed if rename else check


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


def scan_all(
    parts: list[Portion | str],
    make_scanner: Callable[[str], RowScanner],
    bound: Callable[[], bytes],
    take: Callable[[str, ScannedRows], None],
) -> None:
    """Scan every part; `take` gets each file's findings in order, `bound` says what rows must rank below."""
    shared = sum(part.end - part.start for part in parts if isinstance(part, Portion))
    workers = min(len(os.sched_getaffinity(0)), _WORKERS)
    scanner = make_scanner("here")
    try:
        if shared < PARALLEL_BYTES or workers < 2:
            _scan_here(parts, scanner, bound, take)
        else:
            _scan_with(workers, make_scanner, parts, scanner, bound, take)
    finally:
        scanner.close()


def _scan_with(
    workers: int,
    make_scanner: Callable[[str], RowScanner],
    parts: list[Portion | str],
    scanner: RowScanner,
    bound: Callable[[], bytes],
    take: Callable[[str, ScannedRows], None],
) -> None:
    """Portions go to processes of their own, files that cannot be cut are read here meanwhile."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (make_scanner,)) as pool:
        waiting: deque[tuple[str, Future[ScannedRows]]] = deque()
        try:
            for part in parts:
                if isinstance(part, str):
                    _scan_here([part], scanner, bound, take)
                    continue
                waiting.append((part.file, pool.submit(_scan_portion, part, bound())))
                if len(waiting) > 2 * workers:
                    _take_first(waiting, take)
            while waiting:
                _take_first(waiting, take)
        except BrokenProcessPool as error:
            raise MaskgenError(
                "a process that reads rows ended by itself. Is memory short? Called from a script, maskgen "
                'needs `if __name__ == "__main__":` around it.'
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _scan_here(
    parts: list[Portion | str],
    scanner: RowScanner,
    bound: Callable[[], bytes],
    take: Callable[[str, ScannedRows], None],
) -> None:
    for part in parts:
        if isinstance(part, Portion):
            take(part.file, _scan(scanner, part, bound()))
            continue
        rows = read_rows(part)
        while True:
            found = scanner.scan(islice(rows, BATCH_ROWS), bound())
            take(part, found)
            if found.read < BATCH_ROWS:
                break


def _take_first(
    waiting: deque[tuple[str, "Future[ScannedRows]"]], take: Callable[[str, ScannedRows], None]
) -> None:
    file, future = waiting.popleft()
    take(file, future.result())


_scanner: RowScanner


def _begin(make_scanner: Callable[[str], RowScanner]) -> None:
    """Begin a process of the pool: with a scanner of its own, and an end when its parent ends."""
    global _scanner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _scanner = make_scanner(str(os.getpid()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _scan_portion(part: Portion, bound: bytes) -> ScannedRows:
    return _scan(_scanner, part, bound)


def _scan(scanner: RowScanner, part: Portion, bound: bytes) -> ScannedRows:
    with Path(part.file).open("rb", buffering=1 << 20) as stream:
        return scanner.scan_lines(read_lines(stream, part.start, part.end), bound)


def _size_of_lines(file: str) -> int:
    """Bytes of a local file of plain JSON lines; 0 for any other."""
    fs, path = fsspec.core.url_to_fs(file)
    if not isinstance(fs, LocalFileSystem) or not is_json_lines(path):
        return 0
    return Path(path).stat().st_size
