"""Which reader a folder needs: maskgen's own models, or transformers'."""

from pathlib import Path

from maskgen.analysis.gaze import Gaze, model_folder, model_type
from maskgen.analysis.llava import Llava
from maskgen.analysis.similarity import Reader
from maskgen.training.models import KINDS


def load(place: str | Path) -> Reader:
    """The model of a run or in a folder. MaskgenError if there is none that can be read."""
    return Gaze.load(place) if model_type(model_folder(place)) in KINDS else Llava.load(place)
