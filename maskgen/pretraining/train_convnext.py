"""Pretrain the small ConvNeXt against captions: python -m maskgen.pretraining.train_convnext --out DIR."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from maskgen.pretraining.pretraining_loop import Batch, Losses, argument_parser, pretrain
from maskgen.scenes import dialogues
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, Scene, draw_scene
from maskgen.scenes.shapes import COLOURS, SHAPES
from maskgen.scenes.texts import caption
from maskgen.small_models import small_convnext, small_llama
from maskgen.small_models.small_convnext import DEMO, ContrastiveModel, ConvNextSizes

SCENES = 16  # a step: each caption against those of all other scenes
WORDS_FROM = range(2000)  # scenes whose texts the tokenizer learns from, the same as the LLaMA's
KINDS = (len(SHAPES) + 1, len(COLOURS) + 1)
BACKGROUND_WEIGHT = 0.1  # the weight of a cell that holds nothing: most do
WARMUP = 50
CONTRASTIVE_WEIGHT = 0.2  # the weight of the contrastive loss beside what stands in each cell


def tokenizer() -> PreTrainedTokenizerFast:
    """The LLaMA's tokenizer: the same scenes, the same words."""
    return small_llama.train_tokenizer(dialogues.dialogue_texts(WORDS_FROM), small_llama.DEMO.words)


@dataclass
class CaptionPairs(Dataset[Batch]):
    """Item `i` is the batch of step `i`: new scenes, a caption of each, and what stands in each cell.

    `pixels`: uint8 (scenes, 3, side, side). `caption`: int64 (scenes, tokens), padded. `kinds`: int64
    (scenes, 2, cells, cells), the number of the shape and of the colour that fill most of a cell, 0 for none.
    """

    tokenizer: PreTrainedTokenizerFast
    sizes: ConvNextSizes
    steps: int
    scenes: int = SCENES
    first_seed: int = 0

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        first = self.first_seed + step * self.scenes
        drawn = [draw_scene(seed) for seed in range(first, first + self.scenes)]
        texts = [caption(scene, np.random.default_rng((scene.seed, 7))) for scene in drawn]
        captions = self.tokenizer(texts, add_special_tokens=False).input_ids
        longest = max(map(len, captions))
        pad = self.tokenizer.pad_token_id
        return {
            "pixels": torch.stack([small_convnext.pixels(scene.pixels, self.sizes.image) for scene in drawn]),
            "caption": torch.tensor([ids + [pad] * (longest - len(ids)) for ids in captions]),
            "kinds": torch.from_numpy(np.stack([cell_kinds(scene, self.sizes.cells) for scene in drawn])),
        }


def cell_kinds(scene: Scene, cells: int) -> np.ndarray:
    """int64 (2, cells, cells): shape and colour, from 1, of the thing that covers a cell most; 0 for none."""
    size = (cells, cells)
    shares = np.stack(
        [cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) for mask in scene.masks]
    )
    most, filled = shares.argmax(axis=0), shares.max(axis=0) > 0.25
    shapes = np.array([SHAPES.index(thing.shape) + 1 for thing in scene.things])
    colours = np.array([list(COLOURS).index(thing.colour) + 1 for thing in scene.things])
    return np.stack([shapes[most] * filled, colours[most] * filled])


class ConvNextPretraining(nn.Module):
    """The CLIP-style model, and an auxiliary head, thrown away later: what stands in each cell of the map."""

    def __init__(self, contrast: ContrastiveModel, pad: int):
        super().__init__()
        self.contrast = contrast
        self.kinds = nn.Linear(contrast.trunk.config.hidden_sizes[-1], sum(KINDS))
        self.pad = pad

    def forward(self, batch: Batch) -> Losses:
        features = self.contrast.feature_map(batch["pixels"])
        scores = self.contrast.similarity(
            self.contrast.encode_image(features), self.contrast.encode_text(batch["caption"], self.pad)
        )
        own = torch.arange(len(scores))
        logits = self.cell_logits(features)
        named = [
            F.cross_entropy(
                each, batch["kinds"][:, i], torch.tensor([BACKGROUND_WEIGHT, *[1.0] * (each.shape[1] - 1)])
            )
            for i, each in enumerate(logits)
        ]
        return {
            "contrast": CONTRASTIVE_WEIGHT
            * (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own))
            / 2,
            "kinds": torch.stack(named).sum(),
        }

    def cell_logits(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits of shape and of colour, (scenes, kinds, cells, cells) each, from the trunk's last map."""
        cells = F.layer_norm(features.permute(0, 2, 3, 1), features.shape[1:2])
        return self.kinds(cells).permute(0, 3, 1, 2).split(KINDS, dim=1)


@torch.no_grad()
def retrieval(contrast: ContrastiveModel, pairs: CaptionPairs) -> dict[str, float]:
    """Within batches of `pairs`: how often a caption's own picture comes first, or among five, and back."""
    hits: dict[str, list[torch.Tensor]] = {"text_to_image": [], "image_to_text": []}
    for step in range(len(pairs)):
        batch = pairs[step]
        scores = contrast.similarity(
            contrast.encode_image(contrast.feature_map(batch["pixels"])),
            contrast.encode_text(batch["caption"], pairs.tokenizer.pad_token_id),
        )
        for name, each in (("image_to_text", scores), ("text_to_image", scores.T)):
            hits[name].append((each > each.diagonal()[:, None]).sum(dim=1))
    return {
        f"{name}_r{most}": (torch.cat(ranks) < most).float().mean().item()
        for name, ranks in hits.items()
        for most in (1, 5)
    }


@torch.no_grad()
def cell_accuracy(learner: ConvNextPretraining, pairs: CaptionPairs) -> dict[str, float]:
    """How often the head names the shape and the colour of a cell that holds a thing."""
    hits: dict[str, list[torch.Tensor]] = {"shape": [], "colour": []}
    for step in range(len(pairs)):
        batch = pairs[step]
        logits = learner.cell_logits(learner.contrast.feature_map(batch["pixels"]))
        for found, each, true in zip(hits.values(), logits, batch["kinds"].unbind(1), strict=True):
            found.append((each.argmax(dim=1) == true)[true > 0])
    return {name: torch.cat(found).float().mean().item() for name, found in hits.items()}


def main() -> None:
    """Train, going on from what lies in --out, and write `--out/model`."""
    parser = argument_parser(__doc__, 1333, f"{SCENES} scenes", 1.5e-3)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokens = tokenizer()
    trunk = small_convnext.create(DEMO).to(memory_format=torch.channels_last)
    learner = ConvNextPretraining(ContrastiveModel(trunk, DEMO.cells, len(tokens)), tokens.pad_token_id)
    pairs = CaptionPairs(tokens, DEMO, options.steps)
    held_out = CaptionPairs(tokens, DEMO, steps=2, scenes=100, first_seed=FIRST_HELD_OUT_SEED)

    def measure(module: ConvNextPretraining) -> dict[str, float]:
        return retrieval(module.contrast, held_out) | cell_accuracy(module, held_out)

    average = pretrain(
        options.out,
        learner,
        pairs,
        measure,
        options.steps,
        options.rate,
        warmup=WARMUP,
    )
    small_convnext.save(options.out / "model", average.contrast.trunk.half(), DEMO)
    small_convnext.save_heads(options.out / "model", average.contrast)


if __name__ == "__main__":
    main()
