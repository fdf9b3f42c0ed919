"""The offline world: drawn scenes and small models that ship with the package."""

from pathlib import Path

from maskgen.errors import MaskgenError

FIRST_WEIGHTS = 0.088
"""The deviation of new layers' first weights around the small LLaMA, 1 / sqrt(128): LLaMA's own 0.02 suits a
width of 2,048, and at 128 would make keys and values a hundred times smaller than what they stand beside.
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
