"""`maskgen status` on a folder of `maskgen train`: from its files alone, also while it trains."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskgen.draw import text
from maskgen.training.metrics import read_lines
from maskgen.training.trainer import METRICS, stage_record

_RECENT = 50  # steps that speed, losses and data wait are means of


@dataclass(frozen=True)
class StageProgress:
    """`step`: steps taken, of `steps`, which is None where the record of an earlier version does not say."""

    stage: int
    step: int
    steps: int | None
    finished: bool


@dataclass(frozen=True)
class TrainingStatus:
    """One run. `losses`, `step_seconds` and `data_wait` (a share of the time) are means of the last steps;
    `eta`: seconds that all stages still take at their pace, None if unknown."""

    out: str
    recipe: str
    stages: list[StageProgress]
    losses: dict[str, float]
    step_seconds: float | None
    data_wait: float | None
    eta: float | None
    checkpoints: list[str]
    running: bool

    @property
    def advice(self) -> str:
        """What to do next, in one line."""
        if self.running:
            return "nothing to do: it trains."
        if all(stage.finished for stage in self.stages):
            return f"finished: maskgen curves {self.out}; the model is {self.out}/model."
        return "run the same maskgen train line: it goes on from the last checkpoint."

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {**asdict(self), "advice": self.advice}

    def render(self) -> str:
        """For a person."""
        rows = [("training", self.recipe), ("state", "running" if self.running else "not running")]
        for stage in self.stages:
            rows.append((f"stage {stage.stage}", _stage_line(stage)))
        if self.losses:
            rows.append(("losses", ", ".join(f"{name} {value:.4f}" for name, value in self.losses.items())))
        if self.step_seconds is not None:
            waiting = text.share(self.data_wait or 0, 1)
            speed = f"{self.step_seconds:.3f} s a step, {waiting} of it waiting for data"
            eta = f"; about {text.duration(self.eta)} left" if self.eta else ""
            rows.append(("speed", speed + eta))
        if self.checkpoints:
            rows.append(("kept", ", ".join(self.checkpoints)))
        rows.append(("next", self.advice))
        return "\n".join(text.printable(f"{label:<10}{line}") for label, line in rows)


def training_status(out: str, record: dict[str, Any], running: bool) -> TrainingStatus:
    """The status of the run in `out`, whose run.json is `record`."""
    folder = Path(out)
    lines = read_lines(folder / METRICS) if (folder / METRICS).is_file() else []
    recipe, first = record["identity"]["recipe"], record["identity"]["first_stage"]
    planned = record.get("steps", {})
    stages = []
    for number in (int(name) for name in recipe["stages"] if int(name) >= first):
        ended = stage_record(folder, number)
        step = max((line["step"] + 1 for line in lines if line["stage"] == number), default=0)
        steps = ended["steps"] if ended else planned.get(str(number))
        stages.append(StageProgress(number, steps if ended else step, steps, ended is not None))
    recent = [line for line in lines[-_RECENT:] if line["stage"] == lines[-1]["stage"]]
    left = [stage.steps - stage.step if stage.steps is not None else None for stage in stages]
    seconds = _mean(recent, "seconds")
    known = seconds is not None and None not in left
    return TrainingStatus(
        out=out,
        recipe=recipe["recipe"],
        stages=stages,
        losses={
            name: value
            for name in ("loss", "lm", "guidance_above_floor")
            if (value := _mean(recent, name)) is not None
        },
        step_seconds=seconds,
        data_wait=_mean(recent, "data_wait"),
        eta=seconds * sum(each for each in left if each) if known and seconds is not None else None,
        checkpoints=sorted(
            (path.name for path in folder.glob("checkpoints/stage-*-step-*")),
            key=lambda name: [int(number) for number in re.findall(r"\d+", name)],
        ),
        running=running,
    )


def _stage_line(stage: StageProgress) -> str:
    if stage.finished:
        return f"finished, {stage.step:,} steps"
    total = (
        "" if stage.steps is None else f" of {stage.steps:,} ({text.share(stage.step, max(1, stage.steps))})"
    )
    return f"step {stage.step:,}{total}" if stage.step else f"not begun{total and f', {stage.steps:,} steps'}"


def _mean(lines: list[dict[str, Any]], name: str) -> float | None:
    values = [line[name] for line in lines if line.get(name) is not None]
    return sum(values) / len(values) if values else None
