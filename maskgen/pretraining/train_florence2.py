"""Train the small Florence-2 on drawn scenes: python -m maskgen.pretraining.train_florence2 --out DIR."""

import dataclasses
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Florence2ForConditionalGeneration, Florence2Processor, GenerationConfig

from maskgen.pretraining.florence2_tasks import MASK_CELLS, TASK, Batch, GroundingTasks
from maskgen.pretraining.pretraining_loop import Losses, argument_parser, pretrain
from maskgen.scenes import texts
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.scene_dataset import scene_query, target_mask
from maskgen.scenes.shapes import COLOURS, SHAPES, SIZES
from maskgen.small_models import small_florence2

SIZES_OF_MODEL = dataclasses.replace(
    small_florence2.DEMO,
    patches=(7, 3, 3),
    strides=(4, 2, 2),
    channels=(32, 64, 128),
    depths=(1, 1, 2),
    heads=(1, 2, 4),
    groups=(1, 2, 4),
    width=128,
    attention_heads=4,
    feed_forward=384,
)
SCENES, QUERIES = 8, 4  # a step: scenes, and queries of each, which share the image encoder's work
VISION_ONLY_STEPS = 1000  # steps of the image encoder alone
MAX_TOKENS = 120  # three things of twelve vertices, and room

_KINDS = {"shape": len(SHAPES) + 1, "colour": len(COLOURS) + 1, "size": len(SIZES) + 1}


