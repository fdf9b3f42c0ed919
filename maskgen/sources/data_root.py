"""Makes sure the rows and images are there before anything is planned from them."""

from collections.abc import Callable

from maskgen.config import Config
from maskgen.errors import MaskgenError
from maskgen.runtime.storage import Files


def ensure(config: Config, data: str, say: Callable[[str], None]) -> None:
    """Draw the scenes of a drawn source; check that any other place exists."""
    if config.source.scenes is not None:
        from maskgen.scenes.scene_dataset import write_scenes

        say(f"drawing {config.source.scenes.count} scenes into {data}")
        write_scenes(data, config.source.scenes.count, config.source.scenes.seed)
        return
    try:
        files = Files(data)
        there = files.isdir(files.path)
    except PermissionError as error:
        raise MaskgenError(
            f"--data {data} cannot be opened: permission denied ({error}). Check its rights, and of a remote "
            "place the keys or token that this process has."
        ) from error
    except OSError as error:
        raise MaskgenError(f"--data {data} cannot be opened: {error}.") from error
    if not there:
        raise MaskgenError(
            f"--data {data} is no folder. Give the folder that holds the annotations and images."
        )
