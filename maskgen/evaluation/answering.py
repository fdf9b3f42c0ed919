"""Questions to answers: greedy, in batches, with the next batch's pictures read meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from maskgen.age_vlm.chat import ChatTemplate
from maskgen.errors import MaskgenError
from maskgen.evaluation.model import Speaker
from maskgen.evaluation.question import Question
from maskgen.sample import Turn

Look = Callable[[str], np.ndarray]
"""From a picture's name to its pixels, uint8 (height, width, 3). Called from another thread."""


def answer_all(
    speaker: Speaker,
    questions: Sequence[Question],
    look: Look | None = None,
    *,
    batch: int = 8,
    max_new_tokens: int = 128,
) -> list[str]:
    """An answer to each question, in their order. Without `look`, nobody sees a picture."""
    return list(answers(speaker, questions, look, batch=batch, max_new_tokens=max_new_tokens))


@torch.inference_mode()
def answers(
    speaker: Speaker,
    questions: Sequence[Question],
    look: Look | None = None,
    *,
    batch: int = 8,
    max_new_tokens: int = 128,
) -> Iterator[str]:
    """The same as they come.

    Prompts are the training's own (`maskgen.age_vlm.chat`), padded on the left, so that a question's answer
    does not depend on those it shares a batch with, but for the rounding of floats.
    """
    template = ChatTemplate(speaker.processor.tokenizer)
    batches = [questions[first : first + batch] for first in range(0, len(questions), batch)]
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(_inputs, speaker, template, batches[0], look) if batches else None
        for following in [*batches[1:], None]:
            if coming is None:
                return
            inputs = coming.result()
            coming = reader.submit(_inputs, speaker, template, following, look) if following else None
            yield from _generate(speaker, template, inputs, max_new_tokens)


def _generate(
    speaker: Speaker, template: ChatTemplate, inputs: dict[str, torch.Tensor], max_new_tokens: int
) -> list[str]:
    try:
        written = speaker.model.generate(
            **{name: value.to(speaker.model.device) for name, value in inputs.items()},
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=template.tokenizer.eos_token_id,
            pad_token_id=template.pad_id,
        )
    except torch.OutOfMemoryError as error:
        raise MaskgenError(
            f"the GPU's memory does not hold {len(inputs['input_ids'])} questions at once. Give a smaller "
            "--batch; what is answered is kept."
        ) from error
    new = written[:, inputs["input_ids"].shape[1] :]
    texts: list[str] = template.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _inputs(
    speaker: Speaker, template: ChatTemplate, questions: Sequence[Question], look: Look | None
) -> dict[str, torch.Tensor]:
    prompts = [template.prompt([Turn("human", question.text)]).input_ids for question in questions]
    longest = max(map(len, prompts))
    missing = [longest - len(prompt) for prompt in prompts]
    padded = [[template.pad_id] * gap + prompt for gap, prompt in zip(missing, prompts, strict=True)]
    seen = [[0] * gap + [1] * (longest - gap) for gap in missing]
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(seen)}
    names = [question.image if look else None for question in questions]
    pictures: list[Any] = [look(name) for name in names if look and name]
    if pictures:
        shown = speaker.processor.image_processor(pictures)
        inputs |= dict(shown)
        inputs["pixel_values"] = inputs["pixel_values"].to(speaker.model.dtype)
    if len(pictures) < len(questions):
        inputs["has_image"] = torch.tensor([bool(name) for name in names])
    return inputs
