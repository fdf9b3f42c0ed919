"""Florence-2 at small sizes, untrained, in the folder format that transformers reads natively."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BartConfig,
    BartTokenizer,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    GenerationConfig,
)

IMAGE_TOKEN = "<image>"
BASE_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0-3, as in BART
PROMPT = "Locate the thing in the image with mask"  # so that the task's own words are single tokens

# Florence-2's additions to BART's vocabulary, in its order (the misspelling is part of the format).
ADDED_TOKENS = [
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{place}>" for place in range(1000)),
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>"),
    *("<seg>", "</seg>", "<sep>", "<region_cap>", "</region_cap>"),
    *("<region_to_desciption>", "</region_to_desciption>", "<proposal>", "</proposal>"),
    *("<poly>", "</poly>", "<and>"),
]

# The kinds of answer that the processor can parse; it refuses one that is not named here.
POST_PROCESSOR: dict[str, dict[str, object]] = {
    "ocr": {"AREA_THRESHOLD": 0.0},
    "phrase_grounding": {"banned_grounding_tokens": []},
    "pure_text": {},
    "description_with_bboxes": {},
    "description_with_polygons": {},
    "polygons": {},
    "bboxes": {},
    "description_with_bboxes_or_polygons": {},
}


@dataclass(frozen=True)
class Florence2Sizes:
    """A Florence-2 of any size; tuples hold one entry a DaViT stage.

    `image`: pixels a side of the square input. `patches`, `strides`: kernel and stride, in pixels, of
    the convolution that opens a stage. `channels`, `depths`, `heads` (window attention), `groups`
    (channel attention) and `window` are the image encoder's. `width`, `layers`, `attention_heads`,
    `feed_forward` are BART's, the same in encoder and decoder. `positions`: tokens, image tokens
    included, that either half can hold. `words`: byte-level BPE tokens at most (256 are bytes).
    """

    image: int
    patches: tuple[int, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    groups: tuple[int, ...]
    window: int
    width: int
    layers: int
    attention_heads: int
    feed_forward: int
    positions: int
    words: int

    @property
    def cells(self) -> int:
        """Cells a side of the final feature map."""
        side = self.image
        for patch, stride in zip(self.patches, self.strides, strict=True):
            side = (side + 2 * (patch // 2) - patch) // stride + 1
        return side

    @property
    def image_tokens(self) -> int:
        """Tokens of an image: one a cell, and their mean."""
        return self.cells**2 + 1


TINY = Florence2Sizes(
    image=64,
    patches=(9, 3),
    strides=(8, 2),
    channels=(8, 16),
    depths=(1, 1),
    heads=(2, 2),
    groups=(2, 2),
    window=4,
    width=16,
    layers=1,
    attention_heads=2,
    feed_forward=32,
    positions=64,
    words=320,
)

DEMO = Florence2Sizes(
    image=128,
    patches=(9, 3),
    strides=(8, 2),
    channels=(96, 192),
    depths=(1, 2),
    heads=(4, 8),
    groups=(4, 8),
    window=8,
    width=192,
    layers=3,
    attention_heads=6,
    feed_forward=576,
    positions=192,
    words=600,
)


def build(folder: str | Path, sizes: Florence2Sizes, texts: Iterable[str], seed: int) -> None:
    """Write an untrained checkpoint to `folder`; its tokenizer's words are learnt from `texts`.

    Equal arguments write equal weights. The folder loads with `AutoProcessor` and
    `Florence2ForConditionalGeneration`, and generates with the published checkpoints' settings.
    An answer to train on is `<s>...</s>` and the decoder starts from `</s>`, as theirs do.
    """
    model, processor = untrained(sizes, texts, seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def untrained(
    sizes: Florence2Sizes, texts: Iterable[str], seed: int, rows: int = 0, tied: bool = True
) -> tuple[Florence2ForConditionalGeneration, Florence2Processor]:
    """Model and processor that `build` writes.

    `rows`: of the vocabulary, where it should be larger than the tokenizer's. `tied`: whether words are
    read and written by the same weights, as in the published checkpoints.
    """
    tokenizer = _tokenizer(texts, sizes.words)
    config = florence2_config(sizes, max(rows, len(tokenizer)), tokenizer.image_token_id)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Florence2ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        num_beams=3,
        no_repeat_ngram_size=3,
        early_stopping=True,
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
    )
    return model, _processor(tokenizer, sizes)


def _tokenizer(texts: Iterable[str], words: int) -> BartTokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=words + len(BASE_TOKENS),
        special_tokens=BASE_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, PROMPT], trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    return BartTokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        extra_special_tokens=ADDED_TOKENS,
        image_token=IMAGE_TOKEN,
    )


def florence2_config(sizes: Florence2Sizes, vocabulary: int, image_token: int) -> Florence2Config:
    vision = Florence2VisionConfig(
        depths=sizes.depths,
        patch_size=sizes.patches,
        patch_stride=sizes.strides,
        patch_padding=tuple(patch // 2 for patch in sizes.patches),
        patch_prenorm=tuple(stage > 0 for stage in range(len(sizes.patches))),
        embed_dim=sizes.channels,
        num_heads=sizes.heads,
        num_groups=sizes.groups,
        window_size=sizes.window,
        drop_path_rate=0.0,
        projection_dim=sizes.width,
        max_temporal_embeddings=4,
        max_position_embeddings=sizes.cells,
    )
    text = BartConfig(
        vocab_size=vocabulary,
        d_model=sizes.width,
        encoder_layers=sizes.layers,
        decoder_layers=sizes.layers,
        encoder_attention_heads=sizes.attention_heads,
        decoder_attention_heads=sizes.attention_heads,
        encoder_ffn_dim=sizes.feed_forward,
        decoder_ffn_dim=sizes.feed_forward,
        max_position_embeddings=sizes.positions,
    )
    return Florence2Config(text_config=text, vision_config=vision, image_token_id=image_token)


def _processor(tokenizer: BartTokenizer, sizes: Florence2Sizes) -> Florence2Processor:
    images = CLIPImageProcessor(
        size={"height": sizes.image, "width": sizes.image},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    images.image_seq_length = sizes.image_tokens
    return Florence2Processor(images, tokenizer, post_processor_config=POST_PROCESSOR)
