"""Probes of the small ConvNeXt and LLaMA on held-out scenes: python -m maskgen.pretraining.probes."""

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from maskgen.age_vlm.chat import ChatTemplate
from maskgen.pretraining.train_convnext import CaptionPairs, cell_kinds, retrieval
from maskgen.pretraining.train_llama import batch_of, token_nll
from maskgen.sample import Turn
from maskgen.scenes import dialogues
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.shapes import COLOURS, SHAPES, SIZES
from maskgen.small_models import checkpoint, small_convnext
from maskgen.small_models.small_convnext import ContrastiveModel

CHOICES = 100  # pictures that a caption is retrieved from

# Slots of the templates' sentences: what a scene decides.
_SLOTS = {
    "size": "|".join(SIZES),
    "colour": "|".join(COLOURS),
    "shape": "|".join(f"{shape}(?:es|s)?" for shape in (*SHAPES, "thing")),
    "place": r"at the (?:top|bottom)? ?(?:left|right)?(?! of)|in the middle",
}
_SLOT = re.compile("|".join(rf"\b(?P<{name}>{words})(?!\w)" for name, words in _SLOTS.items()), re.IGNORECASE)

Exchange = tuple[str, str]


class Templates:
    """The generator's sentences with independent slots: the least perplexity that knowing the templates
    allows.

    An exchange's probability is that of its frame (question and answer with their slots emptied), times
    that of each slot's word at its place in that frame, as often as they come in `exchanges`. Ties between
    slots are not modelled, so its negative log-likelihood lies a little above the texts' true entropy.
    """

    def __init__(self, exchanges: Iterable[Exchange]):
        self._frames: Counter[str] = Counter()
        self._words: Counter[tuple[str, int, str]] = Counter()
        for exchange in exchanges:
            frame, words = _split_slots(exchange)
            self._frames[frame] += 1
            self._words.update((frame, place, word) for place, word in enumerate(words))

    def nll(self, exchange: Exchange) -> float:
        """Nats; what was never met counts as met half a time."""
        frame, words = _split_slots(exchange)
        count = self._frames[frame]
        nats = -math.log((count or 0.5) / self._frames.total())
        # A frame that was never met leaves its words to chance: about ten for each slot.
        return nats - sum(
            math.log((self._words[frame, place, word] or 0.5) / count if count else 0.1)
            for place, word in enumerate(words)
        )


def _split_slots(exchange: Exchange) -> tuple[str, list[str]]:
    text = "\n".join(exchange)
    words = [match.group().lower() for match in _SLOT.finditer(text)]
    return _SLOT.sub(lambda match: f"<{match.lastgroup}>", text), words


def first_exchanges(seeds: range) -> list[Exchange]:
    """The first question about each scene, and its answer."""
    found = [dialogues.dialogue(draw_scene(seed))[:2] for seed in seeds]
    return [(question.value, answer.value) for question, answer in found]


