"""What the doctor finds, and how a check that breaks becomes a finding."""

from collections.abc import Callable
from dataclasses import dataclass

from maskgen.errors import MaskgenError


@dataclass(frozen=True)
class Finding:
    """The result of one check. `ok` is None for a warning; `remedy` is empty where nothing is to be done."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def checked(name: str, check: Callable[[], Finding]) -> Finding:
    """The check's finding; a problem it meets is the finding, and a bug in it is only a warning."""
    try:
        return check()
    except MaskgenError as error:
        return Finding(name, False, str(error))
    except Exception as error:
        return Finding(name, None, f"could not be checked: {type(error).__name__}: {error}")