class Florence2Pretraining(nn.Module):
    """The model and four auxiliary heads, which are thrown away after the training.

    Two predict for each cell of the image encoder's grid what stands there and where its box is; two predict
    for each image position of the text encoder's output whether the text refers to it and where that thing's
    box is. They bind words to places long before the decoder has learnt to write coordinates.
    """

    soft: torch.Tensor
    centres: torch.Tensor

    def __init__(self, model: Florence2ForConditionalGeneration, first_location: int, blur: float):
        super().__init__()
        self.model = model
        channels = model.config.vision_config.embed_dim[-1]
        width = model.config.text_config.d_model
        self.cells = int(model.config.vision_config.max_position_embeddings)
        self.kinds = nn.Linear(channels, sum(_KINDS.values()))
        self.box = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, 4))
        self.refers = nn.Linear(width, (MASK_CELLS // self.cells) ** 2)
        self.referred_box = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 4))
        self.first_location = first_location
        place = torch.arange(1000.0)
        near = torch.exp(-(((place[:, None] - place) / blur) ** 2) / 2)
        self.register_buffer("soft", near / near.sum(dim=1, keepdim=True), persistent=False)
        middle = (torch.arange(self.cells) + 0.5) / self.cells
        centres = torch.stack(torch.meshgrid(middle, middle, indexing="xy")).repeat(2, 1, 1)
        self.register_buffer("centres", centres, persistent=False)

    def forward(self, batch: Batch) -> Losses:
        grid, image_tokens = self._encode_image(batch["pixels"])
        if "prompt" not in batch:
            return self._cell_losses(grid, batch)
        queries = batch["prompt"].shape[0] // image_tokens.shape[0]
        image = image_tokens.repeat_interleave(queries, dim=0)
        language = self.model.model.language_model
        words = language.get_input_embeddings()(batch["prompt"])
        mask = torch.cat([batch["prompt_mask"].new_ones(image.shape[:2]), batch["prompt_mask"]], dim=1)
        encoded = language.encoder(inputs_embeds=torch.cat([image, words], dim=1), attention_mask=mask)[0]
        # The decoder starts from </s>; what follows is the answer, shifted by one.
        start = torch.full_like(batch["labels"][:, :1], 2)
        given = torch.cat([start, batch["labels"][:, :-1]], dim=1)
        decoded = language.decoder(
            input_ids=given.masked_fill(given == -100, 1),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        )[0]
        learnt = batch["labels"] != -100
        return {
            "answer": self._answer_loss(self.model.lm_head(decoded[learnt]), batch["labels"][learnt]),
            **self._cell_losses(grid, batch),
            **self._referred_losses(encoded[:, 1 : image.shape[1]], batch),
        }

    def _encode_image(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The image encoder's grid (scenes, channels, cells, cells) and the image tokens."""
        mean, deviation = (
            torch.tensor(values).view(3, 1, 1) * 255
            for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        )
        features = self.model.model.vision_tower((pixels - mean) / deviation).last_hidden_state
        return features, self.model.model.multi_modal_projector(features)

    def _answer_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy; a location's target is spread over the bins around it."""
        logs = logits.log_softmax(dim=-1)
        bins = labels - self.first_location
        located = (bins >= 0) & (bins < 1000)
        places = logs[located][:, self.first_location : self.first_location + 1000]
        near = -(self.soft[bins[located]] * places).sum()
        return (near + F.nll_loss(logs[~located], labels[~located], reduction="sum")) / len(labels)

    def _cell_losses(self, features: torch.Tensor, batch: Batch) -> Losses:
        grid = features.permute(0, 2, 3, 1)
        logits = self.kinds(grid).permute(0, 3, 1, 2).split(list(_KINDS.values()), dim=1)
        named = [F.cross_entropy(g, batch[name]) for g, name in zip(logits, _KINDS, strict=True)]
        filled = (batch["shape"] > 0)[:, None]
        offsets = self.box(grid).permute(0, 3, 1, 2) + self.centres
        distance = (F.l1_loss(offsets, batch["box"], reduction="none") * filled).sum()
        return {"seen": torch.stack(named).sum(), "seen_box": 4 * distance / (4 * filled.sum()).clamp(min=1)}

    def _referred_losses(self, encoded: torch.Tensor, batch: Batch) -> Losses:
        grid = encoded.unflatten(1, (self.cells, self.cells))
        block = MASK_CELLS // self.cells
        fine = self.refers(grid).unflatten(3, (block, block)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        wanted = batch["referred"]
        refers = F.binary_cross_entropy_with_logits(fine, wanted, pos_weight=torch.tensor(4.0))
        inside = F.avg_pool2d(wanted, block)[:, None] > 0.12
        offsets = self.referred_box(grid).permute(0, 3, 1, 2) + self.centres
        distance = F.l1_loss(
            offsets, batch["referred_box"][:, :, None, None].expand_as(offsets), reduction="none"
        )
        return {
            "refers": 8 * refers,
            "referred_box": 4 * (distance * inside).sum() / (4 * inside.sum()).clamp(min=1),
        }


def create_untrained(folder: Path, seed: int) -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """An untrained model whose position embeddings are smooth from the first step on.

    Image positions begin as sines and cosines of row and column, location tokens as sines and cosines of
    their value; from noise, reading a place into a coordinate takes longer than everything else.
    """
    prompts = [f"Locate {text} in the image with mask" for text in texts.vocabulary()]
    small_florence2.build(folder, SIZES_OF_MODEL, prompts, seed)
    processor = Florence2Processor.from_pretrained(folder)
    model = Florence2ForConditionalGeneration.from_pretrained(folder)
    for name in ("dropout", "attention_dropout", "activation_dropout"):
        for module in model.modules():
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    cells = SIZES_OF_MODEL.cells
    text = model.model.language_model
    places = model.model.multi_modal_projector.image_position_embed
    with torch.no_grad():
        middles = (torch.arange(cells) + 0.5) / cells
        for embedding in (places.row_embeddings, places.column_embeddings):
            embedding.weight[:cells] = 0.5 * _sinusoids(middles, embedding.weight.shape[1], cells)
        half = text.encoder.embed_positions.weight.shape[1] // 2
        rows, columns = _sinusoids(middles, half, cells), _sinusoids(middles, half, cells)
        grid = torch.cat([columns.repeat(cells, 1), rows.repeat_interleave(cells, dim=0)], dim=1)
        text.encoder.embed_positions.weight[3 : 3 + cells**2] = 0.5 * grid  # two unused, one mean token
        first = processor.tokenizer.convert_tokens_to_ids("<loc_0>")
        values = (torch.arange(1000) + 0.5) / 1000
        width = text.shared.weight.shape[1]
        text.shared.weight[first : first + 1000] = 0.1 * _sinusoids(values, width, 64)
    return model, processor


def _sinusoids(values: torch.Tensor, width: int, finest: float) -> torch.Tensor:
    """Float32 (values, width): sines and cosines from half a cycle to `finest` / 2 cycles over 0-1."""
    cycles = torch.logspace(-1, float(np.log2(finest)) - 1, width // 2, base=2)
    angles = 2 * torch.pi * values[:, None] * cycles
    return torch.cat([angles.sin(), angles.cos()], dim=1)


@torch.no_grad()
def measure(
    learner: Florence2Pretraining, processor: Florence2Processor, scenes: int = 96
) -> dict[str, float]:
    """Polygon IoU, right objects and silence about nothing, on the first held-out scenes."""
    overlaps, silent = [], []
    for begin in range(0, scenes, 32):
        drawn = [draw_scene(FIRST_HELD_OUT_SEED + begin + i) for i in range(32)]
        queries = [scene_query(scene) for scene in drawn]
        inputs = processor(
            text=[TASK + each.text for each in queries],
            images=[scene.pixels for scene in drawn],
            return_tensors="pt",
            padding=True,
        )
        generated = learner.model.generate(**inputs, generation_config=generation())
        for scene, each, tokens in zip(drawn, queries, generated, strict=True):
            height, width = scene.pixels.shape[:2]
            text = processor.decode(tokens, skip_special_tokens=False)
            # Asked for 1000 x 1000 pixels, it returns the bins themselves and cuts nothing down.
            parsed = processor.post_process_generation(text, task=TASK, image_size=(1000, 1000))
            polygons = [p for instance in parsed[TASK]["polygons"] for p in instance]
            if not each.targets:
                silent.append(not polygons)
                continue
            mask, truth = _fill(polygons, height, width), target_mask(scene, each)
            overlaps.append((mask & truth).sum() / (mask | truth).sum())
    right = np.array(overlaps) > 0.5
    return {"iou": float(np.mean(overlaps)), "right": float(right.mean()), "silent": float(np.mean(silent))}


def generation() -> GenerationConfig:
    """How the small model answers: greedily, since its scenes leave no room for a beam to help."""
    return GenerationConfig(
        num_beams=1,
        do_sample=False,
        max_new_tokens=MAX_TOKENS,
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        forced_bos_token_id=0,
    )


def _fill(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    """Bool (height, width): pixels inside any of the polygons, given in bins."""
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        corners = (np.asarray(polygon).reshape(-1, 2) + 0.5) / 1000 * [width, height]
        if len(corners) >= 3:
            cv2.fillPoly(mask, [np.rint((corners - 0.5) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
    return mask > 0


def export(learner: Florence2Pretraining, processor: Florence2Processor, folder: Path) -> None:
    """The model without its heads, in half precision, as transformers and the pipeline load it."""
    model = learner.model
    model.generation_config = generation()
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    model.float()


def main() -> None:
    """Train, going on from what lies in --out, and write `--out/model`."""
    parser = argument_parser(__doc__, 6000, f"{SCENES} scenes x {QUERIES} queries", 1e-3)
    parser.add_argument("--blur", type=float, default=3.0, help="deviation of a location's target, in bins")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model, processor = create_untrained(options.out / "untrained", options.seed)
    learner = Florence2Pretraining(model, processor.tokenizer.convert_tokens_to_ids("<loc_0>"), options.blur)
    image, cells = SIZES_OF_MODEL.image, SIZES_OF_MODEL.cells
    tasks = GroundingTasks(processor, image, cells, options.steps, SCENES, QUERIES, VISION_ONLY_STEPS)

    average = pretrain(
        options.out,
        learner,
        tasks,
        partial(measure, processor=processor),
        options.steps,
        options.rate,
    )
    export(average, processor, options.out / "model")


if __name__ == "__main__":
    main()
