"""The limit: what an image costs, counted, against what the device can do, measured in the same run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import Sam
from transformers import Florence2Config, Florence2ForConditionalGeneration

from maskgen.bench.parts import waiter
from maskgen.flops import counted

SECONDS = 0.3  # that each peak is looked for


@dataclass(frozen=True)
class Machine:
    """`flops`: of matrix products in the models' dtype, a second. `bandwidth`: bytes a second read and written
    by a copy."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """What an image costs. FLOPs: 2 for a multiply-add; bytes in the models' dtype.

    `florence`, `sam`: FLOPs of the encoders; `mask`: of SAM's decoder, for a prompt. `token`: FLOPs of
    decoding one token of all beams, and `once` those of the keys that an answer asks. `weights`: bytes that a
    decoding step reads whatever is in flight; `cached`: bytes that each answer adds to a step, on average.
    """

    florence: float
    sam: float
    mask: float
    token: float
    once: float
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


def limit(work: Work, machine: Machine, tokens: float, slots: int, prompts: float = 1.0) -> Limit:
    """`tokens`: an answer; `slots`: answers in flight; `prompts`: of SAM, an image.

    A decoding step takes as long as its bytes or its FLOPs, whichever is longer.
    """
    step = max(
        (work.weights + slots * work.cached) / machine.bandwidth,
        slots * work.token / machine.flops,
    )
    return Limit(
        encoders=(work.florence + work.sam + work.once) / machine.flops,
        masks=prompts * work.mask / machine.flops,
        decoding=tokens * step / slots,
    )


def work(florence: Florence2Config, sam: Callable[[], Sam], prompt: int, tokens: int, beams: int) -> Work:
    """Count an image's work for models of these configurations.

    `sam`: makes one, here without memory. `prompt`: tokens of the encoder, image tokens included.
    """
    with torch.device("meta"), torch.no_grad():
        model = Florence2ForConditionalGeneration(florence).eval()
        text = florence.text_config
        width, layers = text.d_model, text.decoder_layers
        size = next(model.parameters()).element_size()
        side = image_side(florence)
        pixels = torch.zeros(1, 3, side, side)
        states = torch.zeros(1, prompt, width)
        encoder = model.model.language_model.encoder
        looked = counted(
            lambda: model.model.multi_modal_projector(model.model.vision_tower(pixels).last_hidden_state)
        )
        read = counted(lambda: encoder(inputs_embeds=states))
        masks, encoded = _sam(sam())
    own = sum(weight.numel() for weight in model.model.language_model.decoder.layers.parameters())
    head = model.lm_head.weight.numel()
    once = 2 * 2 * layers * prompt * width * width
    crossed = 2 * layers * width * width  # weights of the cross keys and values: used once, not each step
    attended = 4 * layers * width * (prompt + tokens / 2)
    return Work(
        florence=looked + read,
        sam=encoded,
        mask=masks,
        token=beams * (2 * (own - crossed + head) + attended),
        once=once,
        weights=size * (own - crossed + head),
        cached=size * 2 * layers * width * (prompt + beams * tokens / 2),
    )
