"""Images and prompts together, as a model takes them."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

from maskgen.age_vlm.chat import JINJA


class AgeVlmProcessor(ProcessorMixin):
    """The image processor and the LLaMA's tokenizer; prompts are padded on the left.

    `apply_chat_template` writes the prompt (docs/model.md); the text has no placeholder for the image.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **options: Any):
        options.setdefault("chat_template", JINJA)
        if tokenizer is not None and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(image_processor, tokenizer, **options)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        padding: bool = True,
        return_tensors: str | None = "pt",
        **_: Any,
    ) -> BatchFeature:
        """`text`: prompts that begin with the tokenizer's own beginning, as the chat template writes them.

        `images`: one for each prompt; None among them is a prompt without one, and then `has_image`, bool
        (B,), is among the results.
        """
        prompts = [text] if isinstance(text, str) else list(text or [])
        data: dict[str, Any] = {}
        if prompts:
            data |= self.tokenizer(
                prompts, add_special_tokens=False, padding=padding, padding_side="left", return_tensors="pt"
            )
            data.pop("token_type_ids", None)
        if images is not None:
            given = _flat(images)
            if prompts and len(given) != len(prompts):
                raise ValueError(f"{len(given)} images for {len(prompts)} prompts: give one each, or None")
            shown = [image for image in given if image is not None]
            if shown:
                data |= self.image_processor(shown)
            if len(shown) < len(given):
                data["has_image"] = torch.tensor([image is not None for image in given])
        return BatchFeature(data, tensor_type=return_tensors)


def _flat(images: Any) -> list[Any]:
    """One image a prompt, also where each comes in a list of its own."""
    if not isinstance(images, list | tuple):
        return [images]
    return [image[0] if isinstance(image, list | tuple) and image else image for image in images]
