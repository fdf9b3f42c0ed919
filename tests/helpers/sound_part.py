"""A part of `benchmarks/card` in which nothing is wrong."""

from card.part import Setting, Step
from card.record import Record


def sound(setting: Setting, record: Record) -> None:
    record.figure("sound", 1, "ms")


STEPS: list[Step] = [sound]
