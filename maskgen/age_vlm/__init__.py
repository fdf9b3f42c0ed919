"""AGE-VLM: a LLaMA that reads the image through cross-attention layers (Section 3.2).

Importing this package teaches transformers' Auto classes both architectures.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from maskgen.age_vlm.concat import ConcatVlmForConditionalGeneration
from maskgen.age_vlm.configuration import AgeVlmConfig, ConcatVlmConfig
from maskgen.age_vlm.image_processing import AgeVlmImageProcessor
from maskgen.age_vlm.modeling import AgeVlmForConditionalGeneration, VlmOutput
from maskgen.age_vlm.processing import AgeVlmProcessor
from maskgen.age_vlm.registry import ARCHITECTURES

__all__ = [
    "AgeVlmConfig",
    "AgeVlmForConditionalGeneration",
    "AgeVlmImageProcessor",
    "AgeVlmProcessor",
    "ConcatVlmConfig",
    "ConcatVlmForConditionalGeneration",
    "VlmOutput",
]

for _config, _model in ARCHITECTURES.values():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForImageTextToText.register(_config, _model, exist_ok=True)
    AutoProcessor.register(_config, AgeVlmProcessor, exist_ok=True)
    AutoTokenizer.register(_config, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True)
    AutoImageProcessor.register(_config, AgeVlmImageProcessor, AgeVlmImageProcessor, exist_ok=True)
