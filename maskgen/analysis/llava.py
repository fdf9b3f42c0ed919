"""Any LLaVA-style model of transformers: image tokens among the text's, all in one sequence."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils.logging import disable_progress_bar

from maskgen.age_vlm.loading import LOCAL_KWARGS, SAFE_KWARGS, check_whole
from maskgen.analysis.attention_maps import short_name
from maskgen.analysis.samples import Item
from maskgen.errors import MaskgenError, first_line
from maskgen.runtime.device import choose_device
from maskgen.runtime.model_place import model_folder

_DEFAULT_PROMPT = "USER: {image}\n{text}\nASSISTANT:"


class LlavaReader:
    """A model that transformers' AutoModelForImageTextToText loads, from a local folder, without its code."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, name: str):
        self.model, self.processor, self.name = model.eval(), processor, name
        self.model_type = str(model.config.model_type)
        self._image_token = _image_token(model.config)

    @classmethod
    def load(cls, place: str | Path, device: str = "") -> "LlavaReader":
        """MaskgenError if the folder holds no such model, or one without some weights or image tokens."""
        folder, where = model_folder(place), choose_device(device)
        disable_progress_bar()
        try:
            processor = AutoProcessor.from_pretrained(folder, **LOCAL_KWARGS)
            model, told = AutoModelForImageTextToText.from_pretrained(
                folder, dtype="auto", output_loading_info=True, **SAFE_KWARGS
            )
        except (OSError, ValueError, ImportError, TypeError, RuntimeError, SafetensorError) as error:
            raise MaskgenError(
                f"--model {place} cannot be loaded as an image-text-to-text model of transformers "
                f"({type(error).__name__}: {first_line(error)})."
            ) from error
        check_whole(told, folder)
        if not getattr(getattr(processor, "tokenizer", None), "is_fast", False):
            raise MaskgenError(
                f"--model {place} has no fast tokenizer, which gives the places of a text's tokens."
            )
        return cls(model.to(where), processor, short_name(folder))

    def hidden_states(self, items: Iterable[Item]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As `similarity.StateReader`: states after the last layer and its norm, of image tokens and t_q."""
        for item in items:
            prompt, start = self._prompt(item.text)
            inputs = self.processor(images=Image.fromarray(item.pixels), text=prompt, return_tensors="pt")
            query_mask = self._query_mask(prompt, start, start + len(item.text), inputs["input_ids"].shape[1])
            inputs = inputs.to(self.model.device, self.model.dtype)
            with torch.inference_mode():
                hidden = self.model(**inputs, output_hidden_states=True).hidden_states[-1][0]
            image = (inputs["input_ids"][0] == self._image_token).cpu().numpy()
            states = hidden.float().cpu().numpy()
            yield states[image], states[query_mask]

    def _prompt(self, text: str) -> tuple[str, int]:
        """The model's own way to ask about a picture, and where in it the text stands."""
        marker = "\x00"
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": marker}]
            prompt = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        else:
            image = self.processor.tokenizer.convert_ids_to_tokens(self._image_token)
            prompt = _DEFAULT_PROMPT.format(image=image, text=marker)
        start = prompt.index(marker)
        return prompt.replace(marker, text), start

    def _query_mask(self, prompt: str, start: int, end: int, length: int) -> np.ndarray:
        """Which of `length` tokens have a character of the text, bool (length,).

        The processor writes the image's token several times, all before the text: counted from the end, the
        text's tokens stand where they stand in the prompt as it was written.
        """
        offsets = self.processor.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        query_mask = [first < end and last > start and last > first for first, last in offsets]
        return np.array([False] * (length - len(query_mask)) + query_mask)


def _image_token(config: PretrainedConfig) -> int:
    for name in ("image_token_id", "image_token_index"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    raise MaskgenError(f"a {config.model_type} has no tokens for the image: its states cannot be compared.")
