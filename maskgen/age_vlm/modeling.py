"""AGE-VLM: a LLaMA with interleaved cross-attention layers (Section 3.2).

Shapes: B rows, T text tokens, N image tokens, C LLaMA's width, G guided rows, S pixels a side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, ConvNextModel, DynamicCache, EncoderDecoderCache, LlamaModel, PreTrainedConfig
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.models.convnext.modeling_convnext import ConvNextLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.utils.generic import can_return_tuple

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

    `hidden_states`, with `output_hidden_states`: (B, T, C), the embeddings, then what each layer of the stack
    makes of them, the last after the norm. `attentions`, with `output_attentions` and the "eager" attention
    implementation: (B, H, T, all text so far) of each LLaMA layer; `concat` counts the image's tokens with
    the text in both. `cross_attentions`, with `output_attentions` and an image: float32 (B, H, T, N) of each
    cross-attention layer, zero in rows without an image.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    guidance_maps: torch.Tensor | None = None
    text_states: torch.Tensor | None = None
    image_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


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
        position_ids: torch.Tensor | None = None,
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
        """One pass.

        `input_ids`, `attention_mask`, `labels` (-100 is not learnt), `query_mask`: (B, T). `pixel_values`:
        float (images, 3, S, S), the images in the order of the rows that have one. `has_image`: bool (B,);
        left out, every row has one, or none if there are no pixels. `image_cells`: bool (images, N), the
        cells that hold image, of use with `fit` "pad". `guided`: bool (B,), rows whose attention from the
        tokens in `query_mask` is wanted; `query_selection` says the same with more freedom. `inputs_embeds`:
        (B, T, C) in place of `input_ids`. `logits_to_keep`: so many of the last tokens' logits alone, or
        those of the places it lists; `logits_at`: int64 (n,), logits (n, vocabulary) at these places of all
        rows one after the other. `num_items_in_batch`: what the loss is divided by instead of its own
        tokens, where a step accumulates several batches. Other keywords are not used.
        """
        embeddings = embed(self, input_ids, inputs_embeds)
        record = LayerRecord.of(self.config, output_hidden_states, output_attentions)
        cache = self._encoder_decoder_cache(past_key_values, use_cache)
        if query_selection is None and query_mask is not None and guided is not None:
            query_selection = QuerySelection(query_mask, guided)
        image = self._image(len(embeddings), cache, pixel_values, has_image, image_cells, query_selection)
        with record.self_attentions(self.model["language"]):
            hidden_states = self._language(embeddings, attention_mask, position_ids, cache, image, record)
        logits = self.lm_head(kept_states(hidden_states, logits_to_keep, logits_at))
        return VlmOutput(
            loss=None if labels is None else language_loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=cache,
            guidance_maps=torch.stack(image.maps) if image.maps else None,
            text_states=hidden_states,
            image_states=image.features,
            **record.outputs(),
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
        rows: int,
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
            pixel_values, has_image = blank_image(self, rows)
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
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        cache: EncoderDecoderCache | None,
        image: "_ImageInputs",
        record: "LayerRecord",
    ) -> torch.Tensor:
        """LLaMA's layers and the cross-attention layers between them: (B, T, C) to (B, T, C)."""
        language: LlamaModel = self.model["language"]
        text_cache = None if cache is None else cache.self_attention_cache
        causal_mask = create_causal_mask(
            config=self.config.text_config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            past_key_values=text_cache,
            position_ids=position_ids,  # those given may say that a row packs several texts; our own do not
        )
        if position_ids is None:
            past = 0 if text_cache is None else text_cache.get_seq_length()
            position_ids = (torch.arange(hidden_states.shape[1], device=hidden_states.device) + past)[None]
        options = {
            "attention_mask": causal_mask,
            "position_ids": position_ids,
            "position_embeddings": language.rotary_emb(hidden_states, position_ids=position_ids),
            "past_key_values": text_cache,
            "use_cache": cache is not None,
            "output_attentions": record.attentions is not None,  # for transformers' own warning
        }
        within: int | None = None  # the cross-attention layer that stands inside the next LLaMA layer
        for kind, index in self.config.layer_order():
            if kind == "cross" and self.config.placement == "in_block":
                within = index
                continue
            record.enters(hidden_states)
            if kind == "cross":
                hidden_states = self._cross_attend(index, hidden_states, cache, image, record)
            elif within is None:
                hidden_states = language.layers[index](hidden_states, **options)
            else:
                # A LLaMA layer with the cross-attention between its two halves.
                layer = language.layers[index]
                attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **options)
                hidden_states = self._cross_attend(within, hidden_states + attended, cache, image, record)
                hidden_states = hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))
                within = None
        normed: torch.Tensor = language.norm(hidden_states)
        record.enters(normed)
        return normed

    def _cross_attend(
        self,
        index: int,
        hidden_states: torch.Tensor,
        cache: EncoderDecoderCache | None,
        image: "_ImageInputs",
        record: "LayerRecord",
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
        if record.cross_attentions is not None:
            weights = layer.attention_weights(hidden_states, key, image.has_image, image.mask)
            record.cross_attentions.append(weights)
        hidden_states, attention_map = layer(
            hidden_states, key, value, image.has_image, image.mask, image.query_selection
        )
        if attention_map is not None:
            image.maps.append(attention_map)
        return hidden_states

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The pixels are for the first step alone; after it, their keys and values are in the cache."""
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, **kwargs
        )
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


@dataclass
class LayerRecord:
    """What a pass returns of its layers besides the result, each None where it is not asked for."""

    hidden_states: list[torch.Tensor] | None
    attentions: list[torch.Tensor] | None
    cross_attentions: list[torch.Tensor] | None

    @classmethod
    def of(
        cls, config: PreTrainedConfig, output_hidden_states: bool | None, output_attentions: bool | None
    ) -> "LayerRecord":
        """An empty one of what is asked for, by the call or else by the configuration."""
        states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        attentions = config.output_attentions if output_attentions is None else output_attentions
        return cls([] if states else None, [] if attentions else None, [] if attentions else None)

    def enters(self, hidden_states: torch.Tensor) -> None:
        """Note what the next layer is given, or what the last norm returns."""
        if self.hidden_states is not None:
            self.hidden_states.append(hidden_states)

    @contextmanager
    def self_attentions(self, language: LlamaModel) -> Iterator[None]:
        """Note the weights of LLaMA's layers, which return them to nobody, while this is entered."""
        noted = self.attentions
        if noted is None:
            yield
            return

        def note(_module: nn.Module, _given: Any, returned: tuple[torch.Tensor, torch.Tensor | None]) -> None:
            if returned[1] is not None:  # "eager" alone computes them
                noted.append(returned[1])

        hooks = [layer.self_attn.register_forward_hook(note) for layer in language.layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def outputs(self) -> dict[str, tuple[torch.Tensor, ...]]:
        """By the names of `VlmOutput`."""
        return {name: tuple(value) for name, value in vars(self).items() if value is not None}


def embed(
    model: VlmPreTrainedModel, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None
) -> torch.Tensor:
    """The text's embeddings (B, T, C): of `input_ids` (B, T), or as they are given."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    if inputs_embeds is None:
        inputs_embeds = model.get_input_embeddings()(input_ids)
    return inputs_embeds


def kept_states(
    hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor, logits_at: torch.Tensor | None = None
) -> torch.Tensor:
    """Of (B, T, C), the last `logits_to_keep` places (0: all), or the places that it lists.

    With `logits_at`, int64 (n,), states (n, C) at these places of all rows one after the other.
    """
    if logits_at is not None:
        return hidden_states.flatten(0, 1).index_select(0, logits_at)
    if isinstance(logits_to_keep, torch.Tensor):
        return hidden_states[:, logits_to_keep]
    return hidden_states[:, -logits_to_keep:] if logits_to_keep else hidden_states


def language_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items: int | torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of the next token, float32: over `num_items`, or the mean over the labels that count; 0
    where nothing is to be learnt.
    """
    targets = labels[:, 1:]
    total = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )
    return total / ((targets != -100).sum().clamp(min=1) if num_items is None else num_items)
