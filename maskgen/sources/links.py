"""Where links in an image folder may lead."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from maskgen.errors import MaskgenError


class Confines:
    """The folders that a root's files may lie in once all links are followed.

    They are the root itself, the folders that the user names, and for each of these that lies in a snapshot
    of the hub's cache, the `blobs` of that repository, which all files of a snapshot are links into.
    """

    def __init__(self, root: str, further: Sequence[str] = ()):
        """`root` is resolved already. MaskgenError for a further folder that is not there."""
        self._folders = [Path(root)]
        for name in further:
            folder = Path(name).expanduser()
            if not folder.is_absolute() or not folder.is_dir():
                raise MaskgenError(f"source.allow_links_to: {name} is no folder. Give absolute paths.")
            self._folders.append(folder.resolve())
        self._folders += [blobs for folder in self._folders for blobs in _blobs(folder)]
        self.folder_is_inside = lru_cache(maxsize=1 << 16)(self._folder_is_inside)

    def hold(self, path: Path) -> bool:
        """Whether the resolved `path` lies inside."""
        return any(path.is_relative_to(folder) for folder in self._folders)

    def _folder_is_inside(self, folder: str) -> bool:
        """Whether the folder's own links lead inside; remembered, since millions of images share a few."""
        try:
            return self.hold(Path(folder).resolve())
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            return False


def _blobs(folder: Path) -> list[Path]:
    """The hub cache's own `blobs` for a folder in one of its snapshots."""
    found = []
    for place in (folder, *folder.parents):
        if place.parent.name == "snapshots" and (place.parent.parent / "blobs").is_dir():
            found.append(place.parent.parent / "blobs")
    return found
