"""A local language model that says which option an answer means, where no rule can tell.

The paper had Qwen do this for CV-Bench. Any causal language model in a folder will do; nothing is downloaded,
and no code of the folder is run.
"""

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from maskgen.age_vlm.loading import LOCAL_KWARGS, SAFE_KWARGS, check_whole
from maskgen.errors import MaskgenError
from maskgen.evaluation.option_matching import matched
from maskgen.evaluation.question import Question
from maskgen.runtime.device import choose_device, usual_dtype

_BATCH, _NEW_TOKENS = 8, 8
_TASK = (
    "Below are a question, its options, and somebody's answer. Which option does the answer mean? "
    "Reply with the option's letter alone, or with None if it means none of them.\n\n"
    "Question: {question}\nOptions:\n{options}\nAnswer: {answer}\n\nThe answer means option:"
)


class LocalJudge:
    """Letters for answers, or "" where the judge names no option. See `scoring.Judge`."""

    def __init__(self, folder: str, device: str = ""):
        where = choose_device(device)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **LOCAL_KWARGS)
            model, told = AutoModelForCausalLM.from_pretrained(
                folder, dtype=usual_dtype(where), output_loading_info=True, **SAFE_KWARGS
            )
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            raise MaskgenError(
                f"--judge {folder} cannot be loaded ({type(error).__name__}). Give the folder of a causal "
                "language model in transformers' format, with its tokenizer."
            ) from error
        check_whole(told, folder)
        self._model = model.to(where).eval()
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    @torch.inference_mode()
    def __call__(self, questions: Sequence[Question], answers: Sequence[str]) -> list[str]:
        letters: list[str] = []
        for first in range(0, len(questions), _BATCH):
            asked = questions[first : first + _BATCH]
            pairs = zip(asked, answers[first : first + _BATCH], strict=True)
            said = self._reply([self._prompt(question, answer) for question, answer in pairs])
            letters += [matched(reply, question).read for reply, question in zip(said, asked, strict=True)]
        return letters

    def _prompt(self, question: Question, answer: str) -> str:
        pairs = zip(question.letters, question.choices, strict=True)
        task = _TASK.format(
            question=question.text,
            options="\n".join(f"({letter}) {text}" for letter, text in pairs),
            answer=answer,
        )
        if not self._tokenizer.chat_template:
            return task
        chat = [{"role": "user", "content": task}]
        prompt: str = self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return prompt

    def _reply(self, prompts: list[str]) -> list[str]:
        with_template = bool(self._tokenizer.chat_template)
        inputs = self._tokenizer(
            prompts,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=not with_template,  # the template has written them
            return_token_type_ids=False,
        ).to(self._model.device)
        written = self._model.generate(
            **inputs,
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        new = written[:, inputs["input_ids"].shape[1] :]
        replies: list[str] = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return [reply.strip().split("\n")[0] for reply in replies]
