"""Many questions at once are answered as each is alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny_age_vlm import made
from maskgen.age_vlm.generation import Answerer, ChatPrompt, GenerationOptions
from maskgen.errors import MaskgenError
from maskgen.sample import Turn

pytestmark = pytest.mark.usefixtures("one_thread")


def picture(seed, width=40, height=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


QUESTIONS = [
    ChatPrompt([Turn("user", "Where is the star?")], picture(0)),
    ChatPrompt([Turn("user", "Count the red circles and say how many there are.")], picture(1, 20, 60)),
    ChatPrompt([Turn("user", "Hello")]),
    ChatPrompt(
        [
            Turn("system", "Be brief."),
            Turn("user", "A?"),
            Turn("assistant", "B."),
            Turn("user", "<image> C?"),
        ],
        Image.fromarray(picture(2)),
    ),
]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"repetition_penalty": 1.3}])
@pytest.mark.parametrize(("kind", "fit"), [("age_vlm", "squash"), ("age_vlm", "pad"), ("concat", "squash")])
def test_a_batch_is_answered_as_each_alone(kind, fit, options):
    model, processor = made(kind, fit)
    answers = Answerer(model, processor).answer(QUESTIONS, GenerationOptions(12, generate_kwargs=options))
    expected = []
    for question in QUESTIONS:
        messages = [{"role": turn.speaker, "content": turn.value} for turn in question.turns]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True).replace("<image> ", "")
        images = None if question.image is None else [question.image]
        inputs = processor(images=images, text=prompt)
        written = model.generate(**inputs, max_new_tokens=12, do_sample=False, **options)
        new = written[0, inputs["input_ids"].shape[1] :]
        expected.append(
            (processor.decode(new, skip_special_tokens=True).strip(), inputs["input_ids"].numel())
        )
    assert [(answer.text, answer.prompt_tokens) for answer in answers] == expected
    assert len({answer.text for answer in answers}) > 1


def test_the_image_counts():
    answerer = Answerer(*made("age_vlm"))
    turns = QUESTIONS[0].turns
    shown = [ChatPrompt(turns, picture(seed)) for seed in range(4)] + [ChatPrompt(turns)]
    assert len({answer.text for answer in answerer.answer(shown, GenerationOptions(12))}) > 1


def test_an_answer_ends_before_a_stop_word_and_no_later():
    answerer = Answerer(*made("age_vlm"))
    whole = answerer.answer(QUESTIONS[:2], GenerationOptions(24))
    word = whole[0].text[6:9]
    ended = answerer.answer(QUESTIONS[:2], GenerationOptions(24, until=("not there", word)))
    assert [one.text for one in ended] == [one.text.split(word)[0].strip() for one in whole]
    assert ended[0].tokens < whole[0].tokens


def test_a_question_too_long_loses_its_beginning_and_says_so():
    model, processor = made("age_vlm")
    answerer = Answerer(model, processor)
    words = " ".join(["star"] * 400)
    long = ChatPrompt([Turn("user", f"{words} Where?")])
    short = ChatPrompt([Turn("user", "Where?")])
    positions = model.config.text_config.max_position_embeddings
    answers = answerer.answer([long, short], GenerationOptions(10 * positions))
    assert [answer.truncated for answer in answers] == [True, False]
    assert answers[0].prompt_tokens + positions // 2 == positions
    assert all(answer.tokens <= positions // 2 for answer in answers)


def test_sampling_follows_the_seed():
    answerer = Answerer(*made("age_vlm"))
    decoding = GenerationOptions(12, generate_kwargs={"do_sample": True, "temperature": 1.5, "top_p": 0.9})
    told = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        told.append([answer.text for answer in answerer.answer(QUESTIONS, decoding)])
    assert told[0] == told[1] != told[2]


def test_answers_come_as_batches_do():
    answerer = Answerer(*made("age_vlm"))
    alone = [answerer.answer([question], GenerationOptions(12))[0].text for question in QUESTIONS]
    drawn = []

    def batches():
        for batch in (QUESTIONS[:1], QUESTIONS[1:3], QUESTIONS[3:]):
            drawn.append(len(batch))
            yield batch

    coming = answerer.answers(batches(), GenerationOptions(12))
    assert next(coming).text == alone[0]
    assert drawn[:1] == [1] and len(drawn) < 3  # the next one at most
    assert [answer.text for answer in coming] == alone[1:]
    assert list(answerer.answers([], GenerationOptions(12))) == []


def test_memory_that_runs_out_is_a_sentence(monkeypatch):
    model, processor = made("age_vlm")

    def full(**_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "generate", full)
    with pytest.raises(MaskgenError, match=r"does not hold 4 questions at once\. Give a smaller batch"):
        Answerer(model, processor).answer(QUESTIONS, GenerationOptions(12))
