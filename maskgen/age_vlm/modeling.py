"""AGE-VLM: a LLaMA with interleaved cross-attention layers (Section 3.2).

Shapes: B rows, T text tokens, N image tokens, C LLaMA's width, G guided rows, S pixels a side.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, ConvNextModel, DynamicCache, EncoderDecoderCache, LlamaModel
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.models.convnext.modeling_convnext import ConvNextLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from maskgen.age_vlm.configuration import AgeVlmConfig
from maskgen.age_vlm.cross_attention import CrossAttentionLayer, QuerySelection, ZeroInitLinear
from maskgen.age_vlm.parameter_parts import parameter_names_by_part
from maskgen.age_vlm.vision import Adapter, blank_image, image_features

_LAYERS = (LlamaDecoderLayer, CrossAttentionLayer, ConvNextLayer)


@dataclass
class VlmOutput(ModelOutput):
    """What both architectures return.

    `loss`: mean cross-entropy of the labels, if given. `logits`: (B, T, vocabulary). `guidance_maps`: float32
    (layers, G, N), the attention to each image token by the masked rows' query tokens, if asked for.
    `text_states`: (B, T, C) after the last layer's norm; `image_states`: (B, N, C), what the text attends to
    (`concat`: the image tokens after the last layer).
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    guidance_maps: torch.Tensor | None = None
    text_states: torch.Tensor | None = None
    image_states: torch.Tensor | None = None


class VlmPreTrainedModel(PreTrainedModel):
    """What both architectures share: loading, saving, first weights, and the names of their parts."""

    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = [layer.__name__ for layer in _LAYERS]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ZeroInitLinear):
            init.zeros_(module.weight)  # transformers' own functions alone leave loaded weights as they are
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.get_submodule("model.language").embed_tokens
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.get_submodule("model.language").embed_tokens = value

    def parts(self) -> dict[str, list[str]]:
        """Parameter names by the columns of Table 1 (see `parameter_names_by_part`)."""
        return parameter_names_by_part(self)

    def repeated_layers(self) -> list[nn.Module]:
        """ConvNeXt's, LLaMA's and the cross-attention layers: what is checkpointed or compiled one by one."""
        return [module for module in self.modules() if isinstance(module, _LAYERS)]

    def fsdp_units(self) -> list[nn.Module]:
        """The layers that are only ever called as a whole, so that FSDP can gather each by itself.

        What is none of them is gathered with the model.
        """
        return [
            layer for layer in self.repeated_layers() if isinstance(layer, LlamaDecoderLayer | ConvNextLayer)
        ]


