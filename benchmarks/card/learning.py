"""The trainer on the device: attention maps against attention written out, and a step against the CPU's."""

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from card.numerics import error, in_full_precision
from card.record import Record
from maskgen.age_vlm.cross_attention import CrossAttention, QuerySelection, split_heads
from maskgen.age_vlm.registry import model_class, paper_config
from maskgen.training import recipe
from maskgen.training.data_loader import MicroBatch
from maskgen.training.loop import accumulate, count_losses
from maskgen.training.recipe import Recipe
from maskgen.training.step_benchmark import drawn, stage_run


def small_config(kind: str = "age_vlm") -> Any:
    """A model of seconds, of the full one's make."""
    return model_class(kind).config_class(
        text_config={
            "vocab_size": 300,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "tie_word_embeddings": True,
        },
        vision_config={"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1], "patch_size": 2},
        image_size=64,
        **({"slots": [1, 3]} if kind == "age_vlm" else {}),
    )


def chosen(large: bool, *overrides: str) -> Recipe:
    """AGE-VLM's recipe, for the small model with small pictures and texts."""
    sizes = [] if large else [f"stages.{number}.size=64" for number in range(1, 5)]
    small = [] if large else ["data.expected_tokens=24", "resources.micro_batch=4"]
    return recipe.load("age-vlm", [*sizes, *small, *overrides])


def model(large: bool, device: torch.device) -> Any:
    """Random weights, the new layers' last projections too, which start at zero and would hide the rest."""
    torch.manual_seed(0)
    with torch.device(device):
        made = model_class("age_vlm")(paper_config("age_vlm") if large else small_config())
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "model.cross" in name and name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.normal_(0, 0.02)
            if "layer_scale" in name:
                weight.fill_(0.1)
    return made.to(device).eval()


@torch.no_grad()
def guidance_maps(large: bool, device: torch.device, record: Record) -> None:
    """A_l^q of every layer against the softmax written out in float64, from the same queries and keys."""
    settings = chosen(large)
    stage = settings.stages["3"]
    with in_full_precision():
        made = model(large, device)
        batch = drawn(settings, stage, made.config, 2).to(device)
        for name, half in (("float32", False), ("bfloat16", True)):
            with _asked(made) as seen, torch.autocast(device.type, torch.bfloat16, enabled=half):
                output = made(
                    input_ids=batch.input_ids,
                    pixel_values=batch.pixels.permute(0, 3, 1, 2).float() / 255,
                    query_mask=batch.query_mask,
                    guided=batch.guided,
                    use_cache=False,
                )
            selection = QuerySelection(batch.query_mask, batch.guided)
            expected = torch.stack([_written_out(query, key, selection) for query, key in seen])
            off = error(output.guidance_maps, expected)
            record.figure(f"{name}: guidance maps, error", off, "")
            record.check(f"{name}: guidance maps", off < 1e-4, f"off by {off:.1e}, {len(seen)} layers")


@contextmanager
def _asked(made: Any) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Queries, (B, heads, T, d), and keys, (B, heads, N, d), of each cross-attention that runs inside."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(module: CrossAttention, given: tuple[Any, ...], _: object) -> None:
        hidden, key = given[:2]
        query = split_heads(module.q_proj(hidden), module.head_dim)
        seen.append((query, key.repeat_interleave(module.groups, dim=1)))

    layers = [layer for layer in made.modules() if isinstance(layer, CrossAttention)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _written_out(query: torch.Tensor, key: torch.Tensor, selection: QuerySelection) -> torch.Tensor:
    """Softmax of all products, (B, heads, T, N), then its mean over heads and asked tokens: (G, N)."""
    scores = query.double() @ key.double().transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1).mean(dim=1)
    chosen_tokens = zip(selection.rows.tolist(), selection.positions, selection.valid, strict=True)
    rows = [weights[row, tokens[valid]].mean(dim=0) for row, tokens, valid in chosen_tokens]
    return torch.stack(rows)


def training_step(large: bool, device: torch.device, record: Record) -> None:
    """Losses and gradients of a step with guidance, against float32 on the CPU."""
    cpu = torch.device("cpu")
    with in_full_precision():
        made = model(large, device)
        reference = _gradients(copy.deepcopy(made).to(cpu), large, cpu, "fp32")
        for precision in ("fp32", "bf16"):
            found = _gradients(copy.deepcopy(made) if not large else made, large, device, precision)
            _close(precision, found, reference, record)


def _gradients(made: Any, large: bool, device: torch.device, precision: str) -> dict[str, torch.Tensor]:
    """The step's two losses and the gradients of all that trains, on the CPU, by name."""
    settings = chosen(large, f"precision={precision}", "data.expected_tokens=32")
    stage = settings.stages["3"]
    run = stage_run(settings, stage, made, device, 10)
    micro = MicroBatch.of(drawn(settings, stage, made.config, 1 if large else 4))
    counts = count_losses(stage, [micro])
    made.zero_grad(set_to_none=True)
    (losses,) = accumulate(run, [dataclasses.replace(micro, batch=micro.batch.to(device))], counts)
    found = {"lm": losses.lm.cpu(), "guidance": losses.guidance.cpu()}
    return found | {
        name: weight.grad.cpu() for name, weight in made.named_parameters() if weight.grad is not None
    }


def _close(
    precision: str, found: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], record: Record
) -> None:
    for loss in ("lm", "guidance"):
        off = error(found.pop(loss), reference[loss])
        record.figure(f"{precision} step: {loss} loss, error", off, "")
        record.check(
            f"{precision} step: {loss} loss", off < (1e-3 if precision == "fp32" else 2e-2), f"{off:.1e}"
        )
    names = sorted(found)
    record.check(
        f"{precision} step: the same tensors have gradients",
        names == sorted(set(reference) - {"lm", "guidance"}),
    )
    ours, theirs = (torch.cat([each[name].flatten() for name in names]) for each in (found, reference))
    off = error(ours, theirs)
    record.figure(f"{precision} step: gradient, error", off, "", f"{len(names)} tensors")
    record.check(
        f"{precision} step: gradient", off < (1e-3 if precision == "fp32" else 0.1), f"off by {off:.1e}"
    )
