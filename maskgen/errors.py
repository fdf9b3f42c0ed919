"""The two kinds of failure: one ends the command, the other ends one sample; and how both are worded."""

from collections.abc import Iterable
from difflib import get_close_matches

from maskgen.outcome import Outcome


class MaskgenError(Exception):
    """A problem the user can mend; its message names the thing, the place and the remedy.

    The command line prints the message alone and exits with `exit_code`.
    """

    exit_code = 1


class SampleError(Exception):
    """One sample cannot be grounded; becomes a row with `outcome` and `reason`, never a traceback."""

    def __init__(self, outcome: Outcome, reason: str):
        super().__init__(outcome, reason)
        self.outcome = outcome
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"

    def bare(self) -> "SampleError":
        """The same to be kept: without a traceback, whose frames would keep pictures and tensors alive."""
        return SampleError(self.outcome, self.reason)


def first_line(error: BaseException) -> str:
    """What a library's exception says, in one line: its first, or its type's name if it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ " Did you mean demo?", with the known name that is nearest to what was typed; "" if none is near."""
    near = get_close_matches(given, [*known], n=1)
    return f" Did you mean {near[0]}?" if near and given else ""
