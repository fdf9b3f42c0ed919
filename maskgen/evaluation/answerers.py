"""Which models can be asked: maskgen's own, and the paper's peers."""

from collections.abc import Callable

from maskgen.age_vlm.generation import Answerer
from maskgen.age_vlm.loading import load
from maskgen.evaluation.inference import Answering
from maskgen.evaluation.predictions import digest, identity
from maskgen.peers.peer_generation import PeerAnswerer
from maskgen.peers.peer_model import PeerModel, fetched, tower_folder
from maskgen.peers.peer_names import is_peer
from maskgen.runtime.model_place import model_folder


def identity_of(place: str) -> str:
    """See `predictions.identity`; of a peer with a tower in a folder of its own that counts too.

    MaskgenError if there is no such model.
    """
    if not is_peer(place):
        return identity(model_folder(place))
    folder = fetched(place)
    tower = tower_folder(folder, place)
    return identity(folder) if tower is None else digest([identity(folder), identity(tower)])


def answerer(place: str, device: str, say: Callable[[str], None]) -> Answering:
    """That model, ready to answer. MaskgenError if it cannot be loaded whole."""
    if is_peer(place):
        return PeerAnswerer(PeerModel.load(place, device, say=say))
    return Answerer(*load(place, device))
