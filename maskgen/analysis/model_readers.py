"""Which reader a model needs: maskgen's own, the paper's peers', or transformers'."""

from pathlib import Path

from maskgen.age_vlm.registry import ARCHITECTURES
from maskgen.analysis.attention_maps import AttentionReader, MapReader
from maskgen.analysis.llava import LlavaReader
from maskgen.analysis.peer_reader import PeerReader
from maskgen.analysis.similarity import StateReader
from maskgen.errors import MaskgenError
from maskgen.peers.peer_model import Say
from maskgen.peers.peer_names import is_peer
from maskgen.runtime.model_place import model_folder, model_type


def load_state_reader(place: str | Path, say: Say = lambda line: None) -> StateReader:
    """The model of a run, in a folder, or of a peer's published name. MaskgenError if none can be read."""
    if is_peer(place):
        return PeerReader.load(place, say=say)
    ours = model_type(model_folder(place)) in ARCHITECTURES
    return AttentionReader.load(place) if ours else LlavaReader.load(place)


def load_map_reader(place: str | Path, fit: str = "", say: Say = lambda line: None) -> MapReader:
    """The same for a model whose attention is wanted. `fit`: as `AttentionReader.load`, not for a peer."""
    if not is_peer(place):
        return AttentionReader.load(place, fit)
    if fit:
        raise MaskgenError(f"--fit {fit} is for models of maskgen: {place} pads pictures in its own way.")
    return PeerReader.load(place, say=say)
