"""What grounding and training would take on a card that is not here: the real code, costed operation by
operation.

    python benchmarks/roofline.py
    python benchmarks/roofline.py --part sam --part decode --largest 10

Florence-2-large, SAM ViT-H and AGE-VLM of full size run on tensors without values (`maskgen/roofline.py`), in
bfloat16, on the ceilings of an H100 that are printed first. Figures are good to some 30 %; what a change does
to them is better known than they are.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything import sam_model_registry
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Florence2ForConditionalGeneration

from maskgen.age_vlm.meta_model import meta_model
from maskgen.age_vlm.registry import paper_config
from maskgen.bench.random_checkpoints import LARGE, LARGE_ROWS
from maskgen.draw import text
from maskgen.grounding.fast import sam_forward
from maskgen.grounding.fast.beam_search import BeamSearch
from maskgen.grounding.fast.decode_step import step
from maskgen.grounding.fast.decoder import Decoder
from maskgen.grounding.fast.decoder_weights import DecoderWeights
from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.slot_attention import Attend
from maskgen.roofline import Ceilings, Cost, Roofline, saved_for_backward, total
from maskgen.small_models import small_florence2
from maskgen.training import recipe as recipes
from maskgen.training.cost import Polynomial, SampleFlops
from maskgen.training.data_loader import MicroBatch
from maskgen.training.loop import count_losses, model_output, weighed_loss
from maskgen.training.losses import compute_losses
from maskgen.training.metrics import PEAK_FLOPS
from maskgen.training.optimizer import clip_gradients
from maskgen.training.step_benchmark import drawn, stage_run

MEAN_PLACE, MEAN_PROMPT = 92, 592  # where an answer of 150 tokens stands on average while it is written
SLOTS_AND_PLACES = ((32, 512), (64, 512), (128, 512))
BEAMS, ANSWER, PROMPT = 3, 1040, 608  # beams, places of an answer, tokens of a prompt (577 of them image)
HALF = torch.bfloat16
CPU = torch.device("cpu")
NOTHING = Polynomial((0.0, 0.0, 0.0))
UNCOUNTED = SampleFlops(NOTHING, NOTHING, NOTHING, 0.0)  # each operation is counted as it runs


@dataclass(frozen=True)
class Line:
    """A row of the budget: what `items` images or samples cost; `saved`: bytes kept for the backward."""

    name: str
    items: int
    roofline: Roofline
    parts: tuple[str, ...] = ("",)
    saved: int | None = None

    @property
    def cost(self) -> Cost:
        return total(self.roofline.cost(part) for part in self.parts)


@contextmanager
def _without_values(model: nn.Module, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Inside, the model on meta is one on a CPU, without values and in `dtype`; tied weights stay tied."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        made: dict[torch.Tensor, torch.Tensor] = {}
        for module in model.modules():
            for held in (module._parameters, module._buffers):  # noqa: SLF001
                for name, tensor in held.items():
                    if tensor is None:
                        continue
                    kind = dtype if tensor.is_floating_point() else tensor.dtype
                    if tensor not in made:
                        empty = torch.empty(tensor.shape, dtype=kind)
                        wanted = tensor.requires_grad
                        made[tensor] = nn.Parameter(empty, wanted) if held is module._parameters else empty  # noqa: SLF001
                    held[name] = made[tensor]  # type: ignore[assignment]
        yield


def florence2() -> Any:
    """Florence-2-large on meta."""
    with torch.device("meta"):
        config = small_florence2.florence2_config(LARGE, LARGE_ROWS, LARGE_ROWS - 1)
        return Florence2ForConditionalGeneration(config).eval().requires_grad_(False)


def encoders(batch: int = 16) -> list[Line]:
    """DaViT with its projector, BART's encoder, and the keys and values for the decoder."""
    model = florence2()
    davit, bart = Roofline(), Roofline()
    with _without_values(model, HALF), torch.no_grad():
        pixels = torch.empty(batch, 3, LARGE.image, LARGE.image, dtype=HALF)
        embedded = torch.empty(batch, PROMPT, LARGE.width, dtype=HALF)
        mask = torch.ones(batch, 1, PROMPT, PROMPT, dtype=torch.bool)
        weights = DecoderWeights.of(model, HALF)
        with davit:
            model.model.multi_modal_projector(model.model.vision_tower(pixels).last_hidden_state)
        with bart:
            states = model.model.language_model.encoder(inputs_embeds=embedded, attention_mask=mask)
            weights.cross_keys_values(states.last_hidden_state)
    return [
        Line(f"DaViT and projector, batch {batch}", batch, davit),
        Line(f"BART's encoder and keys, batch {batch}", batch, bart),
    ]


