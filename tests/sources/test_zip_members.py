"""Zip members: what zipfile finds in a whole file, and all but the damaged one in a damaged file."""

import io
import stat
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.sources.members import Kind, Oddities
from maskgen.sources.zip_members import zip_members


def read(data: bytes) -> tuple[list[str], Oddities]:
    odd = Oddities()
    return [member.name for member in zip_members(io.BytesIO(data), odd)], odd


def packed(*names: str, method: int = zipfile.ZIP_STORED) -> bytearray:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"picture" * 100)
    return bytearray(stream.getvalue())


def entry(data: bytearray, number: int) -> int:
    """Where an entry of the directory at the end stands."""
    at = -1
    for _ in range(number + 1):
        at = data.index(b"PK\1\2", at + 1)
    return at


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="/\0\\", codec="utf-8"), min_size=1, max_size=40),
        st.binary(max_size=300),
        max_size=8,
    ),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.binary(max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_whole_files_are_read_as_zipfile_does(members, method, before):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr("x" + name, data)
    with zipfile.ZipFile(stream) as archive:
        wanted = [
            (info.filename, info.header_offset + len(before), info.compress_size)
            for info in archive.infolist()
        ]
    odd = Oddities()
    found = list(zip_members(io.BytesIO(before + stream.getvalue()), odd))
    assert [(member.name, member.start, member.size) for member in found] == wanted and not odd.counts


@pytest.mark.parametrize(
    ("place", "value", "kind"),
    [
        (0, b"XX", "damaged headers"),
        (8, struct.pack("<H", 1), "encrypted members"),
        (10, struct.pack("<H", 12), "members packed with bzip2"),
        (10, struct.pack("<H", 77), "members packed with method 77"),
        (42, struct.pack("<L", 1 << 31), "members outside their archive"),
    ],
)
def test_a_damaged_or_odd_member_costs_itself_alone(place, value, kind):
    data = packed("a.jpg", "b.jpg", "c.jpg")
    at = entry(data, 1) + place
    data[at : at + len(value)] = value
    names, odd = read(bytes(data))
    assert names == ["a.jpg", "c.jpg"] and odd.counts == {kind: 1}


def test_a_version_that_nobody_has_and_a_size_beyond_the_end():
    data = packed("a.jpg", "b.jpg")
    at = entry(data, 0)
    data[at + 6 : at + 8] = struct.pack("<H", 99)
    data[at + 20 : at + 24] = struct.pack("<L", 1 << 30)
    names, odd = read(bytes(data))
    assert names == ["a.jpg", "b.jpg"] and odd.counts == {"members longer than their archive": 1}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_download_that_was_cut_is_read_from_the_start(method):
    data = bytes(packed(*(f"{number}.jpg" for number in range(9)), method=method))
    names, odd = read(data[: len(data) * 2 // 3])
    assert names == [f"{number}.jpg" for number in range(len(names))] and len(names) > 3
    assert odd.counts["archives without their end, read from the start"] == 1
    assert read(b"no zip")[0] == read(b"")[0] == []


def test_links_lead_to_paths_within():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, target in (("x/link.jpg", "../a.jpg"), ("out.jpg", "/etc/passwd")):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
        archive.writestr("a.jpg", b"a")
    odd = Oddities()
    found = [(member.kind, member.name, member.target) for member in zip_members(stream, odd)]
    assert found == [(Kind.LINK, "x/link.jpg", "x/../a.jpg"), (Kind.ZIP_STORED, "a.jpg", "")]
    assert odd.counts == {"links that lead out of their archive": 1}


def test_names_without_the_flag_are_utf8_where_they_can_be():
    data = packed("caf\xe9.jpg")
    for at in (6, entry(data, 0) + 8):
        data[at : at + 2] = b"\0\0"
    assert read(bytes(data))[0] == ["caf\xe9.jpg"]
