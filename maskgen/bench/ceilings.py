"""The limit: what an image costs, counted, against what the device can do, measured in the same run."""

from dataclasses import dataclass

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from transformers import Florence2Config, Florence2ForConditionalGeneration

from maskgen import config
from maskgen.bench.device_peaks import Machine
from maskgen.flops import counted
from maskgen.grounding import weights
from maskgen.small_models import small_sam as small


@dataclass(frozen=True)
class ImageCost:
    """The cost of an image. FLOPs: 2 for a multiply-add; bytes in the models' dtype.

    `florence`, `sam`: FLOPs of the encoders; `mask`: of SAM's decoder, for a prompt. `token`: FLOPs of
    decoding one token of all beams. `weights`: bytes that a decoding step reads whatever is in flight;
    `cached`: bytes that each answer adds to a step, on average.
    """

    florence: float
    sam: float
    mask: float
    token: float
    weights: float
    cached: float


@dataclass(frozen=True)
class Limit:
    """Seconds an image at the device's peaks, part by part."""

    encoders: float
    masks: float
    decoding: float

    @property
    def serial(self) -> float:
        """Images a second if nothing overlaps."""
        return 1 / (self.encoders + self.masks + self.decoding)

    @property
    def overlapped(self) -> float:
        """Images a second if decoding, bound by memory, hides behind the rest or the rest behind it."""
        return 1 / max(self.encoders + self.masks, self.decoding)


def compute_limit(
    cost: ImageCost, machine: Machine, tokens: float, slots: int, prompts: float = 1.0
) -> Limit:
    """`tokens`: an answer; `slots`: answers in flight; `prompts`: of SAM, an image.

    A decoding step takes as long as its bytes or its FLOPs, whichever is longer.
    """
    step = max(
        (cost.weights + slots * cost.cached) / machine.bandwidth,
        slots * cost.token / machine.flops,
    )
    return Limit(
        encoders=(cost.florence + cost.sam) / machine.flops,
        masks=prompts * cost.mask / machine.flops,
        decoding=tokens * step / slots,
    )


def count_cost(
    florence: Florence2Config, sam: config.Sam, dtype: torch.dtype, shape: tuple[int, int, int], beams: int
) -> ImageCost:
    """Count the cost of an image for models of these configurations, without making their weights.

    `shape`: pixels a side of Florence-2's input, tokens of the encoder (image tokens included), and of an
    answer.
    """
    side, prompt, tokens = shape
    masker = meta_sam(sam).requires_grad_(False)
    with torch.device("meta"), torch.no_grad():
        model = Florence2ForConditionalGeneration(florence).eval()
        inner = model.model
        pixels, embedded = torch.zeros(1, 3, side, side), torch.zeros(1, prompt, florence.text_config.d_model)
        encoders = counted(
            lambda: inner.multi_modal_projector(inner.vision_tower(pixels).last_hidden_state)
        ) + counted(lambda: inner.language_model.encoder(inputs_embeds=embedded))
        encoded, masked = _sam(masker)
    width, layers = florence.text_config.d_model, florence.text_config.decoder_layers
    crossed = 2 * layers * width**2  # the weights of the keys and values that a prompt gives once
    own = sum(weight.numel() for weight in inner.language_model.decoder.layers.parameters()) - crossed
    own += model.lm_head.weight.numel()
    keys = prompt + beams * tokens / 2  # keys that a step reads, on average over the answer
    return ImageCost(
        florence=encoders + 2.0 * crossed * prompt,
        sam=encoded,
        mask=masked,
        token=beams * (2 * own + 4 * layers * width * (prompt + tokens / 2)),
        weights=float(dtype.itemsize * own),
        cached=dtype.itemsize * 2 * layers * width * keys,
    )


def meta_sam(settings: config.Sam) -> Sam:
    """The configuration's SAM on meta."""
    if settings.model == "demo":
        return small.load(weights.sam_checkpoint(settings)).to("meta")
    with torch.device("meta"):
        return sam_model_registry[settings.model]().eval()


def _sam(sam: Sam) -> tuple[float, float]:
    """FLOPs of the image encoder, and of prompt encoder and mask decoder for one box."""
    side = sam.image_encoder.img_size
    encoded = counted(lambda: sam.image_encoder(torch.zeros(1, 3, side, side)))
    width, cells = sam.prompt_encoder.embed_dim, sam.prompt_encoder.image_embedding_size

    def decode() -> None:
        sparse, dense = sam.prompt_encoder(points=None, boxes=torch.zeros(1, 4), masks=None)
        sam.mask_decoder(
            image_embeddings=torch.zeros(1, width, *cells),
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )

    return encoded, counted(decode)