def decode_steps(sizes: tuple[tuple[int, int], ...] = SLOTS_AND_PLACES, own: bool = True) -> list[Line]:
    """A step of the decoder, by slots and places looked back on: ms are a token of every slot's.

    `own`: by the kernel that reads each slot's own keys, MEAN_PLACE of them on average; else all read the
    bucket's, which the furthest sets.
    """
    model, found = florence2(), []
    rules = GenerationRules(
        beams=BEAMS,
        max_length=ANSWER - 15,
        no_repeat_ngram=3,
        start=2,
        pad=1,
        forced_bos=(0,),
        forced_eos=(2,),
        eos=(2,),
        early_stopping=True,
        length_penalty=1.0,
    )
    with _without_values(model, HALF), torch.no_grad():
        weights = DecoderWeights.of(model, HALF)
        most = max(slots for slots, _ in sizes)
        search = BeamSearch(rules, most, len(weights.token_embedding), CPU)
        for slots, length in sizes:
            roofline = Roofline()
            attend = _by_lengths(roofline) if own else None
            decoder = Decoder(weights, most, BEAMS, ANSWER, PROMPT, attend)
            bound = decoder.first(slots, length), search.first(slots, length)
            with roofline:
                step(*bound)
            kind = "each slot's own" if own else "all of them"
            found.append(Line(f"decoding step, {slots} slots x {length} places, {kind}", slots, roofline))
    return found


def _by_lengths(roofline: Roofline) -> Attend:
    """The attention of a GPU, whose lengths are values: costed by what it reads on average."""

    def attend(
        query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor, _: torch.Tensor
    ) -> torch.Tensor:
        slots, heads, beams, d = query.shape
        count = MEAN_PROMPT if keys.shape[2] == PROMPT else min(keys.shape[2], MEAN_PLACE * BEAMS)
        moved = slots * (2 * heads * count * d + bias.shape[2] * count + 2 * heads * beams * d) * 2.0
        flops = 4.0 * slots * heads * beams * count * d
        # As other attentions' keys, at two thirds of the memory's rate.
        seconds = max(moved / roofline.ceilings.bandwidth / 0.65, 6e-6)
        roofline.add("attention, own lengths", Cost(seconds, flops, moved, 1))
        with roofline.paused():
            return query.new_empty(slots, beams, heads, d).transpose(1, 2)

    return attend


def sam(batch: int = 8) -> list[Line]:
    """SAM ViT-H's image encoder, and prompts to masks of a box an image."""
    with torch.device("meta"):
        model = sam_model_registry["vit_h"]().eval().requires_grad_(False)
    encoder, masks = Roofline(), Roofline()
    with _without_values(model), _without_values(model.image_encoder, HALF), torch.no_grad():
        run = sam_forward.ImageEncoder(model.image_encoder)
        pixels = torch.empty(batch, 3, 1024, 1024, dtype=HALF)
        with encoder:
            embeddings = run(pixels).float()
        with masks:
            for _ in range(batch):
                sparse, dense = model.prompt_encoder(points=None, boxes=torch.empty(1, 4), masks=None)
            dense_pe = model.prompt_encoder.get_dense_pe()
            found, _ = sam_forward.decode(
                model.mask_decoder,
                embeddings,
                torch.zeros(batch, dtype=torch.long),
                dense_pe,
                sparse.expand(batch, -1, -1),
                dense.expand(batch, -1, -1, -1),
            )
            model.postprocess_masks(found[:, :1], (768, 1024), (480, 640))
    return [
        Line(f"SAM ViT-H's encoder, batch {batch}", batch, encoder),
        Line(f"prompts and masks, batch {batch}", batch, masks),
    ]


PARTS = ("forward", "loss", "backward", "optimiser")


