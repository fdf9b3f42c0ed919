"""What the benchmark found, as text and as JSON."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from maskgen.bench.ceilings import ImageCost, Limit
from maskgen.bench.device_peaks import Machine
from maskgen.bench.part_times import PARTS
from maskgen.draw import text


@dataclass(frozen=True)
class Agreement:
    """Masks against those of the reference path: mean and least IoU over the images, and equal ones."""

    iou: float
    least: float
    equal: int


@dataclass(frozen=True)
class WayReport:
    """One way.

    `seconds`, `processor_seconds`: of each round, for `images`, by the clock and of processor time; `tokens`:
    an answer, on average; `memory`: bytes on the GPU at most, or None; `parts`, `processor_parts`: seconds of
    each, from a pass of their own; `agreement`: None where the reference has no masks.
    """

    name: str
    what: str
    seconds: list[float]
    processor_seconds: list[float]
    images: int
    tokens: float
    memory: int | None
    parts: dict[str, float]
    processor_parts: dict[str, float]
    agreement: Agreement | None

    @property
    def rate(self) -> float | None:
        """Images a second, of the median round; None before the first one."""
        return self.images / median(self.seconds) if self.seconds else None

    @property
    def processor_rate(self) -> float | None:
        """Images a second of processor time, which other work on the machine disturbs less."""
        return self.images / median(self.processor_seconds) if self.processor_seconds else None


@dataclass(frozen=True)
class Overhead:
    """Seconds of the engine's way from plan to shard, and of its models' forward passes alone (medians); the
    same of processor time."""

    pipeline: float
    forwards: float
    pipeline_processor: float
    forwards_processor: float

    @property
    def ratio(self) -> float:
        """How many times as long."""
        return self.pipeline / self.forwards

    @property
    def processor_ratio(self) -> float:
        """The same of processor time, which other work on the machine disturbs less."""
        return self.pipeline_processor / self.forwards_processor


@dataclass(frozen=True)
class BenchReport:
    """Everything; `process_memory`: bytes of the whole process at most.

    `cut`: what ended the measuring early; then `ways` are those that were through once, some without a round,
    and `overhead` may be None.
    """

    device: str
    threads: int
    dtype: str
    settings: str
    images: int
    rounds: int
    cut: str
    weights: str
    lengths: str
    beams: int
    slots: int
    machine: Machine
    work: ImageCost
    limit: Limit
    ways: list[WayReport]
    overhead: Overhead | None
    process_memory: int

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        tree = asdict(self)
        for one, way in zip(tree["ways"], self.ways, strict=True):
            one["images_per_second"] = way.rate
            one["ratio"] = _ratio(way.rate, self.ways[0].rate)
            one["processor_ratio"] = _ratio(way.processor_rate, self.ways[0].processor_rate)
            one["share_of_limit"] = _ratio(way.rate, self.limit.serial)
        tree["limit"] |= {"serial": self.limit.serial, "overlapped": self.limit.overlapped}
        if self.overhead:
            ratios = {"ratio": self.overhead.ratio, "processor_ratio": self.overhead.processor_ratio}
            tree["overhead"] |= ratios
        return tree


def render(report: BenchReport) -> str:
    """The tables."""
    return "\n".join(
        [*_head(report), "", *_ways(report), "", *_parts(report), "", *_limit(report), "", *_overhead(report)]
    )


def _head(report: BenchReport) -> list[str]:
    where = report.device if report.device != "cpu" else f"CPU, {text.plural(report.threads, 'thread')}"
    lengths = f"\nanswer lengths: {report.lengths}; the same for every way" if report.lengths else ""
    rounds = f"medians of {text.plural(report.rounds, 'round')}; in each, every way in turn"
    if report.cut:
        rounds += f"; cut short ({report.cut}): - where nothing was timed, and ways not reached are left out"
    return [
        f"{report.images} images on {where}, {text.plural(report.beams, 'beam')}; "
        f"weights {report.weights}{lengths}",
        f"settings: {report.settings}",
        rounds,
    ]


def _ways(report: BenchReport) -> list[str]:
    """A row a way. On a CPU the second ratio is of processor time; a GPU's work would not be in it."""
    first, cpu = report.ways[0], report.device == "cpu"
    titles = ["way", "images/s", "ratio", "of processor" if cpu else "peak memory", "of limit", "tokens"]
    rows = [[*titles, "mean IoU", "least", "equal"]]
    for way in report.ways:
        processor = _ratio(way.processor_rate, first.processor_rate)
        agreed = way.agreement
        rows.append(
            [
                way.name,
                _figure(way.rate),
                _figure(_ratio(way.rate, first.rate)),
                _figure(processor) if cpu else text.size(way.memory or 0),
                text.share(way.rate, report.limit.serial) if way.rate else "-",
                f"{way.tokens:.1f}",
                f"{agreed.iou:.4f}" if agreed else "-",
                f"{agreed.least:.4f}" if agreed else "-",
                f"{agreed.equal} of {way.images}" if agreed else "-",
            ]
        )
    return [
        *text.table(rows, right=frozenset(range(1, 9))),
        *[f"  {way.name}: {way.what}" for way in report.ways],
        f"  masks are held against those of c; the process took {text.size(report.process_memory)} of memory "
        "at most",
    ]


def _parts(report: BenchReport) -> list[str]:
    """A row a part, an image: by the clock, but on a CPU of processor time."""
    cpu = report.device == "cpu"
    title = "ms of processor time an image" if cpu else "ms an image"
    rows = [(f"{title}, parts in turn", *(way.name for way in report.ways))]
    for part in PARTS:
        spent = [(way.processor_parts if cpu else way.parts)[part] / way.images for way in report.ways]
        rows.append((part, *(f"{1000 * each:,.2f}" for each in spent)))
    return text.table(rows, right=frozenset(range(1, len(report.ways) + 1)))


def _limit(report: BenchReport) -> list[str]:
    work, machine, limit = report.work, report.machine, report.limit
    return [
        f"limit: {text.rate(limit.serial)} serial, {text.rate(limit.overlapped)} with decoding overlapped",
        f"  GFLOP: Florence-2's encoders {work.florence / 1e9:,.2f} an image, SAM's {work.sam / 1e9:,.2f}, "
        f"its decoder {work.mask / 1e9:,.2f} a prompt; a token {work.token / 1e9:,.3f}",
        f"  a decoding step reads {text.size(work.weights)} of weights and {text.size(work.cached)} "
        f"an answer, {report.slots} in flight",
        f"  the device: {machine.flops / 1e12:,.3f} TFLOP/s of matrix products, "
        f"{text.size(machine.bandwidth)}/s copied",
        f"  ms an image: encoders {1000 * limit.encoders:,.2f}, masks {1000 * limit.masks:,.3f}, "
        f"decoding {1000 * limit.decoding:,.2f}",
    ]


def _overhead(report: BenchReport) -> list[str]:
    found = report.overhead
    if found is None:
        return ["overhead: not measured"]
    return [
        f"overhead: plan to shard {found.pipeline:.3f} s, the models' forward passes alone "
        f"{found.forwards:.3f} s: {found.ratio:.2f} x",
        f"  of processor time: {found.pipeline_processor:.3f} s, {found.forwards_processor:.3f} s: "
        f"{found.processor_ratio:.2f} x",
    ]


def _ratio(number: float | None, base: float | None) -> float | None:
    return number / base if number is not None and base else None


def _figure(number: float | None) -> str:
    return "-" if number is None else f"{number:,.2f}"
