"""lmms-eval's tasks, answered by a model of maskgen: `lmms-eval eval --model maskgen` (docs/lmms-eval.md)."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from maskgen.age_vlm.generation import Answerer, ChatPrompt, GeneratedAnswer
from maskgen.age_vlm.loading import load
from maskgen.errors import MaskgenError
from maskgen.pixels import open_image
from maskgen.plugins.generation_kwargs import generation_options, unused_names
from maskgen.sample import Turn


@dataclass(frozen=True)
class _TaskRequest:
    """One of lmms-eval's: where its question stands, how to read it, and how it is to be answered."""

    task: str
    split: str
    number: int
    messages: Callable[[Any], list[dict[str, Any]]]
    kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        return f"question {self.number} of the task {self.task} ({self.split})"


class Maskgen(lmms):
    """A chat model of lmms-eval around an AGE-VLM or concat model.

    `pretrained`: a run of maskgen train, or a model folder. `dtype`: float32, bfloat16 or float16; left out,
    float32 on a CPU and bfloat16 on a GPU. `device`, `batch_size`: lmms-eval's own options. Under `accelerate
    launch` every process answers its share. MaskgenError for arguments and folders that cannot be used.
    """

    is_simple = False

    def __init__(
        self, pretrained: str = "", dtype: str = "", device: str = "", batch_size: Any = 1, **others: Any
    ):
        super().__init__()
        if not pretrained or others:
            wrong = f"{', '.join(others)} is none of maskgen's" if others else "pretrained is missing"
            raise MaskgenError(f"--model_args: {wrong}. Give pretrained=RUN, and dtype=... if you like.")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise MaskgenError(f"--batch_size {batch_size}: give a number of questions, 1 or more.")
        self.batch_size = int(batch_size)
        self.accelerator = Accelerator(cpu=device == "cpu")
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        where = device if device and self._world_size == 1 else self.accelerator.device
        self._answerer = Answerer(*load(pretrained, where, dtype))
        self.device = torch.device(where)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """One answer a request, in their order.

        All questions are read before the first is answered, so that one that AGE-VLM cannot be asked ends the
        evaluation at once: MaskgenError names its task.
        """
        task_requests = [_task_request(instance) for instance in requests]
        for task, name in sorted(
            {(one.task, name) for one in task_requests for name in unused_names(one.kwargs)}
        ):
            logger.warning(f"{task}: generation_kwargs.{name} means nothing to maskgen and is not used")
        lengths = [self._answerer.length(self._prompt(request)) for request in task_requests]
        answers: list[GeneratedAnswer | None] = [None] * len(task_requests)
        began = time.monotonic()
        with tqdm(total=len(task_requests), desc="answering", disable=self.rank != 0) as bar:
            for rows in self._batches(task_requests, lengths):
                prompts = [self._prompt(task_requests[row]) for row in rows]
                found = self._answerer.answer(prompts, generation_options(task_requests[rows[0]].kwargs))
                for row, answer in zip(rows, found, strict=True):
                    answers[row] = answer
                bar.update(len(rows))
        return _reported([answer for answer in answers if answer is not None], time.monotonic() - began)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not supported: lmms-eval asks chat models for answers alone, never for likelihoods."""
        raise MaskgenError(_refusal(requests, "compares likelihoods, which lmms-eval asks no chat model for"))

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported: each round shows more images, and AGE-VLM reads one."""
        raise MaskgenError(
            _refusal(requests, "asks in several rounds of images, and AGE-VLM reads one image")
        )

    def clean(self) -> None:
        """Let go of the model: lmms-eval calls it before a local judge needs the memory."""
        del self._answerer
        super().clean()

    def _prompt(self, request: _TaskRequest) -> ChatPrompt:
        messages = request.messages(self.task_dict[request.task][request.split][request.number])
        turns, shown = [], []
        for message in messages:
            parts = message["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            texts = [part["text"] for part in parts if part["type"] == "text"]
            shown += [part for part in parts if part["type"] != "text"]
            turns.append(Turn(message["role"], "\n".join(texts)))
        kinds = [part["type"] for part in shown]
        if kinds not in ([], ["image"]):
            what = ", ".join(f"{kinds.count(kind)} {kind}(s)" for kind in sorted(set(kinds)))
            raise MaskgenError(
                f"{request.name} comes with {what}, and AGE-VLM reads one image. Leave {request.task} out "
                "of --tasks."
            )
        return ChatPrompt(turns, _image(shown[0]["url"], request.name) if shown else None)

    def _batches(self, task_requests: list[_TaskRequest], lengths: list[int]) -> Iterator[list[int]]:
        """Rows answered alike, `batch_size` at most, the longest first: what does not fit is known soon."""

        def alike(row: int) -> str:
            return repr(sorted(task_requests[row].kwargs.items()))

        order = sorted(range(len(task_requests)), key=lambda row: (alike(row), -lengths[row]))
        for _, group in groupby(order, key=alike):
            rows = list(group)
            for first in range(0, len(rows), self.batch_size):
                yield rows[first : first + self.batch_size]


def _task_request(instance: Instance) -> _TaskRequest:
    _, messages, kwargs, number, task, split = instance.args
    return _TaskRequest(task, split, number, messages, kwargs)


def _image(given: Any, name: str) -> Any:
    """A PIL image as it is; a path's pixels. MaskgenError for a file that cannot be read."""
    if not isinstance(given, str | Path):
        return given
    try:
        return open_image(given)
    except MaskgenError as error:
        raise MaskgenError(f"{name}: {error}") from error


def _reported(answers: list[GeneratedAnswer], seconds: float) -> list[GenerationResult]:
    cut = sum(answer.truncated for answer in answers)
    if cut:
        logger.warning(f"{cut} of {len(answers)} questions were too long and lost their beginning")
    tokens = sum(answer.tokens for answer in answers)
    log_metrics(total_elapsed_time=seconds, total_gen_tokens=tokens, avg_speed=tokens / max(seconds, 1e-9))
    return [GenerationResult(one.text, TokenCounts(one.prompt_tokens, one.tokens)) for one in answers]


def _refusal(requests: list[Instance], why: str) -> str:
    tasks = sorted({instance.task_name for instance in requests})
    return f"the task {', '.join(tasks)} {why}. Leave it out of --tasks."
