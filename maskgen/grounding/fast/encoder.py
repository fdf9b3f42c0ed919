"""Florence-2's encoders: images and prompts, in batches, to keys and values that the decoder attends to."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from maskgen.grounding.fast.compiled import Compiled
from maskgen.grounding.fast.decoder_weights import DecoderWeights
from maskgen.grounding.fast.memory import BatchSize
from maskgen.runtime.spans import span


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt's number, and its keys and values for all layers, (layers, 2, heads, tokens, d)."""

    number: int
    cross_kv: torch.Tensor


class PromptEncoder:
    """Encodes prompts in their order. An image with several prompts is encoded once.

    `batch`: the size of its batches.
    """

    def __init__(self, model: Any, weights: DecoderWeights, batch: int, pad: int):
        """`batch`: images, and prompts, a forward pass; `pad`: the token that fills short prompts up."""
        self._model = model
        self._weights = weights
        self._pad = pad
        self._device = next(model.parameters()).device
        self.batch = BatchSize(batch, self._device)
        self._encode_pixels: Callable[[torch.Tensor], torch.Tensor] = self._image_tokens

    def compile(self) -> None:
        """From now on, encode images by compiled code."""
        self._encode_pixels = Compiled(self._image_tokens)

    @property
    def compiled(self) -> bool:
        """Whether images are encoded by compiled code."""
        return isinstance(self._encode_pixels, Compiled)

    def encode(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> Iterator[list[EncodedPrompt]]:
        """Batches of encoded prompts; see `Generator.generate`."""
        features: dict[int, torch.Tensor] = {}
        last = {image: place for place, (image, _) in enumerate(prompts)}
        begin = 0
        while chunk := prompts[begin : begin + self.batch.size]:
            with self.batch.measured(), span("florence2.encode"):
                self._encode_images([image for image, _ in chunk], images, features)
                cross_kv = self._weights.cross_keys_values(self._encode_texts(chunk, features))
            yield [
                EncodedPrompt(begin + row, cross_kv[row, ..., : len(ids), :])
                for row, (_, ids) in enumerate(chunk)
            ]
            begin += len(chunk)
            features = {image: tokens for image, tokens in features.items() if last[image] >= begin}

    def _encode_images(
        self, wanted: list[int], images: Sequence[torch.Tensor], features: dict[int, torch.Tensor]
    ) -> None:
        """Image tokens of the images that have none yet."""
        fresh = [image for image in dict.fromkeys(wanted) if image not in features]
        if not fresh:
            return
        pixels = torch.stack([images[image] for image in fresh])
        pixels = pixels.to(self._device, self._model.dtype, non_blocking=True)
        features.update(zip(fresh, self._encode_pixels(pixels), strict=True))

    def _image_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixel values, (n, 3, S, S), to image tokens, (n, tokens, width)."""
        inner = self._model.model
        tokens: torch.Tensor = inner.multi_modal_projector(inner.vision_tower(pixels).last_hidden_state)
        return tokens

    def _encode_texts(
        self, chunk: Sequence[tuple[int, list[int]]], features: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        """The text encoder's states, (n, tokens, width), for prompts with their images' tokens in place."""
        language = self._model.model.language_model
        longest = max(len(ids) for _, ids in chunk)
        padded = [ids + [self._pad] * (longest - len(ids)) for _, ids in chunk]
        ids = torch.tensor(padded, device=self._device)
        lengths = torch.tensor([len(own) for _, own in chunk], device=self._device)
        mask = torch.arange(longest, device=self._device) < lengths[:, None]
        embedded = language.get_input_embeddings()(ids)
        image = torch.stack([features[number] for number, _ in chunk]).to(embedded.dtype)
        placeholders = (ids == self._model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(placeholders, image)
        states: torch.Tensor = language.encoder(
            inputs_embeds=embedded, attention_mask=mask.long()
        ).last_hidden_state
        return states