class AgeVlmForConditionalGeneration(VlmPreTrainedModel, GenerationMixin):
    """ConvNeXt, adapter, and a LLaMA whose layers alternate with cross-attention layers.

    `model.vision`, `model.adapter` and `model.language` are plain modules with their own libraries' names;
    `model.cross` holds the new layers.
    """

    config: AgeVlmConfig
    model: Any
    config_class = AgeVlmConfig
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.language.embed_tokens.weight"}

    def __init__(self, config: AgeVlmConfig):
        super().__init__(config)
        self.model = nn.ModuleDict(
            {
                "vision": ConvNextModel(config.vision_config),
                "adapter": Adapter(config),
                "language": LlamaModel(config.text_config),
                "cross": nn.ModuleList(CrossAttentionLayer(config) for _ in config.slots),
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
        query_selection: QuerySelection | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> VlmOutput:
        """One pass.

        `input_ids`, `attention_mask`, `labels` (-100 is not learnt), `query_mask`: (B, T). `pixel_values`:
        float (images, 3, S, S), the images in the order of the rows that have one. `has_image`: bool (B,);
        left out, every row has one, or none if there are no pixels. `image_cells`: bool (images, N), the
        cells that hold image, of use with `fit` "pad". `guided`: bool (B,), rows whose attention from the
        tokens in `query_mask` is wanted; `query_selection` says the same with more freedom.
        """
        cache = self._encoder_decoder_cache(past_key_values, use_cache)
        if query_selection is None and query_mask is not None and guided is not None:
            query_selection = QuerySelection(query_mask, guided)
        image = self._image(input_ids, cache, pixel_values, has_image, image_cells, query_selection)
        hidden_states = self._language(input_ids, attention_mask, position_ids, cache, image)  # (B, T, C)
        logits = self.lm_head(hidden_states[:, -logits_to_keep:] if logits_to_keep else hidden_states)
        return VlmOutput(
            loss=None if labels is None else language_loss(logits, labels),
            logits=logits,
            past_key_values=cache,
            guidance_maps=torch.stack(image.maps) if image.maps else None,
            text_states=hidden_states,
            image_states=image.features,
        )

    def _encoder_decoder_cache(
        self, cache: Cache | None, use_cache: bool | None
    ) -> EncoderDecoderCache | None:
        """Self-attention keys that grow with the text, and cross-attention keys that are computed once."""
        if cache is None and not use_cache:
            return None
        if isinstance(cache, EncoderDecoderCache):
            return cache
        return EncoderDecoderCache(cache or DynamicCache(config=self.config.text_config), DynamicCache())

    def _image(
        self,
        input_ids: torch.Tensor,
        cache: EncoderDecoderCache | None,
        pixel_values: torch.Tensor | None,
        has_image: torch.Tensor | None,
        image_cells: torch.Tensor | None,
        query_selection: QuerySelection | None,
    ) -> "_ImageInputs":
        """The image as the cross-attention layers take it."""
        cached = bool(cache and cache.is_updated.get(0))
        if pixel_values is None and not cached:
            if has_image is not None and bool(has_image.any()):
                raise ValueError("has_image says that rows have an image, but pixel_values is missing")
            if not (self.training and torch.is_grad_enabled()):
                return _ImageInputs(None, None, None, query_selection)
            pixel_values, has_image = blank_image(self, len(input_ids))
        mask = None
        if image_cells is not None and not self.config.attend_padding:
            mask = image_cells
            if has_image is not None:
                mask = image_cells.new_ones(len(has_image), image_cells.shape[1], dtype=torch.bool)  # (B, N)
                mask[has_image] = image_cells
        if cached:
            return _ImageInputs(None, has_image, mask, query_selection)
        assert pixel_values is not None
        features = image_features(self.model["vision"], self.model["adapter"], pixel_values, has_image)
        return _ImageInputs(features, has_image, mask, query_selection)

    def _language(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        cache: EncoderDecoderCache | None,
        image: "_ImageInputs",
    ) -> torch.Tensor:
        """LLaMA's layers and the cross-attention layers between them: (B, T) to (B, T, C)."""
        language: LlamaModel = self.model["language"]
        text_cache = None if cache is None else cache.self_attention_cache
        hidden_states = language.embed_tokens(input_ids)  # (B, T, C)
        if position_ids is None:
            past = 0 if text_cache is None else text_cache.get_seq_length()
            position_ids = (torch.arange(hidden_states.shape[1], device=hidden_states.device) + past)[None]
        causal_mask = create_causal_mask(
            config=self.config.text_config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=text_cache,
            position_ids=position_ids,
        )
        options = {
            "attention_mask": causal_mask,
            "position_ids": position_ids,
            "position_embeddings": language.rotary_emb(hidden_states, position_ids=position_ids),
            "past_key_values": text_cache,
            "use_cache": cache is not None,
        }
        within: int | None = None  # the cross-attention layer that stands inside the next LLaMA layer
        for kind, index in self.config.layer_order():
            if kind == "cross" and self.config.placement == "stack":
                hidden_states = self._cross_attend(index, hidden_states, cache, image)
            elif kind == "cross":
                within = index
            elif within is None:
                hidden_states = language.layers[index](hidden_states, **options)
            else:
                # A LLaMA layer with the cross-attention between its two halves.
                layer = language.layers[index]
                attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **options)
                hidden_states = self._cross_attend(within, hidden_states + attended, cache, image)
                hidden_states = hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))
                within = None
        normed: torch.Tensor = language.norm(hidden_states)
        return normed

    def _cross_attend(
        self,
        index: int,
        hidden_states: torch.Tensor,
        cache: EncoderDecoderCache | None,
        image: "_ImageInputs",
    ) -> torch.Tensor:
        """One cross-attention layer, (B, T, C) to (B, T, C); the identity where there is no image at all."""
        layer: CrossAttentionLayer = self.model["cross"][index]
        if cache is not None and cache.is_updated.get(index):
            cached = cache.cross_attention_cache.layers[index]
            key, value = cached.keys, cached.values
        elif image.features is None:
            return hidden_states
        else:
            key, value = layer.cross_attn.keys_and_values(image.features)
            if cache is not None:
                key, value = cache.cross_attention_cache.update(key, value, index)
                cache.is_updated[index] = True
        hidden_states, attention_map = layer(
            hidden_states, key, value, image.has_image, image.mask, image.query_selection
        )
        if attention_map is not None:
            image.maps.append(attention_map)
        return hidden_states

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """The pixels are for the first step alone; after it, their keys and values are in the cache."""
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        cache = prepared.get("past_key_values")
        if isinstance(cache, EncoderDecoderCache) and cache.is_updated.get(0):
            prepared["pixel_values"] = None
        return prepared

    def fsdp_units(self) -> list[nn.Module]:
        """As `VlmPreTrainedModel.fsdp_units`. A cross-attention layer is also asked for its keys alone, and
        with `placement` "in_block" a LLaMA layer is called in two halves.
        """
        if self.config.placement == "stack":
            return super().fsdp_units()
        return [layer for layer in self.repeated_layers() if isinstance(layer, ConvNextLayer)]


@dataclass
class _ImageInputs:
    """What the cross-attention layers of one pass share.

    `features`: (B, N, C), None without an image and once its keys are cached. `has_image`: bool (B,), None if
    all rows have one. `mask`: bool (B, N), cells that can be attended to, None if all can. `maps`: one (G, N)
    a layer that has run, if `query_selection` asks for them.
    """

    features: torch.Tensor | None
    has_image: torch.Tensor | None
    mask: torch.Tensor | None
    query_selection: QuerySelection | None
    maps: list[torch.Tensor] = field(default_factory=list)


def language_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, float32; 0 where nothing is to be learnt."""
    targets = labels[:, 1:]
    total = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )
    return total / (targets != -100).sum().clamp(min=1)
