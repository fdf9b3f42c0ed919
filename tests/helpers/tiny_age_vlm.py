"""Tiny models of both architectures, and batches for them."""

import torch
from transformers import ConvNextConfig, LlamaConfig, PreTrainedTokenizerFast

from maskgen.age_vlm import (
    AgeVlmConfig,
    AgeVlmForConditionalGeneration,
    AgeVlmImageProcessor,
    AgeVlmProcessor,
    ConcatVlmConfig,
    ConcatVlmForConditionalGeneration,
)
from maskgen.small_models import checkpoint

WORDS, SIDE, CELLS = 97, 64, 16


def text_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def vision_config() -> ConvNextConfig:
    return ConvNextConfig(patch_size=2, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 2])


def age_vlm(awake: bool = True, **options) -> AgeVlmForConditionalGeneration:
    """A model in eval mode; `awake`: its cross-attention says something, unlike at the start."""
    torch.manual_seed(0)
    options = {"slots": [1, 4], **options}
    model = AgeVlmForConditionalGeneration(
        AgeVlmConfig(text_config(), vision_config(), image_size=SIDE, **options)
    ).eval()
    with torch.no_grad():
        for layer in model.model["vision"].encoder.stages.modules():
            if hasattr(layer, "layer_scale_parameter"):
                layer.layer_scale_parameter.fill_(0.5)
        for name, weight in model.named_parameters():
            if "model.cross" in name and weight.dim() == 2 and awake:
                weight.normal_(0, 0.3)
            if name.endswith("_gate") and awake:
                weight.fill_(0.7)
    return model


def concat(**options) -> ConcatVlmForConditionalGeneration:
    torch.manual_seed(0)
    return ConcatVlmForConditionalGeneration(
        ConcatVlmConfig(text_config(), vision_config(), image_size=SIDE, **options)
    ).eval()


def batch(rows: int = 3, length: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(3, WORDS, (rows, length), generator=generator),
        "attention_mask": torch.ones(rows, length, dtype=torch.long),
        "pixel_values": torch.randn(rows, 3, SIDE, SIDE, generator=generator),
    }


def made(kind, fit="squash"):
    """A model with the demo LLaMA's tokenizer that says something else for every image, and its processor."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint("llama"))
    torch.manual_seed(0)
    model = age_vlm(fit=fit) if kind == "age_vlm" else concat(fit=fit)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        for weight in model.model["language"].parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.3)  # wider than at the start: else it repeats the last word
    processor = AgeVlmProcessor(AgeVlmImageProcessor(SIDE, SIDE // 16, fit), tokenizer)
    return model, processor