def training(number: str, samples: int = 16, tokens: int = 256, *overrides: str) -> Line:
    """A step of AGE-VLM's stage, of one micro-batch. Stage 2 is the third without guidance."""
    recipe = recipes.load("age-vlm", [f"data.expected_tokens={tokens}", *overrides])
    stage = recipe.stages[number]
    config = paper_config("age_vlm")
    config.image_size = stage.size
    model = meta_model(config)
    micro = MicroBatch.of(drawn(recipe, stage, config, samples))
    roofline = Roofline()
    with _without_values(model):
        run = stage_run(recipe, stage, model, CPU, 10, UNCOUNTED)
        batch = micro.batch.map(torch.empty_like)
        counts = count_losses(stage, [micro])
        called = run.parallel_model.model
        with saved_for_backward(called.parameters()) as saved, roofline:
            with roofline.part("forward"):
                output = model_output(run, batch)
            with roofline.part("loss"):
                losses = compute_losses(output, batch, recipe.guidance.normalise)
                loss = weighed_loss(run, losses, counts)
        with roofline:
            with roofline.part("backward"), run.parallel_model.gradient_sync(last=True):
                loss.backward()
            with roofline.paused():  # the first step makes the moments, which no other does
                run.optimizer.step()
            with roofline.part("optimiser"):
                clip_gradients([p for p in model.parameters() if p.requires_grad], 1.0)
                run.optimizer.step()
                run.parallel_model.update()
    return Line(
        f"stage {number}, micro-batch {samples}, {tokens} tokens",
        samples,
        roofline,
        PARTS,
        sum(saved.values()),
    )


def main() -> None:
    """Count and print."""
    parts: dict[str, Callable[[], list[Line]]] = {
        "encoders": encoders,
        "decode": lambda: [*decode_steps(own=False), *decode_steps()],
        "sam": sam,
        "training": lambda: [training(number) for number in ("1", "3", "4")],
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=list(parts), help="default: all of them")
    parser.add_argument("--largest", type=int, default=10, help="operations listed of each row")
    options = parser.parse_args()
    print(f"ceilings: {Ceilings()}")
    for name in options.part or list(parts):
        lines = parts[name]()
        print("\n".join(["", *(training_table(lines) if name == "training" else table(lines))]))
        for line in lines[-1:] if name in ("decode", "training") else lines:
            print("\n".join(largest(line, options.largest)))


def table(lines: list[Line]) -> list[str]:
    """A row a part of grounding."""
    rows = [("", "ms", "ms an item", "GFLOP an item", "GB an item", "launches", "of the products' rate")]
    for line in lines:
        cost, items = line.cost, line.items
        rows.append(
            (
                line.name,
                f"{1e3 * cost.seconds:.2f}",
                f"{1e3 * cost.seconds / items:.3f}",
                f"{cost.flops / items / 1e9:,.0f}",
                f"{cost.bytes / items / 1e9:.2f}",
                f"{cost.launches:,}",
                f"{cost.flops / cost.seconds / Ceilings().half:.0%}",
            )
        )
    return text.table(rows, right=frozenset(range(1, 7)))


def training_table(lines: list[Line]) -> list[str]:
    """A row a stage: ms a sample by part of the step, and what that makes."""
    head = ("", *PARTS, "all", "samples/s", "MFU", "launches", "saved, GB")
    rows = [tuple(f"{name}, ms" if name in (*PARTS, "all") else name for name in head)]
    for line in lines:
        cost = line.cost
        seconds = [line.roofline.cost(part).seconds for part in PARTS]
        rows.append(
            (
                line.name,
                *(f"{1e3 * each / line.items:.2f}" for each in (*seconds, cost.seconds)),
                f"{line.items / cost.seconds:.0f}",
                f"{cost.flops / cost.seconds / PEAK_FLOPS['H100']:.1%}",
                f"{cost.launches:,}",
                f"{(line.saved or 0) / 1e9:.1f}",
            )
        )
    return text.table(rows, right=frozenset(range(1, len(head))))


def largest(line: Line, count: int) -> list[str]:
    """The operations that take most of a row."""
    rows = [("  operation", "ms an item", "share", "launches")]
    for name, cost in line.roofline.largest(count, line.parts):
        share = cost.seconds / line.cost.seconds
        rows.append(
            (f"  {name}", f"{1e3 * cost.seconds / line.items:.3f}", f"{share:.0%}", f"{cost.launches:,}")
        )
    return [f"{line.name}, the largest:", *text.table(rows, right=frozenset({1, 2, 3}))]


if __name__ == "__main__":
    main()
