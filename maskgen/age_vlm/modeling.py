"""AGE-VLM: a LLaMA with interleaved cross-attention layers (Section 3.2)."""

from dataclasses import dataclass
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

from maskgen.age_vlm.configuration import AgeVlmConfig
from maskgen.age_vlm.cross_attention import Asking, Closed, CrossAttentionLayer
from maskgen.age_vlm.vision import Adapter, look, nothing_to_see


@dataclass
class VlmOutput(ModelOutput):
    """What both architectures return.

    `loss`: mean cross-entropy of the labels, if given. `logits`: (B, T, words). `guidance_maps`: float32
    (layers, G, N), the attention to each image token by the masked rows' query tokens, if asked for.
    `text_states`: (B, T, width) after the last layer's norm; `image_states`: (B, N, width), what the text
    attends to (`concat`: the image tokens after the last layer).
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    guidance_maps: torch.Tensor | None = None
    text_states: torch.Tensor | None = None
    image_states: torch.Tensor | None = None


class VlmPreTrainedModel(PreTrainedModel):
    """Loading, saving and first weights of both architectures."""

    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar[list[str]] = ["LlamaDecoderLayer", "CrossAttentionLayer", "ConvNextLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Closed):
            init.zeros_(module.weight)  # transformers' own functions alone leave loaded weights as they are
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.get_submodule("model.language").embed_tokens
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.get_submodule("model.language").embed_tokens = value


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
        asking: Asking | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> VlmOutput:
        """One pass.

        `input_ids`, `attention_mask`, `labels` (-100 is not learnt), `query_mask`: (B, T). `pixel_values`:
        float (N, 3, S, S), the images in the order of the rows that have one. `has_image`: bool (B,); left
        out, every row has one, or none if there are no pixels. `image_cells`: bool (N, cells^2), the cells
        that hold image, of use with `fit` "pad". `guided`: bool (B,), rows whose attention from the tokens in
        `query_mask` is wanted; `asking` says the same with more freedom.
        """
        cache = self._cache(past_key_values, use_cache)
        eyes = self._eyes(input_ids, cache, pixel_values, has_image, image_cells)
        if asking is None and query_mask is not None and guided is not None:
            asking = Asking(query_mask, guided)
        hidden, maps = self._run(input_ids, attention_mask, position_ids, cache, eyes, asking)
        logits = self.lm_head(hidden[:, -logits_to_keep:] if logits_to_keep else hidden)
        return VlmOutput(
            loss=None if labels is None else language_loss(logits, labels),
            logits=logits,
            past_key_values=cache,
            guidance_maps=torch.stack(maps) if maps else None,
            text_states=hidden,
            image_states=eyes.states,
        )

    def _cache(self, cache: Cache | None, use_cache: bool | None) -> EncoderDecoderCache | None:
        """Text keys that grow, and image keys that are computed once."""
        if cache is None and not use_cache:
            return None
        if isinstance(cache, EncoderDecoderCache):
            return cache
        return EncoderDecoderCache(cache or DynamicCache(config=self.config.text_config), DynamicCache())

    def _eyes(
        self,
        input_ids: torch.Tensor,
        cache: EncoderDecoderCache | None,
        pixel_values: torch.Tensor | None,
        has_image: torch.Tensor | None,
        image_cells: torch.Tensor | None,
    ) -> "_Eyes":
        remembered = bool(cache and cache.is_updated.get(0))
        if pixel_values is None and not remembered:
            if has_image is not None and bool(has_image.any()):
                raise ValueError("has_image says that rows have an image, but pixel_values is missing")
            if not (self.training and torch.is_grad_enabled()):
                return _Eyes(None, None, None)
            pixel_values, has_image = nothing_to_see(self, len(input_ids))
        allowed = None
        if image_cells is not None and not self.config.attend_padding:
            allowed = image_cells
            if has_image is not None:
                allowed = torch.ones(
                    len(has_image), image_cells.shape[1], dtype=torch.bool, device=image_cells.device
                )
                allowed[has_image] = image_cells
        if remembered:
            return _Eyes(None, has_image, allowed)
        assert pixel_values is not None
        states = look(self.model["vision"], self.model["adapter"], pixel_values, has_image)
        return _Eyes(states, has_image, allowed)

    def _run(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        cache: EncoderDecoderCache | None,
        eyes: "_Eyes",
        asking: Asking | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The stack of self- and cross-attention layers: last states, and each of the latter's map."""
        language: LlamaModel = self.model["language"]
        text_cache = None if cache is None else cache.self_attention_cache
        hidden = language.embed_tokens(input_ids)
        if position_ids is None:
            past = 0 if text_cache is None else text_cache.get_seq_length()
            position_ids = (torch.arange(hidden.shape[1], device=hidden.device) + past)[None]
        mask = create_causal_mask(
            config=self.config.text_config,
            inputs_embeds=hidden,
            attention_mask=attention_mask,
            past_key_values=text_cache,
            position_ids=position_ids,
        )
        self_attention = {
            "attention_mask": mask,
            "position_ids": position_ids,
            "position_embeddings": language.rotary_emb(hidden, position_ids=position_ids),
            "past_key_values": text_cache,
            "use_cache": cache is not None,
        }
        maps: list[torch.Tensor] = []
        inside: int | None = None
        for kind, number in self.config.stack():
            if kind == "cross" and self.config.placement == "stack":
                hidden = self._look_up(number, hidden, cache, eyes, asking, maps)
            elif kind == "cross":
                inside = number
            elif inside is None:
                hidden = language.layers[number](hidden, **self_attention)
            else:
                layer = language.layers[number]
                hidden = self._block(layer, hidden, self_attention, inside, cache, eyes, asking, maps)
                inside = None
        return language.norm(hidden), maps

    def _look_up(
        self,
        number: int,
        hidden: torch.Tensor,
        cache: EncoderDecoderCache | None,
        eyes: "_Eyes",
        asking: Asking | None,
        maps: list[torch.Tensor],
    ) -> torch.Tensor:
        """One cross-attention layer; nothing where there is no image at all."""
        layer: CrossAttentionLayer = self.model["cross"][number]
        if cache is not None and cache.is_updated.get(number):
            held = cache.cross_attention_cache.layers[number]
            key, value = held.keys, held.values
        elif eyes.states is None:
            return hidden
        else:
            key, value = layer.cross_attn.seen(eyes.states)
            if cache is not None:
                key, value = cache.cross_attention_cache.update(key, value, number)
                cache.is_updated[number] = True
        hidden, guidance = layer(hidden, key, value, eyes.has_image, eyes.allowed, asking)
        if guidance is not None:
            maps.append(guidance)
        return hidden

    def _block(
        self,
        layer: Any,
        hidden: torch.Tensor,
        self_attention: dict[str, Any],
        number: int,
        cache: EncoderDecoderCache | None,
        eyes: "_Eyes",
        asking: Asking | None,
        maps: list[torch.Tensor],
    ) -> torch.Tensor:
        """A LLaMA layer with the cross-attention between its two halves (`placement` "in_block")."""
        attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden), **self_attention)
        hidden = self._look_up(number, hidden + attended, cache, eyes, asking, maps)
        out: torch.Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return out

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """The pixels are for the first step alone; after it, their keys and values are in the cache."""
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)
        cache = prepared.get("past_key_values")
        if isinstance(cache, EncoderDecoderCache) and cache.is_updated.get(0):
            prepared["pixel_values"] = None
        return prepared

    def parts(self) -> dict[str, list[str]]:
        """Parameter names by the columns of Table 1, and the vision encoder's last stage and last block.

        The output layer counts as the LLaMA's own, also where it shares the embeddings' weights.
        """
        return parts(self)


@dataclass
class _Eyes:
    """What the text can look at: image states (None once in the cache), who has an image, which cells."""

    states: torch.Tensor | None
    has_image: torch.Tensor | None
    allowed: torch.Tensor | None


def language_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, float32; 0 where nothing is to be learnt."""
    wanted = labels[:, 1:]
    total = F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum"
    )
    return total / (wanted != -100).sum().clamp(min=1)


def parts(model: nn.Module) -> dict[str, list[str]]:
    """See `AgeVlmForConditionalGeneration.parts`."""
    names = [name for name, _ in model.named_parameters()]
    stages = sorted({name.split(".")[4] for name in names if name.startswith("model.vision.encoder.stages.")})
    last = f"model.vision.encoder.stages.{stages[-1]}."
    blocks = {int(name.split(".")[6]) for name in names if name.startswith(f"{last}layers.")}
    prefixes = {
        "vision": ("model.vision.",),
        "vision.last_stage": (last,),
        "vision.last_block": (f"{last}layers.{max(blocks)}.",),
        "adapter": ("model.adapter.",),
        "cross_attention": ("model.cross.",),
        "language": ("model.language.", "lm_head."),
    }
    return {part: [name for name in names if name.startswith(start)] for part, start in prefixes.items()}