@torch.no_grad()
def perplexities(folder: Path, seeds: range, known: range) -> dict[str, float]:
    """Perplexity a token of first exchanges about the scenes of `seeds`: the LLaMA's and the `Templates`'.

    The templates' figure is the exponential of their negative log-likelihood spread over the same tokens;
    `known` are the scenes whose exchanges they were counted on.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    template = ChatTemplate(PreTrainedTokenizerFast.from_pretrained(folder))
    exchanges = first_exchanges(seeds)
    encoded = [
        template.encode([Turn("human", question), Turn("gpt", answer)]) for question, answer in exchanges
    ]
    nats, tokens, answer_nats, answer_tokens = 0.0, 0, 0.0, 0
    for begin in range(0, len(encoded), 100):
        batch = batch_of(encoded[begin : begin + 100], template.pad_id)
        each = token_nll(model, batch["tokens"], template.pad_id)
        answers = batch["answers"][:, 1:][(batch["tokens"] != template.pad_id)[:, 1:]]
        nats, tokens = nats + each.sum().item(), tokens + len(each)
        answer_nats += each[answers].sum().item()
        answer_tokens += int(answers.sum())
    templates = Templates(first_exchanges(known))
    expected = sum(templates.nll(exchange) for exchange in exchanges)
    return {
        "llama": math.exp(nats / tokens),
        "templates": math.exp(expected / tokens),
        "uniform": float(model.config.vocab_size),
        "answers": math.exp(answer_nats / answer_tokens),
    }


@torch.no_grad()
def linear_probe(contrast: ContrastiveModel, known: range, seeds: range) -> dict[str, float]:
    """How well a least-squares map, from the scenes of `known`, reads shape and colour off single cells.

    Shares of the cells that hold a thing in the scenes of `seeds`; `*_most` names the commonest always.
    """
    given, truth = _cells(contrast, known)
    shown, wanted = _cells(contrast, seeds)
    found: dict[str, float] = {}
    for number, (name, values) in enumerate((("shape", len(SHAPES)), ("colour", len(COLOURS)))):
        targets = F.one_hot(truth[:, number] - 1, values).float()
        solution = torch.linalg.lstsq(given, targets).solution
        found[name] = ((shown @ solution).argmax(dim=1) + 1 == wanted[:, number]).float().mean().item()
        found[f"{name}_most"] = (wanted[:, number] == truth[:, number].mode().values).float().mean().item()
    return found


def _cells(contrast: ContrastiveModel, seeds: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, channels + 1) and kinds (n, 2) of the cells that hold a thing."""
    rows, named = [], []
    for begin in range(seeds.start, seeds.stop, 50):
        scenes = [draw_scene(seed) for seed in range(begin, min(begin + 50, seeds.stop))]
        side = contrast.trunk.config.image_size
        features = contrast.feature_map(
            torch.stack([small_convnext.pixels(scene.pixels, side) for scene in scenes])
        )
        cells = F.layer_norm(features.permute(0, 2, 3, 1), features.shape[1:2]).flatten(0, 2)
        kinds = torch.from_numpy(np.stack([cell_kinds(scene, features.shape[-1]) for scene in scenes]))
        kinds = kinds.permute(0, 2, 3, 1).flatten(0, 2)
        filled = kinds[:, 0] > 0
        rows.append(torch.cat([cells[filled], torch.ones(int(filled.sum()), 1)], dim=1))
        named.append(kinds[filled])
    return torch.cat(rows), torch.cat(named)


def measure(convnext: Path, llama: Path, scenes: int) -> dict[str, dict[str, float]]:
    """All figures of the ConvNeXt in `convnext` and the LLaMA in `llama`, on the first held-out scenes."""
    tokens = PreTrainedTokenizerFast.from_pretrained(llama)
    contrast = small_convnext.load_contrastive(convnext, tokens)
    held_out = range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + scenes)
    pairs = CaptionPairs(
        tokens,
        small_convnext.sizes(contrast.trunk),
        steps=scenes // CHOICES,
        scenes=CHOICES,
        first_seed=FIRST_HELD_OUT_SEED,
    )
    with torch.no_grad():
        found = retrieval(contrast, pairs)
    return {
        "retrieval": found,
        "probe": linear_probe(contrast, range(600), held_out),
        "perplexity": perplexities(llama, held_out, range(10_000)),
    }


def render(figures: dict[str, dict[str, float]], scenes: int) -> list[str]:
    """The figures as lines for a person."""
    found, cells, words = figures["retrieval"], figures["probe"], figures["perplexity"]
    rows = {"caption to picture": "text_to_image", "picture to caption": "image_to_text"}
    return [
        f"ConvNeXt, retrieval among {CHOICES} held-out scenes ({scenes} in all; chance 1.0 % and 5.0 %):",
        *(
            f"  {label}   first {_percent(found[name + '_r1'])}   among five {_percent(found[name + '_r5'])}"
            for label, name in rows.items()
        ),
        "ConvNeXt, a linear map on single cells that hold a thing:",
        *(
            f"  {name:6}  {_percent(cells[name])}  (the commonest: {_percent(cells[name + '_most']).strip()})"
            for name in ("shape", "colour")
        ),
        "LLaMA, perplexity a token of a first question and its answer:",
        f"  LLaMA               {words['llama']:7.3f}   (answers alone, unseen: {words['answers']:.3f})",
        f"  templates, counted  {words['templates']:7.3f}",
        f"  uniform             {words['uniform']:7.0f}",
    ]


def _percent(share: float) -> str:
    return f"{100 * share:5.1f} %"


def main() -> None:
    """Print the figures of the shipped models, or of those in the folders given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--convnext", type=Path, default=None, help="folder; default: the shipped one")
    parser.add_argument("--llama", type=Path, default=None, help="folder; default: the shipped one")
    parser.add_argument("--scenes", type=int, default=500, help=f"held-out scenes, a multiple of {CHOICES}")
    options = parser.parse_args()
    convnext, llama = options.convnext or checkpoint("convnext"), options.llama or checkpoint("llama")
    scenes = max(1, options.scenes // CHOICES) * CHOICES
    print("\n".join(render(measure(convnext, llama, scenes), scenes)))


if __name__ == "__main__":
    main()
