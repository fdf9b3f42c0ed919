"""A tiny model, a small set of shards, and recipes over them: runs of seconds."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from maskgen.age_vlm import AgeVlmImageProcessor, AgeVlmProcessor
from maskgen.age_vlm.registry import model_class
from maskgen.config import Grid, Limits
from maskgen.geometry import Frame
from maskgen.outcome import Outcome
from maskgen.pixels import decode
from maskgen.runtime.store import Store
from maskgen.sample import Grounding, Query, Sample, Turn
from maskgen.sharding import index
from maskgen.sharding.writer import Record, ShardWriter
from maskgen.training import recipe

SIZE = 32
CELLS = 4
GRID = Grid(fit="squash", size=SIZE, cells=CELLS)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and the three special ones."""
    specials = ["<s>", "</s>", "<pad>"]
    words = specials + sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def model_folder(folder: Path, kind: str = "age_vlm", seed: int = 0) -> Path:
    """A model folder in the real format; new layers do not start at zero, so that everything has
    gradients.
    """
    tokens = tokenizer()
    config: Any = model_class(kind).config_class(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 24,
            "tie_word_embeddings": True,
        },
        vision_config={"hidden_sizes": [4, 6, 8, 12], "depths": [1, 1, 1, 1], "patch_size": 1},
        image_size=SIZE,
        **({"slots": [1, 3]} if kind == "age_vlm" else {}),
    )
    torch.manual_seed(seed)
    model = model_class(kind)(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    images = AgeVlmImageProcessor(config.image_size, config.cells, config.fit)
    AgeVlmProcessor(images, tokens).save_pretrained(folder)
    return folder


def small(*overrides: str, name: str = "demo") -> recipe.Recipe:
    """A shipped recipe at the tiny model's size, eight samples a step."""
    sizes = [f"stages.{number}.size={SIZE}" for number in range(1, 5)]
    common = [
        "stages.3.epochs=1",
        "batch=8",
        "precision=fp32",
        "resources.micro_batch=4",
        "resources.workers=0",
    ]
    return recipe.load(name, [*sizes, *common, *overrides])


def shards(folder: Path, count: int = 21, masked: int = 3, shard: int = 8) -> str:
    """A finished set of `count` samples, every `masked`-th of which has a mask."""
    store = Store(str(folder))
    for number, first in enumerate(range(0, count, shard)):
        with ShardWriter(store, number, "demo", GRID, "0" * 64) as writer:
            for sample in range(first, min(first + shard, count)):
                writer.add(_record(sample, bool(masked) and sample % masked == 0))
            writer.commit()
    index.finish(store, "0" * 64)
    return str(folder)


def _record(number: int, masked: bool) -> Record:
    random = np.random.default_rng(number)
    stream = io.BytesIO()
    Image.fromarray(random.integers(0, 255, (30, 40, 3), np.uint8)).save(stream, "PNG")
    text, answer = f"where is thing {number}", "there" * (1 + number % 3)
    turns = Turn("human", f"<image>\n{text}"), Turn("gpt", answer)
    sample = Sample(
        f"{number:016x}", f"row-{number}", f"{number}.png", turns, Query(text, ((0, 8, 8 + len(text)),))
    )
    mask = np.zeros((30, 40), bool)
    if masked:
        top, left = random.integers(0, 15), random.integers(0, 20)
        mask[top : top + 14, left : left + 19] = True
    box = (5.0, 5.0, 20.0, 20.0) if masked else (0.0, 0.0, 0.0, 0.0)
    done = Grounding(
        outcome=Outcome.OK if masked else Outcome.NO_GROUNDING,
        reason="" if masked else "nothing",
        polygons=[],
        mask=mask,
        grid=Frame.of(GRID).grid(mask),
        box=box,
        sam_iou=0.9 if masked else 0.0,
        agreement=1.0 if masked else 0.0,
        coverage=float(mask.mean()),
        query_truncated=False,
        tokens=0,
    )
    return Record(sample, done.outcome, done.reason, decode(stream.getvalue(), Limits()), done)
