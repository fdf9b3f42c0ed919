"""The members of a tar file; a damaged one costs itself alone (tarfile gives up at the first)."""

import posixpath
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from maskgen.sources.members import Kind, Member, Oddities

_BLOCK = 512
_CHUNK = 1 << 20  # of the search for the next header; this many zeros in a row end it
_LONGEST_EXTENSION = 1 << 20  # bytes of a long name or of a PAX header
_MAGIC, _MAGIC_AT = b"ustar", 257
_REGULAR = b"0\x007"
_EXTENSIONS = {b"L", b"K", b"x", b"X", b"g"}
_KINDS = {
    b"3": "device files",
    b"4": "device files",
    b"6": "named pipes",
    b"D": "lists of folders",
    b"M": "members begun in another volume",
    b"V": "",
    b"5": "",
}
_DAMAGED = "damaged headers"


class Seekable(Protocol):
    """What is asked of a tar: a file, or an inflated one."""

    def seek(self, offset: int, /) -> int: ...

    def read(self, count: int, /) -> bytes: ...


class _Header(NamedTuple):
    name: bytes
    size: int | None  # None where it is no number
    type: bytes
    target: bytes
    sparse_goes_on: bool


def tar_members(file: Seekable, odd: Oddities) -> Iterator[Member]:
    """Regular members and links of an uncompressed tar, in the order of the file.

    `file` is seekable; a seek beyond its end may stop at it. A member that the file's end cuts off is given
    with the size that it should have. After a header that cannot be read the next whole one is searched
    for; what is skipped is counted in `odd`.
    """
    at: int | None = 0
    everywhere: dict[bytes, bytes] = {}
    while at is not None and (found := _next(file, at, everywhere, odd)) is not None:
        at, header, pax = found
        name = _text(pax.get(b"path", header.name))
        size = _size(pax.get(b"size"), header.size)
        if size is None or size < 0:
            odd.add(_DAMAGED, name)
            at = _search(file, at)
            continue
        if header.type in (b"1", b"2"):
            yield Member(name, 0, 0, Kind.LINK, _target(header, pax, name))
            continue
        end = at + -(-size // _BLOCK) * _BLOCK
        whole = _reaches(file, end if size % _BLOCK == 0 else at + size)
        if header.type == b"S" or any(key.startswith(b"GNU.sparse.") for key in pax):
            odd.add("sparse files", name)
        elif header.type in _KINDS:
            if _KINDS[header.type]:
                odd.add(_KINDS[header.type], name)
        elif not (name.endswith("/") and header.type in _REGULAR):
            if not whole:
                odd.add("members longer than their archive", name)
            yield Member(name, at, min(size, 1 << 60), Kind.PLAIN)
        at = end if whole else _search(file, at)


def _next(
    file: Seekable, start: int, everywhere: dict[bytes, bytes], odd: Oddities
) -> tuple[int, _Header, dict[bytes, bytes]] | None:
    """The next member's header: where its data starts, the header, and what extensions before it say.

    What they say of all members goes into `everywhere`.
    """
    at: int | None = start
    extended: dict[bytes, bytes] = {}
    while at is not None:
        file.seek(at)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            return None
        header = _header(block)
        if header is None:
            if any(block):
                odd.add(_DAMAGED)
                at = _search(file, at + _BLOCK)
            else:
                at = _search(file, at + _BLOCK, chunks=1)  # tars one after another: zeros stand between
            extended = {}
            continue
        at += _BLOCK
        if header.type not in _EXTENSIONS:
            while header.sparse_goes_on:
                block = file.read(_BLOCK)
                at += _BLOCK
                header = header._replace(sparse_goes_on=len(block) == _BLOCK and block[504] != 0)
            return at, header, {**everywhere, **extended}
        size = header.size
        if size is None or not 0 <= size <= _LONGEST_EXTENSION:
            odd.add(_DAMAGED)
            at = _search(file, at)
            continue
        data = file.read(size)
        at += -(-size // _BLOCK) * _BLOCK
        if header.type == b"L":
            extended[b"path"] = data.rstrip(b"\0")
        elif header.type == b"K":
            extended[b"linkpath"] = data.rstrip(b"\0")
        else:
            (everywhere if header.type == b"g" else extended).update(_records(data))
    return None


def _header(block: bytes) -> _Header | None:
    """What a header block says; None if its checksum is wrong."""
    if len(block) < _BLOCK:
        return None
    told = _number(block[148:156])
    blank = block[:148] + b" " * 8 + block[156:]
    if told is None or told not in (sum(blank), sum(blank) - 256 * sum(byte > 127 for byte in blank)):
        return None
    name, kind = _until_nul(block[:100]), block[156:157]
    posix = block[_MAGIC_AT : _MAGIC_AT + 6] == b"ustar\0"
    prefix = _until_nul(block[345:500]) if posix else b""
    return _Header(
        name=prefix + b"/" + name if prefix and kind not in _EXTENSIONS else name,
        size=_number(block[124:136]),
        type=kind,
        target=_until_nul(block[157:257]),
        sparse_goes_on=kind == b"S" and block[482] != 0,
    )


def _search(file: Seekable, at: int, chunks: int | None = None) -> int | None:
    """Where the next whole header stands from `at` on, if there is one.

    The search ends at a stretch of zeros, or after `chunks`.
    """
    file.seek(at)
    while chunks is None or chunks > 0:
        data = file.read(_CHUNK)
        place = data.find(_MAGIC)
        while place >= 0:
            start = place - _MAGIC_AT
            if start >= 0 and start % _BLOCK == 0 and _header(data[start : start + _BLOCK]) is not None:
                return at + start
            place = data.find(_MAGIC, place + 1)
        if len(data) < _CHUNK or not any(data):
            break
        at += _CHUNK
        chunks = None if chunks is None else chunks - 1
    return None


def _reaches(file: Seekable, end: int) -> bool:
    """Whether the file has all bytes before `end`."""
    try:
        file.seek(end - 1)
        return len(file.read(1)) == 1
    except (OSError, OverflowError, ValueError):  # no file can be as long as that
        return False


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header, "LENGTH KEY=VALUE\\n", up to the first that is none."""
    records = {}
    while data:
        length, _, _ = data.partition(b" ")
        if not (length.isdigit() and len(length) < 8 and len(length) < int(length) <= len(data)):
            break
        key, _, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        records[key] = value
        data = data[int(length) :]
    return records


def _number(digits: bytes) -> int | None:
    """A header's number: octal, or from 0x80 or 0xFF on in base 256."""
    if digits[:1] in (b"\x80", b"\xff"):
        value = int.from_bytes(digits[1:], "big")
        return value - (1 << 8 * len(digits) - 8) if digits[0] == 0xFF else value
    try:
        return int(digits.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return None


def _size(pax: bytes | None, header: int | None) -> int | None:
    if pax is None:
        return header
    try:
        return int(pax) if len(pax) < 30 else None
    except ValueError:
        return None


def _target(header: _Header, pax: dict[bytes, bytes], name: str) -> str:
    """The path within the archive that a link stands for; a symbolic one starts at its own folder."""
    target = _text(pax.get(b"linkpath", header.target))
    if header.type == b"2" and not target.startswith("/"):
        target = posixpath.join(posixpath.dirname(name), target)
    return target


def _until_nul(field: bytes) -> bytes:
    return field.split(b"\0")[0]


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
