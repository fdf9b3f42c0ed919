"""`maskgen plan`: what a run would read, make and cost, without making it."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskgen.config import Config
from maskgen.running.pilot import Pilot, fly
from maskgen.running.progress import counting
from maskgen.running.source import ensure
from maskgen.sources.plan import PlanSummary, estimate_bytes, make_plan

_MASK_BYTES = 4096  # text, json, mask and tar headers of a sample, beside its image


@dataclass(frozen=True)
class Estimate:
    """The plan's summary, the disk its shards will take, and what a pilot measured."""

    plan: PlanSummary
    disk_bytes: int
    pilot: Pilot | None

    def to_dict(self) -> dict[str, Any]:
        tree: dict[str, Any] = {"plan": self.plan.to_dict(), "disk_bytes": self.disk_bytes}
        if self.pilot:
            tree["pilot"] = {**asdict(self.pilot), "rate": self.pilot.rate}
            tree["gpu_hours"] = self.pilot.hours(self.plan.planned)
        return tree


def estimate(config: Config, data: str, pilot: int, say: Callable[[str], None]) -> Estimate:
    """Plan into a temporary folder; with `pilot` > 0 also ground that many rows."""
    ensure(config, data, say)
    with tempfile.TemporaryDirectory(prefix="maskgen-plan-") as folder:
        path = Path(folder) / "plan.parquet"
        with counting("planning", "rows") as count:
            plan = make_plan(config, data, path, count)
        images = estimate_bytes(config, data, path)
    flown = fly(config, data, min(pilot, plan.planned), say) if pilot and plan.planned else None
    return Estimate(plan, images + plan.groundable * _MASK_BYTES, flown)
