"""The loop behind every small model: seeded, resumable, with a curve on disk and averaged weights."""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, torch.Tensor]
Losses = dict[str, torch.Tensor]
Learner = TypeVar("Learner", bound=nn.Module)


def argument_parser(description: str | None, steps: int, unit: str, rate: float) -> argparse.ArgumentParser:
    """What every training's command takes; `steps` steps of `unit` at `rate` unless told otherwise."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder for state, curve and model")
    parser.add_argument("--steps", type=int, default=steps, help=f"of {unit}")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument("--rate", type=float, default=rate, help="learning rate")
    return parser


def pretrain(
    out: Path,
    learner: Learner,
    batches: Dataset[Batch],
    measure: Callable[[Learner], dict[str, float]],
    steps: int,
    rate: float,
    measure_every: int = 250,
    warmup: int = 400,
) -> Learner:
    """Train `learner` for `steps` steps in all and return a copy of it with averaged weights.

    `batches[step]` is a step's batch, and `learner(batch)` its losses, whose sum is minimised. The rate
    warms up over `warmup` steps, stays, and falls to zero over the last quarter. State goes to
    `out/state.pt` at every measurement, so the same call after an interruption goes on from there;
    `out/curve.jsonl` gets a line of losses and of `measure(average)` at each.
    """
    out.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(learner).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(_parameter_groups(learner), lr=rate, betas=(0.9, 0.98))
    first, seconds = _resume(out, learner, average, optimizer)
    sums: dict[str, float] = {}
    since = 0
    started = time.monotonic()
    loader = DataLoader(batches, None, sampler=range(first, steps), num_workers=1)
    for step, batch in enumerate(loader, start=first):
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(step, steps, warmup)
        parts: Losses = learner(batch)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _update_average(average, learner, min(0.998, (step + 1) / (step + 10)))
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        done, since = step + 1, since + 1
        if done % measure_every == 0 or done == steps:
            elapsed = seconds + time.monotonic() - started
            line = {"step": done, "minutes": round(elapsed / 60, 2)}
            line |= {name: round(total / since, 4) for name, total in sums.items()}
            line |= {name: round(value, 4) for name, value in measure(average).items()}
            sums, since = {}, 0
            _save(out, learner, average, optimizer, done, elapsed)
            with (out / "curve.jsonl").open("a") as curve:
                curve.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    return average


def _parameter_groups(learner: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for norms, biases and embeddings."""
    matrices = {
        id(module.weight)
        for module in learner.modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    }
    matrices -= {id(module.weight) for module in learner.modules() if isinstance(module, nn.Embedding)}
    parameters = [p for p in learner.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": 0.02},
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]


def _schedule(step: int, steps: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup, max(0.01, (steps - step) / (0.25 * steps)))


@torch.no_grad()
def _update_average(average: nn.Module, learner: nn.Module, keep: float) -> None:
    for mine, theirs in zip(average.parameters(), learner.parameters(), strict=True):
        mine.lerp_(theirs, 1 - keep)


def _resume(
    out: Path, learner: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Steps and seconds already spent, after loading what an earlier call left in `out`."""
    path = out / "state.pt"
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    learner.load_state_dict(state["learner"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def _save(
    out: Path,
    learner: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    state = {
        "learner": learner.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, out / "state.pt.part")
    (out / "state.pt.part").replace(out / "state.pt")
