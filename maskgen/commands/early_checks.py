"""What is refused before torch is imported, which takes seconds: places that do not hold what is wanted."""

from collections.abc import Iterable
from pathlib import Path

from maskgen.errors import MaskgenError
from maskgen.peers.peer_names import is_peer
from maskgen.runtime.folder_kind import check_finished
from maskgen.runtime.model_place import model_folder


def check_models(places: Iterable[str]) -> None:
    """MaskgenError for a place that is no run, no model folder and no published name of a peer."""
    for place in places:
        if not is_peer(place):
            model_folder(place)


def check_sets(places: Iterable[str]) -> None:
    """MaskgenError for a place that is no finished set of shards."""
    for place in places:
        check_finished(place)


def check_file(what: str, place: str) -> None:
    """MaskgenError if there is no such file; `what` it should be, for the sentence."""
    if not Path(place).is_file():
        raise MaskgenError(f"there is no {what} {place}. Check the path.")
