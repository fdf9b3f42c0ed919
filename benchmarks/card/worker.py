"""A worker from the plan to the committed shard, with the shipped settings."""

from statistics import mean

import torch

from card.grounded import job
from card.part import Setting, Step
from card.record import Record
from maskgen.bench.part_times import part_times
from maskgen.runtime.clock import clocks


def shards(setting: Setting, record: Record) -> None:
    """Images a second, first with cold caches and then warm, each part's time, and memory chunk by chunk."""
    images = 24 if setting.small else 320
    with job(setting, images) as made:
        record.table("settings", [made.words])
        memory = _watch_memory(made.pipeline.grounder, setting.device)
        for name in ("cold", "warm") if setting.small else ("cold", "warm", "warm again"):
            began, idle = clocks()
            made.pipeline.run()
            took, used = clocks()
            record.figure(f"{name}: images a second", images / (took - began), "images/s")
            record.figure(f"{name}: processor time an image", 1e3 * (used - idle) / images, "ms")
            if not setting.small and setting.left < 1.3 * (took - began):
                break
        if setting.left > 1.5 * (took - began):
            times = part_times(made.pipeline.watch, setting.device)
            for part, spent in times.seconds.items():
                record.figure(f"one thing after the other: {part}, an image", 1e3 * spent / images, "ms")
        answers = made.pipeline.answers()
        record.figure("tokens an answer, mean", mean(answers.tokens), "tokens")
        empty = sum(not mask.any() for mask in answers.masks)
        # The small model draws less well.
        record.check(
            "images have masks",
            empty <= images * (0.3 if setting.small else 0.02),
            f"{images - empty} of {images}",
        )
        if memory:
            record.table(
                "memory after each chunk: allocated, reserved, at most (GB)",
                [f"{one / 1e9:7.2f} {two / 1e9:7.2f} {three / 1e9:7.2f}" for one, two, three in memory],
            )
            record.figure("memory reserved after the first chunk", memory[0][1] / 1e9, "GB")
            record.figure("memory reserved after the last chunk", memory[-1][1] / 1e9, "GB")
            record.figure("memory allocated at most", memory[-1][2] / 1e9, "GB")


def _watch_memory(grounder: object, device: torch.device) -> list[tuple[int, int, int]]:
    """Bytes allocated, reserved, and allocated at most, after each chunk that was proposed for."""
    found: list[tuple[int, int, int]] = []
    propose = grounder.propose  # type: ignore[attr-defined]

    def watched(works: object) -> None:
        propose(works)
        if device.type == "cuda":
            found.append(
                (
                    torch.cuda.memory_allocated(device),
                    torch.cuda.memory_reserved(device),
                    torch.cuda.max_memory_allocated(device),
                )
            )

    grounder.propose = watched  # type: ignore[attr-defined]
    return found


STEPS: list[Step] = [shards]
