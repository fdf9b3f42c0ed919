"""The offline world: drawn scenes and small models that ship with the package."""

from pathlib import Path

from maskgen.errors import MaskgenError


def checkpoint(name: str) -> Path:
    """The folder of the shipped model `name`: "florence2", "sam", "llama" or "convnext"."""
    folder = Path(__file__).parent / "checkpoints" / name
    if not folder.is_dir():
        raise MaskgenError(
            f"the demo model {name} is not in this installation ({folder} is missing). Install maskgen "
            "again, or name a model of your own in the pipeline."
        )
    return folder
