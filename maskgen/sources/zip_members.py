"""The members of a zip file; a damaged one costs itself alone (zipfile gives up at the first)."""

import stat
import struct
import zlib
from collections.abc import Iterator
from typing import IO

from maskgen.sources.members import Kind, Member, Oddities

_END = struct.Struct("<4s4H2LH")
_END_64_PLACE = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 1 << 16
_CHUNK = 1 << 20
_LONGEST_LINK = 4096
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ"}
_DAMAGED = "damaged headers"


def zip_members(file: IO[bytes], odd: Oddities) -> Iterator[Member]:
    """Files and symbolic links of a zip whose bytes are stored or deflated, not encrypted.

    They are taken from the directory at the end; where that is missing, as in a download that was cut, from
    the headers before each member. What is skipped is counted in `odd`.
    """
    length = file.seek(0, 2)
    place = _directory(file, length)
    if place is None:
        odd.add("archives without their end, read from the start")
        yield from _from_the_start(file, length, odd)
        return
    start, size, shift = place
    for entry in _entries(file, start, size, odd):
        member = _member(file, entry, shift, length, odd)
        if member is not None:
            yield member


def data_start(header: bytes, start: int) -> int | None:
    """Where a member's bytes begin, given the LOCAL_HEADER at `start`; None if it is none."""
    if len(header) < LOCAL_HEADER.size or header[:4] != b"PK\3\4":
        return None
    name, extra = LOCAL_HEADER.unpack(header)[-2:]
    return start + LOCAL_HEADER.size + name + extra


def _directory(file: IO[bytes], length: int) -> tuple[int, int, int] | None:
    """Where the central directory starts, its bytes, and by how much all offsets are to be shifted."""
    tail_at = max(0, length - _LONGEST_COMMENT - _END.size)
    file.seek(tail_at)
    tail = file.read(length - tail_at)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + _END.size:
        return None
    *_, size, offset, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    if 0xFFFFFFFF in (size, offset) and end >= _END_64_PLACE.size:
        file.seek(end - _END_64_PLACE.size)
        magic, _, place, _ = _END_64_PLACE.unpack(file.read(_END_64_PLACE.size))
        if magic == b"PK\6\7":
            for at_64 in (place, end - _END_64_PLACE.size - _END_64.size):  # shifted, in a file with a head
                if 0 <= at_64 <= length - _END_64.size:
                    file.seek(at_64)
                    fields = _END_64.unpack(file.read(_END_64.size))
                    if fields[0] == b"PK\6\6":
                        size, offset, end = fields[-2], fields[-1], at_64
                        break
    start = end - size
    return (start, size, start - offset) if 0 <= start <= length else None


def _entries(file: IO[bytes], start: int, size: int, odd: Oddities) -> Iterator[tuple[tuple, bytes, bytes]]:
    """(fields, name, extra) of the directory's entries; after a damaged one it goes on at the next."""
    data, at, left, damaged = b"", 0, size, False
    while True:
        if left and len(data) - at < 4 * _LONGEST_COMMENT:
            file.seek(start + size - left)  # the caller reads elsewhere in between
            read = file.read(min(_CHUNK, left))
            left = left - len(read) if read else 0
            data, at = data[at:] + read, 0
        if len(data) - at < _ENTRY.size:
            return
        if data[at : at + 4] == b"PK\1\2":
            fields = _ENTRY.unpack_from(data, at)
            name_end = at + _ENTRY.size + fields[10]
            end = name_end + fields[11]
            if len(data) >= end:
                yield fields, data[at + _ENTRY.size : name_end], data[name_end:end]
                at, damaged = end + fields[12], False
                continue
        if not damaged:
            odd.add(_DAMAGED)
        damaged = True
        place = data.find(b"PK\1\2", at + 1)
        if place < 0 and not left:
            return
        at = place if place > 0 else len(data) - 3


