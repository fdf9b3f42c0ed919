"""Archives for tests, whole and damaged."""

import io
import tarfile
import zipfile
from pathlib import Path


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def split(path: Path, names: list[str]) -> None:
    """Cut the file into parts of these names beside it, and remove it."""
    data = path.read_bytes()
    size = len(data) // len(names) + 1
    for number, name in enumerate(names):
        path.with_name(name).write_bytes(data[number * size : (number + 1) * size])
    path.unlink()


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    """A tar header, in GNU's format, which can say any size."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info.tobuf(tarfile.GNU_FORMAT)


def blocks(data: bytes) -> bytes:
    """Data as it lies in a tar, filled up to whole blocks."""
    return data + b"\0" * (-len(data) % 512)


def pax(records: bytes) -> bytes:
    """A PAX header with these records before the member that it is about."""
    return header("pax", len(records), tarfile.XHDTYPE) + blocks(records)
