"""The small models that ship with the package, and how each is built."""

from pathlib import Path

from maskgen.errors import MaskgenError

INITIALIZER_RANGE = 0.045
"""The deviation of new layers' first weights around the small LLaMA. LLaMA's own 0.02 suits a width of
2,048: at 128 it makes keys and values a hundredth of the states beside them. 1 / sqrt(128) = 0.088 starts
every head at a single cell, from which it does not come away.
"""


def checkpoint(name: str) -> Path:
    """The folder of the shipped model `name`: "florence2", "sam", "llama" or "convnext"."""
    folder = Path(__file__).parent / "checkpoints" / name
    if not folder.is_dir():
        raise MaskgenError(
            f"the demo model {name} is not in this installation ({folder} is missing). Install maskgen "
            "again, or name a model of your own in the pipeline."
        )
    return folder
