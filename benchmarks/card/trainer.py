"""Real steps of the trainer's stages, at the largest micro-batch that fits."""

from typing import Any

from card.learning import chosen, small_config
from card.part import Setting, Step
from card.record import Record
from maskgen.age_vlm.registry import paper_config
from maskgen.training.step_benchmark import Measured, attempt, fitting, stages

STEPS_TIMED = 4
MOST = 128  # samples a micro-batch


def _stage(wanted: str) -> Step:
    def step(setting: Setting, record: Record) -> None:
        recipe = chosen(not setting.small)
        stage = dict(stages(recipe))[wanted]
        config: Any = small_config() if setting.small else paper_config("age_vlm")
        given = wanted, stage, config, setting.device, STEPS_TIMED
        found = fitting(recipe, *given)
        _say(record, found)
        samples = 2 * found.micro_batch
        while recipe.resources.micro_batch < samples <= (4 if setting.small else MOST):
            larger = attempt(recipe, *given, samples)
            if larger is None or setting.left < 5:
                break
            _say(record, larger)
            samples *= 2

    step.__name__ = f"stage_{wanted.replace(' ', '_')}"
    return step


def _say(record: Record, found: Measured) -> None:
    name = f"stage {found.stage}, micro-batch {found.micro_batch}"
    if found.samples_per_second is None or found.flops_per_second is None:
        record.check(f"stage {found.stage}: one sample fits", False, "out of memory")
        return
    share = "" if found.mfu is None else f"MFU {found.mfu:.1%}"
    record.figure(f"{name}: samples a second", found.samples_per_second, "samples/s", share)
    record.figure(f"{name}: counted work", found.flops_per_second / 1e12, "TFLOP/s")
    if found.memory:
        record.figure(f"{name}: peak memory", found.memory / 1e9, "GB")


STEPS: list[Step] = [_stage(name) for name in ("4", "3", "3 without guidance", "1")]
