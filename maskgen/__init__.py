"""Grounding masks for attention-guided vision-language models (AGE-VLM).

    import maskgen

    grounder = maskgen.load_grounder("demo")
    found = grounder.ground("photo.jpg", "the red cup")     # found.mask, found.grid, found.outcome
    for sample in maskgen.open_set("shards/demo"): ...      # what maskgen run wrote
    model = maskgen.load_model("RUN")                       # what maskgen train wrote

The names in `__all__` are the library; everything else may change between versions. Importing this package
is light: torch, transformers and Ray are imported when something needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskgen.api import (
        ImageGrounder,
        SampleSet,
        TrainedModel,
        load_config,
        load_grounder,
        load_model,
        open_set,
    )
    from maskgen.config import Config
    from maskgen.errors import MaskgenError, SampleError
    from maskgen.geometry import Frame, binarise
    from maskgen.grounding.interface import Proposer, Refinement, Refiner
    from maskgen.outcome import Outcome
    from maskgen.sample import Grounding, Picture, Proposal, Sample
    from maskgen.sharding.format import ShardSample

__version__ = "0.2.0"

__all__ = [
    "Config",
    "Frame",
    "Grounding",
    "ImageGrounder",
    "MaskgenError",
    "Outcome",
    "Picture",
    "Proposal",
    "Proposer",
    "Refinement",
    "Refiner",
    "Sample",
    "SampleError",
    "SampleSet",
    "ShardSample",
    "TrainedModel",
    "__version__",
    "binarise",
    "load_config",
    "load_grounder",
    "load_model",
    "open_set",
]

_HOMES = {
    "maskgen.api": (
        "ImageGrounder",
        "SampleSet",
        "TrainedModel",
        "load_config",
        "load_grounder",
        "load_model",
        "open_set",
    ),
    "maskgen.config": ("Config",),
    "maskgen.errors": ("MaskgenError", "SampleError"),
    "maskgen.geometry": ("Frame", "binarise"),
    "maskgen.grounding.interface": ("Proposer", "Refinement", "Refiner"),
    "maskgen.outcome": ("Outcome",),
    "maskgen.sample": ("Grounding", "Picture", "Proposal", "Sample"),
    "maskgen.sharding.format": ("ShardSample",),
}


def __getattr__(name: str) -> Any:
    """The library's names, imported when they are first asked for."""
    for home, names in _HOMES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(home), name)
            return found
    raise AttributeError(f"module 'maskgen' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
