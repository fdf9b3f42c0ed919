"""Hours on N GPUs, by arithmetic: whole shards, one driver, and the rate that one worker was measured at."""

from dataclasses import dataclass
from typing import Literal

from maskgen.errors import MaskgenError

MANY = 8  # shards for each worker, so that waiting for the last ones costs little
FEWEST = 100  # rows a shard, below which a worker's stages hardly work at the same time


@dataclass(frozen=True)
class PlannedWork:
    """What there is to do: `rows` in shards of `shard_rows`, by workers that ground `rate` rows a second and
    load for `loading` seconds, handed out by a driver that manages `ceiling` shards an hour."""

    rows: int
    shard_rows: int
    rate: float
    loading: float
    ceiling: float

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)


@dataclass(frozen=True)
class RunTime:
    """`seconds` that the work takes on `gpus`, loading included; `busy`: the share of the GPUs' time after
    loading that grounds; `limit`: what keeps it from being more."""

    gpus: int
    seconds: float
    busy: float
    limit: Literal["nothing", "shards", "driver"]

    @property
    def gpu_hours(self) -> float:
        """What is paid for."""
        return self.gpus * self.seconds / 3600


def run_time_on(gpus: int, work: PlannedWork) -> RunTime:
    """The time until the last shard is done.

    Each worker makes one shard after another; the last shard may hold fewer rows. Every shard costs the
    driver a moment before its worker can begin, and the driver deals with one at a time.
    """
    if not work.rows:
        return RunTime(gpus, work.loading, 0.0, "nothing")
    hand_out = 3600 / work.ceiling
    shard = work.shard_rows / work.rate
    last = (work.rows - (work.shards - 1) * work.shard_rows) / work.rate
    rounds = -(-work.shards // gpus)
    in_last_round = work.shards - (rounds - 1) * gpus
    lap = shard + hand_out

    def end(place: int, round_: int, takes: float) -> float:
        """When a shard is done whose worker was the `place`th to get one in its round."""
        return place * hand_out + round_ * lap + takes if place and round_ >= 0 else 0.0

    waiting_for_gpus = max(
        end(in_last_round, rounds - 1, last),
        end(in_last_round - 1, rounds - 1, shard),
        end(gpus, rounds - 2, shard),
    )
    waiting_for_driver = max(end(work.shards, 0, last), end(work.shards - 1, 0, shard))
    seconds = max(waiting_for_gpus, waiting_for_driver)
    busy = work.rows / work.rate / (gpus * seconds)
    limit: Literal["nothing", "shards", "driver"] = "nothing"
    if rounds > 1 and waiting_for_driver > waiting_for_gpus:
        limit = "driver"
    elif busy < 0.9:
        limit = "shards"
    return RunTime(gpus, work.loading + seconds, busy, limit)


def smaller_shards(gpus: int, work: PlannedWork) -> int:
    """Rows a shard with which each GPU gets `MANY` shards, or as many as are worth it."""
    return max(FEWEST, work.rows // (MANY * gpus))


def parse_gpu_counts(given: str) -> list[int]:
    """The numbers in "1,8,64"; MaskgenError if they are none."""
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise MaskgenError(f"--gpus {given}: write numbers of GPUs with commas between them, as in 1,8,64.")
    return [int(part) for part in parts]
