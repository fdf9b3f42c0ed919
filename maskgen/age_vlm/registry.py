"""The architectures that maskgen builds, loads and trains, by the `model_type` of their config.json."""

from typing import NamedTuple

from maskgen.age_vlm.concat import ConcatVlmForConditionalGeneration
from maskgen.age_vlm.configuration import AgeVlmConfig, ConcatVlmConfig, VisionLanguageConfig
from maskgen.age_vlm.modeling import AgeVlmForConditionalGeneration, VlmPreTrainedModel


class Architecture(NamedTuple):
    """An architecture's two classes."""

    config_class: type[VisionLanguageConfig]
    model_class: type[VlmPreTrainedModel]


ARCHITECTURES: dict[str, Architecture] = {
    AgeVlmConfig.model_type: Architecture(AgeVlmConfig, AgeVlmForConditionalGeneration),
    ConcatVlmConfig.model_type: Architecture(ConcatVlmConfig, ConcatVlmForConditionalGeneration),
}


def model_class(model_type: str) -> type[VlmPreTrainedModel]:
    """The model class of a `model_type`."""
    return ARCHITECTURES[model_type].model_class


def paper_config(model_type: str) -> VisionLanguageConfig:
    """The configuration of the paper's size: Llama-3.2-1B and the CLIP ConvNeXt-L at 768 x 768 pixels."""
    return ARCHITECTURES[model_type].config_class(
        text_config={
            "vocab_size": 128256,
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 8192,
            "tie_word_embeddings": True,
        },
        vision_config={"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]},
        image_size=768,
    )