def _member(
    file: IO[bytes], entry: tuple[tuple, bytes, bytes], shift: int, length: int, odd: Oddities
) -> Member | None:
    fields, raw, extra = entry
    version, _, flags, method, _, _, _, packed, size = fields[1:10]
    attributes, offset = fields[15:17]
    name = _name(raw, extra, flags)
    packed, offset = _long(extra, size, packed, offset)
    offset += shift
    if name.endswith("/"):
        return None
    if flags & 1:
        odd.add("encrypted members", name)
    elif method not in (0, 8):
        odd.add(f"members packed with {_METHODS.get(method, f'method {method}')}", name)
    elif not 0 <= offset <= length - LOCAL_HEADER.size:
        odd.add("members outside their archive", name)
    else:
        if offset + packed > length:
            odd.add("members longer than their archive", name)
            packed = min(packed, 1 << 60)
        kind = Kind.ZIP_DEFLATED if method else Kind.ZIP_STORED
        if version >> 8 == 3 and stat.S_ISLNK(attributes >> 16):
            return _link(file, Member(name, offset, packed, kind), odd)
        return Member(name, offset, packed, kind)
    return None


def _link(file: IO[bytes], member: Member, odd: Oddities) -> Member | None:
    """The link that a member's bytes name, relative to its own folder."""
    if member.size <= _LONGEST_LINK:
        file.seek(member.start)
        start = data_start(file.read(LOCAL_HEADER.size), member.start)
        if start is not None:
            file.seek(start)
            data = file.read(member.size)
            try:
                if member.kind is Kind.ZIP_DEFLATED:
                    data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _LONGEST_LINK)
            except zlib.error:
                data = b""
            target = data.decode("utf-8", "surrogateescape")
            folder = member.name.rpartition("/")[0]
            if target and not target.startswith("/"):
                return Member(member.name, 0, 0, Kind.LINK, f"{folder}/{target}" if folder else target)
    odd.add("links that lead out of their archive", member.name)
    return None


def _from_the_start(file: IO[bytes], length: int, odd: Oddities) -> Iterator[Member]:
    at = _search(file, 0)
    while at is not None:
        file.seek(at)
        header = file.read(LOCAL_HEADER.size)
        start = data_start(header, at)
        if start is None:
            return
        _, _, flags, method, _, _, _, packed, size, name_length, extra_length = LOCAL_HEADER.unpack(header)
        raw, extra = file.read(name_length), file.read(extra_length)
        name = _name(raw, extra, flags)
        packed, _ = _long(extra, size, packed, 0)
        if flags & 8 and not packed:  # its size stands after it
            odd.add("members of unknown size", name)
            at = _search(file, start)
            continue
        if not name.endswith("/") and not flags & 1 and method in (0, 8):
            yield Member(name, at, packed, Kind.ZIP_DEFLATED if method else Kind.ZIP_STORED)
        if start + packed > length:
            odd.add("members longer than their archive", name)
            return
        at = _search(file, start + packed)


def _search(file: IO[bytes], at: int) -> int | None:
    """Where the next header before a member stands, from `at` on."""
    file.seek(at)
    data = b""
    while read := file.read(_CHUNK):
        data = data[-3:] + read
        place = data.find(b"PK\3\4")
        if place >= 0:
            return file.tell() - len(data) + place
    return None


def _name(raw: bytes, extra: bytes, flags: int) -> str:
    """UTF-8 where it is that, as most writers have it, flag or no flag; else the old code page."""
    for kind, data in _fields(extra):
        if kind == 0x7075 and data[:1] == b"\1" and data[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
            raw, flags = data[5:], flags | 0x800
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "surrogateescape") if flags & 0x800 else raw.decode("cp437")


def _long(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int]:
    """The packed size and the offset, with what the ZIP64 field says in place of 0xFFFFFFFF."""
    for kind, data in _fields(extra):
        if kind == 1:
            values = iter(struct.unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8]))
            if size == 0xFFFFFFFF:
                next(values, None)
            if packed == 0xFFFFFFFF:
                packed = next(values, packed)
            if offset == 0xFFFFFFFF:
                offset = next(values, offset)
    return packed, offset


def _fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        yield kind, extra[4 : 4 + length]
        extra = extra[4 + length :]
