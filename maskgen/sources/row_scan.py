"""A pass over rows: those that may be chosen go to disk, and the chosen ones become rows of a plan."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path

import orjson
import pyarrow as pa

from maskgen.config import Config, NoProposer, Text
from maskgen.lenient_json import is_exact, loads
from maskgen.sample import Query
from maskgen.sources import conversation, row_layout
from maskgen.sources.image_names import renamed
from maskgen.sources.plan_file import to_table
from maskgen.sources.row_filter import RowFilter
from maskgen.sources.row_layout import BrokenRow, RawRow
from maskgen.sources.rows import parse_line
from maskgen.sources.selection import RANK_BYTES, Chosen, Spill

_EXAMPLES = 5
_JUDGED = 4096  # rows that a filter judges at a time


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


def prepare(config: Config, rows: Sequence[Chosen]) -> pa.Table:
    """The chosen rows as rows of a plan; nobody has looked for their images yet."""
    check = check_of(config)
    return to_table([conversation.sample(row.content, row.key, config.text, check, row.meta) for row in rows])
