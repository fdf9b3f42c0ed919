"""Who may read what maskgen writes: whoever the umask lets, as with every other program."""

from pathlib import Path


def follow_umask(folder: Path) -> None:
    """Give all files below `folder` the mode of a new one; safetensors writes for the owner alone."""
    fresh = folder / ".mode"
    fresh.touch()
    mode = fresh.stat().st_mode & 0o777
    fresh.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
