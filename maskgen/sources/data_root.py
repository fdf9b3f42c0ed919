"""Makes sure the rows and images are there before anything is planned from them."""

from collections.abc import Callable

import fsspec

from maskgen.config import Config
from maskgen.errors import MaskgenError


def ensure(config: Config, data: str, say: Callable[[str], None]) -> None:
    """Draw the scenes of a drawn source; check that any other place exists."""
    if config.source.scenes is not None:
        from maskgen.scenes.scene_dataset import write_scenes

        say(f"drawing {config.source.scenes.count} scenes into {data}")
        write_scenes(data, config.source.scenes.count, config.source.scenes.seed)
        return
    try:
        fs, path = fsspec.core.url_to_fs(data)
        there = fs.isdir(path)
    except (ValueError, ImportError, OSError) as error:
        raise MaskgenError(f"--data {data} cannot be opened: {error}.") from error
    if not there:
        raise MaskgenError(
            f"--data {data} is no folder. Give the folder that holds the annotations and images."
        )
