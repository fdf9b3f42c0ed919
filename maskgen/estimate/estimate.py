"""`maskgen plan`: what a run would read, make and cost, without making it."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskgen.config import Config
from maskgen.estimate import driver_ceiling
from maskgen.estimate.pilot import Pilot, run_pilot
from maskgen.estimate.preview import AskedText, Opened, asked_texts, open_planned
from maskgen.estimate.scaling import PlannedWork, RunTime, run_time_on
from maskgen.grounding.auto_settings import on_this_machine
from maskgen.pipeline.progress import progress_bar
from maskgen.pipeline.recorded_names import compare_recorded
from maskgen.runtime.store import Store
from maskgen.sources.data_root import ensure
from maskgen.sources.plan import PlanSummary, estimate_bytes, make_plan

_MASK_BYTES = 4096  # text, json, mask and tar headers of a sample, beside its image


@dataclass(frozen=True)
class Estimate:
    """The plan's summary, the disk its shards will take, and, if a pilot was flown, what it measured, the
    shards an hour that one driver can hand out, and the times on each number of GPUs asked about. `resolved`:
    what this machine makes of settings that are `auto`; empty where none is. `opened`: planned images that
    were opened. `texts`: what would be asked."""

    plan: PlanSummary
    disk_bytes: int
    pilot: Pilot | None = None
    work: PlannedWork | None = None
    times: tuple[RunTime, ...] = ()
    resolved: str = ""
    opened: Opened = field(default_factory=Opened)
    texts: tuple[AskedText, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"plan": self.plan.to_dict(), "disk_bytes": self.disk_bytes}
        tree["resolved"] = self.resolved
        tree["opened"] = asdict(self.opened)
        tree["texts"] = [asdict(text) for text in self.texts]
        if self.pilot and self.work:
            tree["pilot"] = {**asdict(self.pilot), "rate": self.pilot.rate}
            tree["gpu_hours"] = self.plan.planned / self.pilot.rate / 3600
            tree["driver_shards_an_hour"] = self.work.ceiling
            tree["times"] = [asdict(time) for time in self.times]
        return tree


def estimate(
    config: Config,
    data: str,
    pilot: int,
    gpus: Sequence[int],
    say: Callable[[str], None],
    kept: Store | None = None,
    texts: int = 0,
) -> Estimate:
    """Plan into a temporary folder; with `pilot` > 0 also ground that many rows, and reckon the times.

    `kept`: where what is known of .tar.gz archives stays for the run. Some planned images are opened as a
    worker opens them; `texts`: how many queries to tell.
    """
    ensure(config, data, say)
    with tempfile.TemporaryDirectory(prefix="maskgen-plan-") as folder:
        path = Path(folder) / "plan.parquet"
        with progress_bar("planning", "rows") as count:
            plan = make_plan(config, data, path, count, kept, say)
        plan.notes.extend(compare_recorded(config, data, path))
        disk = estimate_bytes(config, data, path) + plan.groundable * _MASK_BYTES
        opened = open_planned(config, data, path, kept)
        asked = tuple(asked_texts(config.text, path, texts))
    resolved = on_this_machine(config)
    if not pilot or not plan.planned:
        return Estimate(plan, disk, resolved=resolved, opened=opened, texts=asked)
    flown = run_pilot(config, data, min(pilot, plan.planned), say, kept)
    say("pilot: measuring what one driver can hand out")
    work = PlannedWork(
        plan.planned, config.shards.size, flown.rate, flown.loading_seconds, driver_ceiling.measure(config)
    )
    times = tuple(run_time_on(count, work) for count in gpus)
    return Estimate(plan, disk, flown, work, times, resolved, opened, asked)
