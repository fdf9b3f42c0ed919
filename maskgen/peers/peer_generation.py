"""Questions to answers, a batch at a time, with a peer; `age_vlm.generation` is for our own models."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from maskgen.age_vlm.generation import ChatPrompt, GeneratedAnswer, GenerationOptions
from maskgen.errors import MaskgenError
from maskgen.peers.peer_model import PeerModel
from maskgen.pixels import upright_rgb


class PeerAnswerer:
    """Greedy answers, one question a prompt: the last turn is what is asked."""

    def __init__(self, model: PeerModel):
        self._model = model
        self._positions = int(model.language.config.max_position_embeddings)

    def answers(
        self, batches: Iterable[Sequence[ChatPrompt]], options: GenerationOptions
    ) -> Iterator[GeneratedAnswer]:
        """The answers of one batch after the other, as they come.

        MaskgenError if a question and its answer have too few positions, or the memory does not hold a batch.
        """
        for questions in batches:
            yield from self._answer(questions, min(options.max_new_tokens, self._positions // 2))

    @torch.inference_mode()
    def _answer(self, questions: Sequence[ChatPrompt], longest: int) -> list[GeneratedAnswer]:
        model = self._model
        try:
            prompts = [self._embedded(question) for question in questions]
            length = max(map(len, prompts))
            if length + longest > self._positions:
                raise MaskgenError(
                    f"a question is {length} tokens long with its image, and {model.name} has "
                    f"{self._positions} positions for it and {longest} of the answer. Give a smaller "
                    "--max-new-tokens."
                )
            padded = [torch.nn.functional.pad(row, (0, 0, length - len(row), 0)) for row in prompts]
            mask = [[0] * (length - len(row)) + [1] * len(row) for row in prompts]
            written = model.language.generate(
                inputs_embeds=torch.stack(padded),
                attention_mask=torch.tensor(mask, device=model.device),
                do_sample=False,
                num_beams=1,
                max_new_tokens=longest,
                eos_token_id=model.prompt.end_id,
                pad_token_id=model.prompt.end_id,
            ).tolist()
        except torch.OutOfMemoryError as error:
            raise MaskgenError(
                f"the GPU's memory does not hold {len(questions)} questions at once. Give a smaller batch."
            ) from error
        answers = []
        for row, prompt in zip(written, prompts, strict=True):
            ids = row[: row.index(model.prompt.end_id)] if model.prompt.end_id in row else row
            answers.append(GeneratedAnswer(model.prompt.text(ids).strip(), len(prompt), len(ids), False))
        return answers

    def _embedded(self, question: ChatPrompt) -> torch.Tensor:
        """(T, width)."""
        model, text = self._model, question.turns[-1].value
        if question.image is None:
            return model.embedded(model.prompt.blind(text))
        image = question.image
        pixels = image if isinstance(image, np.ndarray) else upright_rgb(image)
        asked = model.prompt.asked(text)
        tokens = model.image_tokens([pixels])[0]
        return torch.cat([model.embedded(asked.before), tokens, model.embedded(asked.after)])
