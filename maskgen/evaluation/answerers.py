"""Which models can be asked: maskgen's own, and the paper's peers."""

from collections.abc import Callable
from pathlib import Path

from maskgen.age_vlm.generation import Answerer
from maskgen.age_vlm.loading import load, model_folder
from maskgen.evaluation.inference import Answering
from maskgen.peers.peer_generation import PeerAnswerer
from maskgen.peers.peer_model import PeerModel, fetched, is_peer


def folder_of(place: str) -> Path:
    """The folder of a run's model or of a peer's published name, or itself. MaskgenError if it is none."""
    return fetched(place) if is_peer(place) else model_folder(place)


def answerer(place: str, device: str, say: Callable[[str], None]) -> Answering:
    """That model, ready to answer. MaskgenError if it cannot be loaded whole."""
    if is_peer(place):
        return PeerAnswerer(PeerModel.load(place, device, say=say))
    return Answerer(*load(place, device))
