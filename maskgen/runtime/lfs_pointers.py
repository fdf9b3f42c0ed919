"""Git-lfs pointers where weights should be: three lines of text that a clone without git-lfs leaves."""

from pathlib import Path

from maskgen.errors import MaskgenError
from maskgen.file_kinds import LFS_POINTER

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def lfs_pointers(place: str | Path) -> list[Path]:
    """The pointers at `place`: the file itself, or a folder's files of weights. Empty if it is not here."""
    place = Path(place)
    files = [place] if place.is_file() else [path for kind in _WEIGHTS for path in sorted(place.glob(kind))]
    return [path for path in files if _begins_as_pointer(path)]


def refuse_lfs_pointers(place: str | Path) -> None:
    """MaskgenError that names the first pointer at `place`, if there is one."""
    for path in lfs_pointers(place):
        raise MaskgenError(
            f"{path} is a git-lfs pointer, not weights: it was cloned without git-lfs. "
            "Run `git lfs install && git lfs pull` there, or download the file."
        )


def _begins_as_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False  # whoever loads it says what is the matter
