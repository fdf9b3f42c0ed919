"""The architecture that the paper compares with: image tokens before the text, self-attention alone."""

from typing import Any, ClassVar

import torch
from torch import nn
from transformers import Cache, ConvNextModel, DynamicCache, LlamaModel
from transformers.generation import GenerationMixin
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from maskgen.age_vlm.configuration import ConcatVlmConfig
from maskgen.age_vlm.cross_attention import Asking
from maskgen.age_vlm.modeling import VlmOutput, VlmPreTrainedModel, language_loss, parts
from maskgen.age_vlm.vision import Adapter, look, nothing_to_see


class ConcatVlmForConditionalGeneration(VlmPreTrainedModel, GenerationMixin):
    """ConvNeXt, adapter and LLaMA; `input_ids` hold the text alone, the image's tokens are put before it.

    They take up their places in every row, also in one without an image, where nothing attends to them.
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

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        has_image: torch.Tensor | None = None,
        image_cells: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        query_mask: torch.Tensor | None = None,
        guided: torch.Tensor | None = None,
        asking: Asking | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> VlmOutput:
        """As `AgeVlmForConditionalGeneration.forward`; states and logits are the text's alone.

        `guidance_maps`, float32 (1, G, N), are the first self-attention layer's weights from the query's
        tokens to the image's (Table 4); what goes to text is missing from their sum. `image_cells` is not
        used.
        """
        language: LlamaModel = self.model["language"]
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache(config=self.config.text_config)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = input_ids.shape[1]
        # What the cache holds of the image; the mask speaks of the text alone, and may be missing.
        tokens = getattr(past_key_values, "image_tokens", 0)
        if attention_mask is None:
            attention_mask = input_ids.new_ones(len(input_ids), past - tokens + length)
        if pixel_values is None and not past and self.training and torch.is_grad_enabled():
            pixel_values, has_image = nothing_to_see(self, len(input_ids))
        hidden = language.embed_tokens(input_ids)
        if pixel_values is not None and not past:
            image = look(self.model["vision"], self.model["adapter"], pixel_values, has_image)
            hidden = torch.cat([image.to(hidden.dtype), hidden], dim=1)
            tokens = image.shape[1]
            if past_key_values is not None:
                past_key_values.image_tokens = tokens
        seen = attention_mask.new_ones(len(input_ids), tokens)
        if has_image is not None:
            seen = seen * has_image[:, None].to(seen.dtype)
        mask = torch.cat([seen, attention_mask], dim=1)
        positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -hidden.shape[1] :]
        out = language(
            inputs_embeds=hidden,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past_key_values,
            use_cache=bool(use_cache),
        )
        text = out.last_hidden_state[:, -length:]
        logits = self.lm_head(text[:, -logits_to_keep:] if logits_to_keep else text)
        if asking is None and query_mask is not None and guided is not None:
            asking = Asking(query_mask, guided)
        maps = None
        if asking is not None and tokens and not past:
            maps = self._first_attention(hidden, mask, positions, asking, tokens)[None]
        return VlmOutput(
            loss=None if labels is None else language_loss(logits, labels),
            logits=logits,
            past_key_values=out.past_key_values,
            guidance_maps=maps,
            text_states=text,
            image_states=out.last_hidden_state[:, :-length] if tokens and not past else None,
        )

    def _first_attention(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        asking: Asking,
        tokens: int,
    ) -> torch.Tensor:
        """Float32 (G, tokens): softmax over all that a query token sees, mean over heads and tokens."""
        language: LlamaModel = self.model["language"]
        layer = language.layers[0]
        attention = layer.self_attn
        states = layer.input_layernorm(hidden[asking.rows])
        shape = (*states.shape[:2], -1, attention.head_dim)
        query = attention.q_proj(states).view(shape).transpose(1, 2)
        key = attention.k_proj(states).view(shape).transpose(1, 2)
        cos, sin = language.rotary_emb(hidden, position_ids=positions[asking.rows])
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        places = asking.tokens + tokens  # in the sequence that begins with the image
        chosen = places[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[-1])
        grouped = query.gather(2, chosen).float().unflatten(1, (key.shape[1], -1))
        scores = grouped @ key.float().unsqueeze(2).transpose(-1, -2) * attention.scaling
        before = torch.arange(hidden.shape[1], device=hidden.device) <= places[..., None]
        allowed = before & mask[asking.rows].bool()[:, None]
        weights = scores.masked_fill(~allowed[:, None, None], float("-inf")).softmax(dim=-1)
        mean = weights[..., :tokens].mean(dim=(1, 2))
        share = asking.there.float() / asking.there.sum(dim=1, keepdim=True).clamp(min=1)
        return (mean * share[..., None]).sum(dim=1)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """The pixels are for the first step alone; positions are counted here, image included."""
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        prepared.pop("position_ids", None)
        cache = prepared.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            prepared["pixel_values"] = None
        return prepared

    def parts(self) -> dict[str, list[str]]:
        """As `AgeVlmForConditionalGeneration.parts`; there is no cross-attention."""
        return parts(self)
