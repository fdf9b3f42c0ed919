"""Tar members: what tarfile finds in a whole file, and all but the damaged one in a damaged file."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.archive_files import blocks, header, pax
from maskgen.sources.members import Kind, Oddities
from maskgen.sources.tar_members import tar_members

END = b"\0" * 1024


def read(data: bytes) -> tuple[list[str], Oddities]:
    odd = Oddities()
    return [member.name for member in tar_members(io.BytesIO(data), odd)], odd


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=80)


@given(
    st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=4), st.binary(max_size=1500)), max_size=8),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=60, deadline=None)
def test_whole_files_are_read_as_tarfile_does(members, layout):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=layout) as tar:
        for parts, data in members:
            info = tarfile.TarInfo("x" + "/".join(parts))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        wanted = [(info.name, info.offset_data, info.size) for info in tar]
    odd = Oddities()
    found = list(tar_members(stream, odd))
    assert [(member.name.rstrip("/"), member.start, member.size) for member in found] == wanted
    assert not odd.counts


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff" * 512,  # a header that is none
        header("b.jpg", 5)[:300] + b"\1" * 212,  # a wrong checksum
        header("b.jpg", 2**70),
        header("b.jpg", -1),
        pax(b"16 size=-100000\n") + header("b.jpg", 5),
        pax(b"12 size=abc\n") + header("b.jpg", 5) + blocks(b"12345"),
        header("b.jpg", 1 << 40, tarfile.XHDTYPE),
        pax(b"9999 a=b\n") + header("c.jpg", 3) + blocks(b"abc"),
    ],
)
def test_a_damaged_member_costs_itself_alone(damage):
    first, last = header("a.jpg", 3) + blocks(b"one"), header("z.jpg", 3) + blocks(b"two")
    names, odd = read(first + damage + last + END)
    assert names[0] == "a.jpg" and names[-1] == "z.jpg"
    assert "z.jpg" in names and (odd.counts or names == ["a.jpg", "c.jpg", "z.jpg"])


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_no_damage_to_one_header_hides_the_members_behind_the_next(data):
    tar = b"".join(header(f"{number}.jpg", 700) + blocks(b"x" * 700) for number in range(6)) + END
    at = 3 * (len(tar) - 1024) // 6 * 1 + data.draw(st.integers(0, 511))
    broken = bytearray(tar)
    broken[at] ^= data.draw(st.integers(1, 255))
    names, _ = read(bytes(broken))
    assert names[:3] == ["0.jpg", "1.jpg", "2.jpg"] and names[-2:] == ["4.jpg", "5.jpg"]


def test_names_of_any_bytes_and_chains_of_extensions():
    latin = tarfile.TarInfo("caf\xe9.jpg").tobuf(tarfile.USTAR_FORMAT, "latin-1")
    names, odd = read(latin + pax(b"12 path=abc\n") * 5000 + header("d.jpg", 1) + blocks(b"d") + END)
    assert names == ["caf\udce9.jpg", "abc"] and not odd.counts


def test_tars_one_after_another_and_junk_after_the_end():
    one, two = (header(name, 1) + blocks(b"x") + END for name in ("a.jpg", "b.jpg"))
    assert read(one + b"\0" * 9216 + two)[0] == ["a.jpg", "b.jpg"]
    assert read(one + b"junk" * 5000)[0] == ["a.jpg"]
    assert read(b"")[0] == read(b"short")[0] == []


def test_kinds_that_are_no_images_are_counted():
    tar = (
        header("pipe", kind=tarfile.FIFOTYPE)
        + header("device", kind=tarfile.CHRTYPE)
        + header("folder", kind=tarfile.DIRTYPE)
        + pax(b"22 GNU.sparse.major=1\n")
        + header("sparse.jpg", 3)
        + blocks(b"abc")
        + header("link.jpg", kind=tarfile.SYMTYPE, target="../a.jpg")
        + header("x/hard.jpg", kind=tarfile.LNKTYPE, target="a.jpg")
        + END
    )
    odd = Oddities()
    links = list(tar_members(io.BytesIO(tar), odd))
    assert [(link.kind, link.name, link.target) for link in links] == [
        (Kind.LINK, "link.jpg", "../a.jpg"),
        (Kind.LINK, "x/hard.jpg", "a.jpg"),
    ]
    assert odd.counts == {"named pipes": 1, "device files": 1, "sparse files": 1}


def test_a_member_that_the_end_cuts_off_is_given_as_it_should_be():
    odd = Oddities()
    cut = header("a.jpg", 3) + blocks(b"one") + header("b.jpg", 5000) + b"x" * 600
    assert [(member.name, member.size) for member in tar_members(io.BytesIO(cut), odd)] == [
        ("a.jpg", 3),
        ("b.jpg", 5000),
    ]
    assert odd.counts == {"members longer than their archive": 1}
