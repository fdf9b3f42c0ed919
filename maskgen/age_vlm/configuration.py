"""The architectures' configurations; docs/model.md says how the paper is read where it leaves a choice."""

from typing import Any, ClassVar

from transformers import ConvNextConfig, LlamaConfig, PretrainedConfig

SLOTS = (2, 7, 12, 17)
"""Where the cross-attention layers stand (Section 3.2.1)."""


class VisionLanguageConfig(PretrainedConfig):
    """What both architectures share: a ConvNeXt, an adapter of two linear layers, a LLaMA.

    `image_size`: pixels a side of the trainer's frame. `fit`: how an image fills it, "squash", "pad" or
    "crop".
    """

    sub_configs: ClassVar[dict[str, Any]] = {"text_config": LlamaConfig, "vision_config": ConvNextConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | LlamaConfig | None = None,
        vision_config: dict[str, Any] | ConvNextConfig | None = None,
        image_size: int = 768,
        fit: str = "squash",
        **options: Any,
    ):
        self.text_config: Any = _config_of(LlamaConfig, text_config)
        self.vision_config: Any = _config_of(ConvNextConfig, vision_config)
        self.image_size = image_size
        self.fit = fit
        self.initializer_range = self.text_config.initializer_range
        options.setdefault("tie_word_embeddings", self.text_config.tie_word_embeddings)
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            options.setdefault(token, getattr(self.text_config, token, None))
        super().__init__(**options)

    @property
    def stride(self) -> int:
        """Pixels a side of one image token: the stem's patch, halved again by three stages."""
        return int(self.vision_config.patch_size) * 2 ** (len(self.vision_config.hidden_sizes) - 1)

    @property
    def cells(self) -> int:
        """Image tokens a side: 24 at 768 pixels."""
        return int(self.image_size) // self.stride

    @property
    def cross_attention_layers(self) -> int:
        """How many there are; none but in AGE-VLM."""
        return 0


class AgeVlmConfig(VisionLanguageConfig):
    """A LLaMA with cross-attention layers (Section 3.2).

    `slots`: the cross-attention layers' indices. With `placement` "stack" they count the combined stack of
    self- and cross-attention layers from 0, each of the latter a layer of its own; with "in_block" they count
    LLaMA's layers, and the cross-attention stands inside, after the self-attention. `cross_mlp`: "own", a
    SwiGLU MLP in each (Eq. 2), or "none". `gate`: "none", or "tanh" gates that start at zero.
    `attend_padding`: whether cells that hold no image (`fit` "pad") can be attended to.
    """

    model_type = "age_vlm"

    def __init__(
        self,
        text_config: dict[str, Any] | LlamaConfig | None = None,
        vision_config: dict[str, Any] | ConvNextConfig | None = None,
        slots: tuple[int, ...] | list[int] = SLOTS,
        placement: str = "stack",
        cross_mlp: str = "own",
        gate: str = "none",
        attend_padding: bool = False,
        **options: Any,
    ):
        super().__init__(text_config, vision_config, **options)
        self.slots = list(slots)
        self.placement = placement
        self.cross_mlp = cross_mlp
        self.gate = gate
        self.attend_padding = attend_padding
        self._check()

    def _check(self) -> None:
        for name, allowed in (
            ("placement", ("stack", "in_block")),
            ("cross_mlp", ("own", "none")),
            ("gate", ("none", "tanh")),
            ("fit", ("squash", "pad", "crop")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: give one of {', '.join(allowed)}.")
        layers = int(self.text_config.num_hidden_layers)
        depth = layers + len(self.slots) if self.placement == "stack" else layers
        if sorted(set(self.slots)) != self.slots or (
            self.slots and not 0 <= self.slots[0] <= self.slots[-1] < depth
        ):
            raise ValueError(
                f"slots {self.slots} do not fit: with placement {self.placement} and {layers} LLaMA layers "
                f"they are ascending numbers from 0 to {depth - 1}."
            )

    @property
    def cross_attention_layers(self) -> int:
        """How many there are."""
        return len(self.slots)

    def layer_order(self) -> list[tuple[str, int]]:
        """The layers in their order: ("self", i) is LLaMA's layer i, ("cross", j) the j-th of `slots`.

        With `in_block`, ("cross", j) precedes the ("self", i) that it stands in.
        """
        layers = int(self.text_config.num_hidden_layers)
        if self.placement == "in_block":
            order: list[tuple[str, int]] = []
            for layer in range(layers):
                order += [("cross", self.slots.index(layer))] if layer in self.slots else []
                order.append(("self", layer))
            return order
        cross = {slot: number for number, slot in enumerate(self.slots)}
        own = iter(range(layers))
        places = range(layers + len(self.slots))
        return [("cross", cross[place]) if place in cross else ("self", next(own)) for place in places]


class ConcatVlmConfig(VisionLanguageConfig):
    """The same encoder, adapter and LLaMA, with the image's tokens before the text (as LLaVA does)."""

    model_type = "concat_vlm"

    def __init__(
        self,
        text_config: dict[str, Any] | LlamaConfig | None = None,
        vision_config: dict[str, Any] | ConvNextConfig | None = None,
        **options: Any,
    ):
        # transformers gives a configuration class without an __init__ of its own another one.
        super().__init__(text_config, vision_config, **options)


def _config_of(kind: type[PretrainedConfig], given: Any) -> Any:
    """A configuration of `kind`: as given, of a dictionary's values, or the defaults."""
    return kind(**given) if isinstance(given, dict) else given or kind()
