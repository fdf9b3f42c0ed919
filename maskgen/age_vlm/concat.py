"""The architecture that the paper compares with: image tokens before the text, self-attention alone.

Shapes as in `modeling`.
"""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Cache, ConvNextModel, DynamicCache, LlamaModel
from transformers.generation import GenerationMixin
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.utils.generic import can_return_tuple

from maskgen.age_vlm.configuration import ConcatVlmConfig
from maskgen.age_vlm.cross_attention import QuerySelection, mean_over_queries, split_heads
from maskgen.age_vlm.modeling import (
    LayerRecord,
    VlmOutput,
    VlmPreTrainedModel,
    embed,
    kept_states,
    language_loss,
)
from maskgen.age_vlm.vision import Adapter, blank_image, image_features


class ConcatVlmForConditionalGeneration(VlmPreTrainedModel, GenerationMixin):
    """ConvNeXt, adapter and LLaMA; `input_ids` hold the text alone, the image's tokens are put before it.

    They take up their positions in every row, also in one without an image, where nothing attends to them.
    """

    config: ConcatVlmConfig
    model: Any
    config_class = ConcatVlmConfig
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.language.embed_tokens.weight"}

    def __init__(self, config: ConcatVlmConfig):
        super().__init__(config)
        self.model = nn.ModuleDict(
            {
                "vision": ConvNextModel(config.vision_config),
                "adapter": Adapter(config),
                "language": LlamaModel(config.text_config),
            }
        )
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        image_cells: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        guided: torch.Tensor | None = None,
        query_selection: QuerySelection | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        logits_at: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs: Any,
    ) -> VlmOutput:
        """As `AgeVlmForConditionalGeneration.forward`; states and logits are the text's alone.

        `guidance_maps`, float32 (1, G, N), are the first self-attention layer's weights from the query's
        tokens to the image's (Table 4); what goes to text is missing from their sum. `image_cells` is not
        used.
        """
        language: LlamaModel = self.model["language"]
        record = LayerRecord.of(self.config, output_hidden_states, output_attentions)
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache(config=self.config.text_config)
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        inputs_embeds = embed(self, input_ids, inputs_embeds)  # (B, T, C)
        rows, text_length = inputs_embeds.shape[:2]
        # What the cache holds of the image; the mask speaks of the text alone, and may be missing.
        image_length = getattr(past_key_values, "image_tokens", 0)
        # Then nothing is hidden but what comes later, and attention needs no mask.
        causal = attention_mask is None and has_image is None and not past_length
        if attention_mask is None:
            attended = past_length - image_length + text_length
            attention_mask = torch.ones(rows, attended, dtype=torch.long, device=inputs_embeds.device)
        if pixel_values is None and not past_length and self.training and torch.is_grad_enabled():
            pixel_values, has_image = blank_image(self, rows)
            causal = False
        if pixel_values is not None and not past_length:
            image = image_features(self.model["vision"], self.model["adapter"], pixel_values, has_image)
            inputs_embeds = torch.cat([image.to(inputs_embeds.dtype), inputs_embeds], dim=1)  # (B, N + T, C)
            image_length = image.shape[1]
            if past_key_values is not None:
                past_key_values.image_tokens = image_length
        image_mask = attention_mask.new_ones(rows, image_length)
        if has_image is not None:
            image_mask = image_mask * has_image[:, None].to(image_mask.dtype)
        mask = torch.cat([image_mask, attention_mask], dim=1)  # (B, N + all text so far)
        position_ids = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        out = language(
            inputs_embeds=inputs_embeds,
            attention_mask=None if causal else mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=bool(use_cache),
            output_attentions=record.attentions is not None,
            output_hidden_states=record.hidden_states is not None,
        )
        text_states = out.last_hidden_state[:, -text_length:]
        logits = self.lm_head(kept_states(text_states, logits_to_keep, logits_at))
        if query_selection is None and query_mask is not None and guided is not None:
            query_selection = QuerySelection(query_mask, guided)
        with_image = bool(image_length and not past_length)
        maps = None
        if query_selection is not None and with_image:
            maps = self._first_attention(inputs_embeds, mask, position_ids, query_selection, image_length)[
                None
            ]
        return VlmOutput(
            loss=None if labels is None else language_loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=out.past_key_values,
            guidance_maps=maps,
            text_states=text_states,
            image_states=out.last_hidden_state[:, :-text_length] if with_image else None,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )

    def _first_attention(
        self,
        inputs_embeds: torch.Tensor,
        mask: torch.Tensor,
        position_ids: torch.Tensor,
        query_selection: QuerySelection,
        image_length: int,
    ) -> torch.Tensor:
        """Float32 (G, N): the first layer's softmax over all that a query token can attend to, averaged over
        heads and the query's tokens.

        `inputs_embeds`: (B, L, C), `mask`, `position_ids`: (B, L), with the image first, L = N + T.
        """
        language: LlamaModel = self.model["language"]
        layer = language.layers[0]
        attention, rows = layer.self_attn, query_selection.rows
        hidden_states = layer.input_layernorm(inputs_embeds[rows])  # (G, L, C)
        query = split_heads(attention.q_proj(hidden_states), attention.head_dim)  # (G, H, L, D)
        key = split_heads(attention.k_proj(hidden_states), attention.head_dim)  # (G, K, L, D)
        cos, sin = language.rotary_emb(inputs_embeds, position_ids=position_ids[rows])
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        places = query_selection.positions + image_length  # (G, Q), in the sequence with the image first
        index = places[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[-1])
        grouped = query.gather(2, index).float().unflatten(1, (key.shape[1], -1))  # (G, K, H / K, Q, D)
        scores = grouped @ key.float().unsqueeze(2).transpose(-1, -2) * attention.scaling
        causal = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) <= places[..., None]
        allowed = causal & mask[rows].bool()[:, None]  # (G, Q, L)
        weights = scores.masked_fill(~allowed[:, None, None], float("-inf")).softmax(dim=-1)
        to_image = weights[..., :image_length].mean(dim=(1, 2))  # (G, Q, N)
        return mean_over_queries(to_image, query_selection.valid)

    def _prepare_cache_for_generation(
        self, config: Any, model_kwargs: Any, mode: Any, batch_size: int, max_cache_length: int
    ) -> None:
        """transformers counts the text; a static cache must also hold the image."""
        length = max_cache_length + self.config.cells**2
        super()._prepare_cache_for_generation(config, model_kwargs, mode, batch_size, length)

    @staticmethod
    def create_masks_for_generate(attention_mask: torch.Tensor | None, **_: Any) -> torch.Tensor | None:
        """The text's mask as it is, (B, all text so far): `forward` puts the image's before it."""
        return attention_mask

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The pixels are for the first step alone; positions are counted here, image included."""
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
        prepared.pop("position_ids", None)
        cache = prepared.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            prepared["pixel_values"] = None
        return prepared
