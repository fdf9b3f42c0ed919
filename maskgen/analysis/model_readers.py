"""Which reader a folder needs: maskgen's own models, or transformers'."""

from pathlib import Path

from maskgen.age_vlm.loading import model_folder, model_type
from maskgen.age_vlm.registry import ARCHITECTURES
from maskgen.analysis.attention_maps import AttentionReader
from maskgen.analysis.llava import LlavaReader
from maskgen.analysis.similarity import StateReader


def load_state_reader(place: str | Path) -> StateReader:
    """The model of a run or in a folder. MaskgenError if there is none that can be read."""
    return (
        AttentionReader.load(place)
        if model_type(model_folder(place)) in ARCHITECTURES
        else LlavaReader.load(place)
    )
