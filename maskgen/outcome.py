"""What became of a sample. Every planned sample ends as exactly one of these."""

from collections.abc import Mapping
from enum import StrEnum


class Outcome(StrEnum):
    """Typed results; the string values are what the shards store."""

    # In the tar, with a mask.
    OK = "ok"
    SAM_DISAGREES = "sam_disagrees"
    # In the tar, with a zero mask: nothing to guide, but the language-model loss still uses them.
    NO_GROUNDING = "no_grounding"
    DEGENERATE_POLYGON = "degenerate_polygon"
    TRUNCATED_ANSWER = "truncated_answer"
    OUTSIDE_CROP = "outside_crop"
    # In the tar, with a zero mask, because no mask was asked for (`maskgen pack`).
    NOT_GROUNDED = "not_grounded"
    TEXT_ONLY = "text_only"
    # Not in the tar: there is nothing to train on.
    NO_IMAGE = "no_image"
    SEVERAL_IMAGES = "several_images"
    UNKNOWN_SPEAKER = "unknown_speaker"
    IMAGE_MISSING = "image_missing"
    IMAGE_CORRUPT = "image_corrupt"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_UNSUPPORTED = "image_unsupported"
    SIZE_MISMATCH = "size_mismatch"
    PATH_ESCAPE = "path_escape"
    TEXT_EMPTY = "text_empty"
    TEXT_TOO_LONG = "text_too_long"
    OOM = "oom"
    QUARANTINED = "quarantined"
    ERROR = "error"

    @property
    def in_tar(self) -> bool:
        """Whether a sample with this outcome is a member of its shard's tar."""
        return self in _IN_TAR

    @property
    def is_failure(self) -> bool:
        """Whether it counts against the failure budget.

        A row without an image or a text, or with several images, is not a failure: there never was anything
        that could be grounded.
        """
        return not self.in_tar and self not in _NEVER_THERE

    @property
    def may_change(self) -> bool:
        """Whether trying again can end otherwise: not where the row's own text decided."""
        return self.is_failure and self not in (Outcome.TEXT_TOO_LONG, Outcome.UNKNOWN_SPEAKER)


def failures(outcomes: Mapping[str, int], passed_over: Mapping[str, int]) -> int:
    """How many of the samples in `outcomes` failed; those in whose place others were planned do not count."""
    return sum(
        max(0, count - passed_over.get(name, 0))
        for name, count in outcomes.items()
        if Outcome(name).is_failure
    )


_IN_TAR = {
    Outcome.OK,
    Outcome.SAM_DISAGREES,
    Outcome.NO_GROUNDING,
    Outcome.DEGENERATE_POLYGON,
    Outcome.TRUNCATED_ANSWER,
    Outcome.OUTSIDE_CROP,
    Outcome.NOT_GROUNDED,
    Outcome.TEXT_ONLY,
}
_NEVER_THERE = {Outcome.NO_IMAGE, Outcome.SEVERAL_IMAGES, Outcome.TEXT_EMPTY}
