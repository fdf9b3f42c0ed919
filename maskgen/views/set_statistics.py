"""The numbers of a set for its report, gathered shard by shard in bounded memory."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sharding import shard_table
from maskgen.sharding.calibration import read_calibration
from maskgen.sharding.commit import Commit, committed, shard_name

PICKS = 8
SCORES = ("coverage", "agreement", "sam_iou")
SIGNALS = ("quality", "mirror", "stability", "end_prob")  # 0-1, where a set has them
COUNTS = ("polygons", "tokens")

_FINE_BINS = 1000  # bins in which scores are counted; charts join them, medians read them
_BINS = 20
_MIN_BINS = 8


@dataclass(frozen=True)
class SamplePick:
    """A sample chosen to be shown: its shard and its row there."""

    shard: int
    key: str
    id: str
    image: str
    reason: str
    offset: int
    size: int


@dataclass(frozen=True)
class Distribution:
    """How often a column's values fall between `edges` (one more than `counts`), over `ok` samples."""

    column: str
    edges: Sequence[float]
    counts: Sequence[int]
    mean: float
    median: float


@dataclass
class SetStatistics:
    """A set's commits, its distributions over `ok` samples, and a few samples of each outcome.

    `masks`: rows whose mask is not empty, which no outcome tells: SAM may return nothing (sam_disagrees).
    The picks are those with the smallest keys: keys are hashes of content, so that is a fair draw, and
    the same one every time.
    """

    commits: dict[int, Commit]
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    picks: dict[Outcome, list[SamplePick]] = field(default_factory=dict)
    distributions: list[Distribution] = field(default_factory=list)
    masks: int = 0

    @property
    def rows(self) -> int:
        return sum(self.outcomes.values())

    @property
    def bytes(self) -> int:
        return sum(commit.tar.bytes for commit in self.commits.values())


def collect_statistics(store: Store) -> SetStatistics:
    """Read the table of every finished shard once."""
    statistics = SetStatistics(committed(store))
    scores = {column: np.zeros(_FINE_BINS, np.int64) for column in (*SCORES, *SIGNALS)}
    calibration = read_calibration(store)
    counts: dict[str, Counter[int]] = {column: Counter() for column in COUNTS}
    picks: defaultdict[Outcome, list[SamplePick]] = defaultdict(list)
    for shard, commit in statistics.commits.items():
        statistics.outcomes.update(commit.outcomes)
        rows = shard_table.read(store, f"{shard_name(shard)}.parquet")
        statistics.masks += int(np.count_nonzero(rows["coverage"].to_numpy()))
        fine = rows.filter(pc.equal(rows["outcome"], Outcome.OK.value))
        for column in SCORES:
            scores[column] += _fine(fine[column].to_numpy())
        for column in SIGNALS:
            if column in fine.column_names:
                scores[column] += _fine(fine[column].to_numpy())
        if calibration:
            scores["quality"] += _fine(calibration.quality(fine))
        for column in COUNTS:
            counts[column].update(fine[column].to_pylist())
        for outcome in commit.outcomes:
            picks[outcome] = sorted(picks[outcome] + _smallest_keys(shard, rows, outcome), key=_key)[:PICKS]
    statistics.picks = dict(picks)
    statistics.distributions = [
        *(_of_scores(column, fine) for column, fine in scores.items() if fine[1:].any()),
        *(_of_counts(column, counts[column]) for column in COUNTS if any(counts[column])),
    ]
    return statistics


def _fine(values: np.ndarray) -> np.ndarray:
    """How many of the values, 0-1, lie in each fine bin; NaN in none."""
    known = np.clip(values[np.isfinite(values)], 0, 1)
    return np.histogram(known, _FINE_BINS, (0, 1))[0]


def _smallest_keys(shard: int, rows: pa.Table, outcome: Outcome) -> list[SamplePick]:
    same = rows.filter(pc.equal(rows["outcome"], outcome.value))
    chosen = same.take(pc.sort_indices(same, [("key", "ascending")])[:PICKS])
    facts = chosen.select(["key", "id", "image", "reason", "offset", "size"]).to_pylist()
    return [SamplePick(shard, **row) for row in facts]


def _key(pick: SamplePick) -> str:
    return pick.key


def _of_scores(column: str, fine: np.ndarray) -> Distribution:
    middles = (np.arange(_FINE_BINS) + 0.5) / _FINE_BINS
    return Distribution(
        column,
        np.linspace(0, 1, _BINS + 1).tolist(),
        fine.reshape(_BINS, -1).sum(axis=1).tolist(),
        float(np.average(middles, weights=fine)),
        float(middles[_median_bin(fine)]),
    )


def _of_counts(column: str, counted: Counter[int]) -> Distribution:
    """Whole numbers: a bin each as long as there are few of them, else several to a bin."""
    values = np.array(sorted(counted))
    weights = np.array([counted[value] for value in values.tolist()])
    low = int(values[0])
    high = max(int(values[-1]), low + _MIN_BINS - 1)
    step = -(-(high - low + 1) // _BINS)
    edges = np.arange(low, high + step + 1, step)
    return Distribution(
        column,
        edges.tolist(),
        np.histogram(values, edges, weights=weights)[0].tolist(),
        float(np.average(values, weights=weights)),
        float(values[_median_bin(weights)]),
    )


def _median_bin(counts: np.ndarray) -> int:
    """The bin in which the median lies."""
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
