"""Answers to prompts, a batch at a time, by a trained model of either architecture."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import StoppingCriteria

from maskgen.age_vlm.chat import ChatTemplate
from maskgen.age_vlm.processing import AgeVlmProcessor
from maskgen.errors import MaskgenError
from maskgen.sample import Turn


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation that the assistant is to go on with, and its image: PIL, uint8 (h, w, 3), or None."""

    turns: Sequence[Turn]
    image: Any = None


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are written.

    `until`: strings before which an answer ends. `generate_kwargs`: for sampling and beams, as transformers'
    `generate` takes them; none is greedy.
    """

    max_new_tokens: int = 1024
    until: tuple[str, ...] = ()
    generate_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GeneratedAnswer:
    """`text`: without white space at its ends. `prompt_tokens`, `tokens`: their number, the end token not
    counted. `truncated`: the prompt was too long and lost its beginning.
    """

    text: str
    prompt_tokens: int
    tokens: int
    truncated: bool


class Answerer:
    """A model with its processor, as `loading.load` gives them."""

    def __init__(self, model: Any, processor: AgeVlmProcessor):
        self._model, self._tokenizer = model, processor.tokenizer
        self._images = processor.image_processor
        self._positions = int(model.config.text_config.max_position_embeddings)

    def length(self, prompt: ChatPrompt) -> int:
        """The prompt's tokens."""
        return len(ChatTemplate(self._tokenizer, self._positions).prompt(prompt.turns).input_ids)

    def answer(self, prompts: Sequence[ChatPrompt], options: GenerationOptions) -> list[GeneratedAnswer]:
        """One answer a prompt, in their order, all in one batch.

        An answer does not depend on those it shares the batch with, but for the rounding of floats. Prompt
        and answer share the LLaMA's positions: an answer gets half of them at most, and a prompt that does
        not fit beside it loses its beginning. MaskgenError if the GPU's memory does not hold the batch.
        """
        return self._answer(prompts, self._pixels(prompts), options)

    def answers(
        self, batches: Iterable[Sequence[ChatPrompt]], options: GenerationOptions
    ) -> Iterator[GeneratedAnswer]:
        """The same for one batch after the other, as they come. A thread draws the next batch meanwhile, and
        makes its images ready.
        """
        coming = iter(batches)

        def following() -> tuple[Sequence[ChatPrompt], dict[str, torch.Tensor]] | None:
            prompts = next(coming, None)
            return None if prompts is None else (prompts, self._pixels(prompts))

        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(following)
            while (ready := waiting.result()) is not None:
                waiting = reader.submit(following)
                yield from self._answer(*ready, options)

    @torch.inference_mode()
    def _answer(
        self, prompts: Sequence[ChatPrompt], pixels: dict[str, torch.Tensor], options: GenerationOptions
    ) -> list[GeneratedAnswer]:
        longest = min(options.max_new_tokens, self._positions // 2)
        template = ChatTemplate(self._tokenizer, self._positions - longest)
        encoded = [template.prompt(prompt.turns) for prompt in prompts]
        inputs = self._inputs([prompt.input_ids for prompt in encoded], template.pad_id)
        start = inputs["input_ids"].shape[1]
        stop = [_StopStrings(self._tokenizer, options.until, start)] if options.until else None
        try:
            written = self._model.generate(
                **{name: value.to(self._model.device) for name, value in {**inputs, **pixels}.items()},
                **{"do_sample": False, "num_beams": 1, **options.generate_kwargs},
                max_new_tokens=longest,
                eos_token_id=self._tokenizer.eos_token_id,
                pad_token_id=template.pad_id,
                stopping_criteria=stop,
            )
        except torch.OutOfMemoryError as error:
            raise MaskgenError(
                f"the GPU's memory does not hold {len(prompts)} questions at once. Give a smaller batch."
            ) from error
        ends = {self._tokenizer.eos_token_id, template.pad_id}
        answers = []
        for prompt, row in zip(encoded, written[:, start:].tolist(), strict=True):
            tokens = next((place for place, token in enumerate(row) if token in ends), len(row))
            text = self._tokenizer.decode(row[:tokens], skip_special_tokens=True)
            for word in options.until:
                text = text.split(word)[0]
            answers.append(GeneratedAnswer(text.strip(), len(prompt.input_ids), tokens, prompt.truncated))
        return answers

    def _inputs(self, prompts: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
        """Token ids and attention mask, (B, T) int64, filled up on the left."""
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        return {"input_ids": ids, "attention_mask": mask}

    def _pixels(self, prompts: Sequence[ChatPrompt]) -> dict[str, torch.Tensor]:
        """What `forward` takes of the images: `pixel_values`, `has_image`, and `image_cells` with "pad"."""
        images = [prompt.image for prompt in prompts]
        shown = [image for image in images if image is not None]
        if not shown:
            return {}
        found = dict(self._images(shown))
        found["pixel_values"] = found["pixel_values"].to(self._model.dtype)
        found["has_image"] = torch.tensor([image is not None for image in images])
        return found


class _StopStrings(StoppingCriteria):
    """Ends each row once one of `words` stands in what it has written since `start`."""

    def __init__(self, tokenizer: Any, words: Sequence[str], start: int):
        self._tokenizer, self._words, self._start = tokenizer, words, start
        self._reach = max(len(word.encode()) for word in words) + 1  # no token is shorter than a byte

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        first = max(self._start, input_ids.shape[1] - self._reach)
        texts = self._tokenizer.batch_decode(input_ids[:, first:], skip_special_tokens=True)
        found = [any(word in text for word in self._words) for text in texts]
        return torch.tensor(found, device=input_ids.device)
