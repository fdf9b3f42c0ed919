"""Answers to any number of prompts: encoded in batches, written in slots that are refilled as answers end."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from maskgen.grounding.engine.decoder import Decoder
from maskgen.grounding.engine.rules import Rules
from maskgen.grounding.engine.search import search


class Writer:
    """Florence-2's token ids for pixels and prompts, as its `generate` gives them one by one."""

    def __init__(self, model: Any, rules: Rules, slots: int, batch: int):
        """`slots`: answers written at a time; `batch`: images and prompts encoded at a time."""
        self._model = model
        self._rules = rules
        self._slots = slots
        self._batch = batch
        self._device = next(model.parameters()).device

    @torch.inference_mode()
    def write(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> list[list[int]]:
        """Token ids for each prompt, the decoder's start token first.

        `images`: pixel values, (3, S, S) each. `prompts`: the image's number and the prompt's ids, image
        placeholders included; an image with several prompts is looked at once.
        """
        if not prompts:
            return []
        slots = min(self._slots, len(prompts))
        rules = self._rules
        longest_prompt = max(len(ids) for _, ids in prompts)
        decoder = Decoder(self._model, slots, rules.beams, rules.length, longest_prompt)
        state = search(rules, slots, self._device)
        waiting: deque[tuple[int, torch.Tensor, torch.Tensor]] = deque()
        encoded = self._encoded(images, prompts)
        answers: list[list[int]] = [[] for _ in prompts]
        holds: list[int | None] = [None] * slots
        while True:
            self._refill(holds, waiting, encoded, decoder, state)
            busy = [slot for slot, held in enumerate(holds) if held is not None]
            if not busy:
                return answers
            ended = self._run(holds, decoder, state)
            for slot in ended:
                held = holds[slot]
                assert held is not None
                answers[held] = state.answer(slot)
                holds[slot] = None

    def _run(self, holds: list[int | None], decoder: Decoder, state: Any) -> list[int]:
        """Steps until some slot in use has ended; those slots."""
        used = torch.tensor([held is not None for held in holds], device=self._device)
        longest = int((state.lengths * used).max())
        slots = torch.arange(len(holds), device=self._device)
        limit = self._rules.length - 1
        while True:
            last = state.tokens[slots, :, (state.lengths - 1).clamp(max=limit)]
            logits = decoder.step(last, state.lengths, longest)
            parents, ended = state.advance(logits, longest)
            if parents is not None:
                decoder.follow(parents)
            longest = min(longest + 1, self._rules.length)
            found: list[int] = (ended & used).nonzero()[:, 0].tolist()
            if found:
                return found

    def _refill(
        self,
        holds: list[int | None],
        waiting: deque[tuple[int, torch.Tensor, torch.Tensor]],
        encoded: Iterator[list[tuple[int, torch.Tensor, torch.Tensor]]],
        decoder: Decoder,
        state: Any,
    ) -> None:
        """Put encoded prompts into free slots; encode more when there are too few."""
        free = [slot for slot, held in enumerate(holds) if held is None]
        while len(waiting) < len(free):
            more = next(encoded, None)
            if more is None:
                break
            waiting += more
        taken = [(slot, *waiting.popleft()) for slot in free[: len(waiting)]]
        if not taken:
            return
        longest = max(states.shape[0] for _, _, states, _ in taken)
        states = taken[0][2].new_zeros(len(taken), longest, taken[0][2].shape[1])
        masks = torch.zeros(len(taken), longest, dtype=torch.bool, device=self._device)
        for row, (slot, number, each, mask) in enumerate(taken):
            states[row, : len(each)] = each
            masks[row, : len(each)] = mask
            holds[slot] = number
            state.begin(slot)
        decoder.begin([slot for slot, *_ in taken], states, masks)

    def _encoded(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> Iterator[list[tuple[int, torch.Tensor, torch.Tensor]]]:
        """Batches of (prompt's number, encoder states (tokens, width), mask bool (tokens,))."""
        features: dict[int, torch.Tensor] = {}
        for begin in range(0, len(prompts), self._batch):
            chunk = prompts[begin : begin + self._batch]
            self._look([image for image, _ in chunk], images, features)
            states, mask = self._read(chunk, features)
            yield [(begin + row, states[row], mask[row]) for row in range(len(chunk))]
            still = {image for image, _ in prompts[begin + self._batch :]}
            features = {image: seen for image, seen in features.items() if image in still}

    def _look(
        self, wanted: list[int], images: Sequence[torch.Tensor], features: dict[int, torch.Tensor]
    ) -> None:
        """Image tokens of the images that have none yet."""
        fresh = [image for image in dict.fromkeys(wanted) if image not in features]
        if not fresh:
            return
        pixels = torch.stack([images[image] for image in fresh])
        pixels = pixels.to(self._device, self._model.dtype, non_blocking=True)
        inner = self._model.model
        seen = inner.multi_modal_projector(inner.vision_tower(pixels).last_hidden_state)
        features.update(zip(fresh, seen, strict=True))

    def _read(
        self, chunk: Sequence[tuple[int, list[int]]], features: dict[int, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The text encoder's states for prompts with their images' tokens in place."""
        language = self._model.model.language_model
        longest = max(len(ids) for _, ids in chunk)
        padded = [ids + [self._rules.pad] * (longest - len(ids)) for _, ids in chunk]
        ids = torch.tensor(padded, device=self._device)
        mask = torch.tensor([[True] * len(own) + [False] * (longest - len(own)) for _, own in chunk])
        mask = mask.to(self._device)
        embedded = language.get_input_embeddings()(ids)
        image = torch.stack([features[number] for number, _ in chunk]).to(embedded.dtype)
        there = (ids == self._model.config.image_token_id)[..., None]
        embedded = embedded.masked_scatter(there, image)
        states = language.encoder(inputs_embeds=embedded, attention_mask=mask.long()).last_hidden_state
        return states, mask
