"""Checkpoints of full size with random weights, from configurations held here: no hub, no download."""

from collections.abc import Iterable
from pathlib import Path

import torch
from segment_anything import sam_model_registry
from transformers import PreTrainedTokenizerBase

from maskgen.bench import scripted_decoder
from maskgen.bench.answer_lengths import WORDS, Lengths
from maskgen.errors import MaskgenError
from maskgen.small_models import small_florence2
from maskgen.small_models.small_florence2 import Florence2Sizes

# Florence-2-large as published: 0.8 billion parameters, 768 pixels, 577 image tokens.
LARGE = Florence2Sizes(
    image=768,
    patches=(7, 3, 3, 3),
    strides=(4, 2, 2, 2),
    channels=(256, 512, 1024, 2048),
    depths=(1, 1, 9, 1),
    heads=(8, 16, 32, 64),
    groups=(8, 16, 32, 64),
    window=12,
    width=1024,
    layers=12,
    attention_heads=16,
    feed_forward=4096,
    positions=4096,
    words=1200,
)
LARGE_ROWS = 51_289
"""Words of the published vocabulary, which decoding reads and multiplies, whatever the tokenizer knows."""


def write_florence2(
    folder: Path, sizes: Florence2Sizes, rows: int, lengths: Lengths, texts: Iterable[str], dtype: torch.dtype
) -> None:
    """A Florence-2 whose answers have the lengths that the words ending their queries stand for."""
    corpus = [*texts, *[" " + " ".join(WORDS)] * 200]
    model, processor = small_florence2.untrained(sizes, corpus, 0, rows, tied=False)
    scripted_decoder.script_decoder(
        model, *place_and_length_ids(processor.tokenizer, lengths), lengths.longest
    )
    model.to(dtype).save_pretrained(folder)
    processor.save_pretrained(folder)


def place_and_length_ids(
    tokenizer: PreTrainedTokenizerBase, lengths: Lengths
) -> tuple[list[int], dict[int, int]]:
    """The ids of the 1000 places, and the length that each of `WORDS` stands for by its id."""
    places = tokenizer.convert_tokens_to_ids([f"<loc_{place}>" for place in range(scripted_decoder.PLACES)])
    ids = [tokenizer(f" {word}", add_special_tokens=False).input_ids for word in WORDS]
    if any(len(own) != 1 for own in ids):
        raise MaskgenError("The benchmark's tokenizer cut a length's word in two. Give its sizes more words.")
    return places, {own[0]: length for own, length in zip(ids, lengths.values, strict=True)}


def write_sam(path: Path, model: str) -> None:
    """The official checkpoint file of `vit_h`, `vit_l` or `vit_b`, but for its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = sam_model_registry[model]()
    torch.save(sam.state_dict(), path)


def write_checkpoints(
    folder: Path,
    dtype: torch.dtype,
    lengths: Lengths,
    texts: Iterable[str],
    sizes: Florence2Sizes = LARGE,
    rows: int = LARGE_ROWS,
    sam: str = "vit_h",
) -> list[str]:
    """Both checkpoints, in `folder`; what the demo's pipeline must be overridden with to run them."""
    (folder / "florence2").mkdir(parents=True)
    write_florence2(folder / "florence2", sizes, rows, lengths, texts, dtype)
    write_sam(folder / "sam.pth", sam)
    published = min(1024, sizes.positions - 2)
    return [
        f"proposer.model={folder / 'florence2'}",
        f"proposer.max_new_tokens={published}",
        f"refiner.model={sam}",
        f"refiner.checkpoint={folder / 'sam.pth'}",
    ]
