"""Models without memory for their weights, on torch's meta device: for counting FLOPs and bytes."""

import torch
from transformers import LlamaModel

from maskgen.age_vlm.configuration import VisionLanguageConfig
from maskgen.age_vlm.modeling import AgeVlmForConditionalGeneration, VlmPreTrainedModel
from maskgen.age_vlm.registry import model_class
from maskgen.age_vlm.vision import image_features


def meta_model(config: VisionLanguageConfig) -> VlmPreTrainedModel:
    """The model of `config` on the meta device."""
    with torch.device("meta"):
        return model_class(config.model_type)(config)


def meta_logits(
    model: VlmPreTrainedModel, input_ids: torch.Tensor, pixel_values: torch.Tensor
) -> torch.Tensor:
    """The logits (B, T, vocabulary) of a forward pass that reads no value, since meta tensors have none.

    `input_ids`: (B, T). `pixel_values`: (B, 3, S, S).
    """
    if isinstance(model, AgeVlmForConditionalGeneration):
        mask = _full_mask(*input_ids.shape)
        logits = model(input_ids=input_ids, attention_mask=mask, pixel_values=pixel_values).logits
        return logits
    # `concat`'s own forward makes its mask from values.
    language: LlamaModel = model.model["language"]
    image = image_features(model.model["vision"], model.model["adapter"], pixel_values, None)  # (B, N, C)
    embeddings = torch.cat([image, language.embed_tokens(input_ids)], dim=1)
    mask = _full_mask(*embeddings.shape[:2])
    out = language(inputs_embeds=embeddings, attention_mask=mask, use_cache=False).last_hidden_state
    logits = model.lm_head(out[:, -input_ids.shape[1] :])
    return logits


def meta_text_logits(model: VlmPreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """The same of a text (B, T) without an image, by LLaMA's own layers and head."""
    mask = _full_mask(*input_ids.shape)
    out = model.model["language"](input_ids=input_ids, attention_mask=mask, use_cache=False)
    logits: torch.Tensor = model.lm_head(out.last_hidden_state)
    return logits


def _full_mask(rows: int, length: int) -> torch.Tensor:
    """A mask (B, 1, T, T) that transformers takes as it is: making one would read values."""
    return torch.ones(rows, 1, length, length, dtype=torch.bool, device="meta")
