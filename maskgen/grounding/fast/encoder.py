"""Florence-2's encoders: images and prompts, in batches, to what the decoder asks of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from maskgen.grounding.fast.compiled import Compiled
from maskgen.grounding.fast.decoder_weights import Parameters
from maskgen.grounding.fast.memory import Batch
from maskgen.runtime.spans import span


@dataclass(frozen=True)
class Prompt:
    """An encoded prompt: its number, and keys and values for all layers, (layers, 2, heads, tokens, d)."""

    number: int
    cross: torch.Tensor


class Reader:
    """Encodes prompts in their order. An image with several prompts is looked at once."""

    def __init__(self, model: Any, parameters: Parameters, batch: int, pad: int):
        """`batch`: images, and prompts, a forward pass; `pad`: the token that fills short prompts up."""
        self._model = model
        self._parameters = parameters
        self._pad = pad
        self._device = next(model.parameters()).device
        self.batch = Batch(batch, self._device)
        self._see: Callable[[torch.Tensor], torch.Tensor] = self._features

    def compile(self) -> None:
        """From now on, look at images by compiled code."""
        self._see = Compiled(self._features)

    def read(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> Iterator[list[Prompt]]:
        """Batches of encoded prompts; see `Writer.write`."""
        features: dict[int, torch.Tensor] = {}
        last = {image: place for place, (image, _) in enumerate(prompts)}
        begin = 0
        while chunk := prompts[begin : begin + self.batch.size]:
            with self.batch.measured(), span("florence2.encode"):
                self._look([image for image, _ in chunk], images, features)
                asked = self._parameters.asked(self._encode(chunk, features))
            yield [Prompt(begin + row, asked[row, ..., : len(ids), :]) for row, (_, ids) in enumerate(chunk)]
            begin += len(chunk)
            features = {image: seen for image, seen in features.items() if last[image] >= begin}

    def _look(
        self, wanted: list[int], images: Sequence[torch.Tensor], features: dict[int, torch.Tensor]
    ) -> None:
        """Image tokens of the images that have none yet."""
        fresh = [image for image in dict.fromkeys(wanted) if image not in features]
        if not fresh:
            return
        pixels = torch.stack([images[image] for image in fresh])
        pixels = pixels.to(self._device, self._model.dtype, non_blocking=True)
        features.update(zip(fresh, self._see(pixels), strict=True))

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixel values, (n, 3, S, S), to image tokens, (n, tokens, width)."""
        inner = self._model.model
        tokens: torch.Tensor = inner.multi_modal_projector(inner.vision_tower(pixels).last_hidden_state)
        return tokens

    def _encode(
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
        there = (ids == self._model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(there, image)
        states: torch.Tensor = language.encoder(
            inputs_embeds=embedded, attention_mask=mask.long()
        ).last_hidden_state
        return states
