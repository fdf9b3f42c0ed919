"""Many questions at once are answered as each is alone, and a run's model is found."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from maskgen.age_vlm import AgeVlmImageProcessor, AgeVlmProcessor
from maskgen.age_vlm.answering import Answerer, Decoding, Question
from maskgen.age_vlm.loading import load, model_folder
from maskgen.demo import checkpoint
from maskgen.errors import MaskgenError
from maskgen.sample import Turn

pytestmark = pytest.mark.usefixtures("one_thread")


def made(kind, fit="squash"):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint("llama"))
    torch.manual_seed(0)
    model = tiny.age_vlm(fit=fit) if kind == "age_vlm" else tiny.concat(fit=fit)
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        for weight in model.model["language"].parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.3)  # wider than at the start: else it repeats the last word
    processor = AgeVlmProcessor(AgeVlmImageProcessor(tiny.SIDE, tiny.SIDE // 16, fit), tokenizer)
    return model, processor


def picture(seed, width=40, height=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


QUESTIONS = [
    Question([Turn("user", "Where is the star?")], picture(0)),
    Question([Turn("user", "Count the red circles and say how many there are.")], picture(1, 20, 60)),
    Question([Turn("user", "Hello")]),
    Question(
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
    answers = Answerer(model, processor).answer(QUESTIONS, Decoding(12, options=options))
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
    shown = [Question(turns, picture(seed)) for seed in range(4)] + [Question(turns)]
    assert len({answer.text for answer in answerer.answer(shown, Decoding(12))}) > 1


def test_an_answer_ends_before_a_stop_word_and_no_later():
    answerer = Answerer(*made("age_vlm"))
    whole = answerer.answer(QUESTIONS[:2], Decoding(24))
    word = whole[0].text[6:9]
    ended = answerer.answer(QUESTIONS[:2], Decoding(24, until=("not there", word)))
    assert [one.text for one in ended] == [one.text.split(word)[0].strip() for one in whole]
    assert ended[0].tokens < whole[0].tokens


def test_a_question_too_long_loses_its_beginning_and_says_so():
    model, processor = made("age_vlm")
    answerer = Answerer(model, processor)
    words = " ".join(["star"] * 400)
    long = Question([Turn("user", f"{words} Where?")])
    short = Question([Turn("user", "Where?")])
    positions = model.config.text_config.max_position_embeddings
    answers = answerer.answer([long, short], Decoding(10 * positions))
    assert [answer.cut for answer in answers] == [True, False]
    assert answers[0].prompt_tokens + positions // 2 == positions
    assert all(answer.tokens <= positions // 2 for answer in answers)


def test_sampling_follows_the_seed():
    answerer = Answerer(*made("age_vlm"))
    decoding = Decoding(12, options={"do_sample": True, "temperature": 1.5, "top_p": 0.9})
    told = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        told.append([answer.text for answer in answerer.answer(QUESTIONS, decoding)])
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize("kind", ["age_vlm", "concat"])
def test_a_runs_model_is_found_and_loaded(kind, tmp_path):
    model, processor = made(kind)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "RUN" / "model")
    for place in (tmp_path / "RUN", tmp_path / "RUN" / "model"):
        loaded, read = load(place)
        assert type(loaded) is type(model) and not loaded.training and loaded.dtype == torch.float32
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
        assert read.image_processor.size == tiny.SIDE
    assert load(tmp_path / "RUN", dtype="bfloat16")[0].dtype == torch.bfloat16


def test_what_is_no_model_is_a_sentence(tmp_path):
    with pytest.raises(MaskgenError, match="neither a run of maskgen train nor a folder"):
        model_folder(tmp_path)
    for stage in (2, 10):
        (tmp_path / f"stage-{stage}" / "model").mkdir(parents=True)
        (tmp_path / f"stage-{stage}" / "model" / "config.json").write_text("{}")
    with pytest.raises(MaskgenError, match=r"stages to go.*stage-10/model"):
        model_folder(tmp_path)
    with pytest.raises(MaskgenError, match="holds a llama, not one of age_vlm, concat_vlm"):
        load(checkpoint("llama"))
    with pytest.raises(MaskgenError, match="int3 is no dtype"):
        load(checkpoint("llama"), dtype="int3")
    with pytest.raises(MaskgenError, match="device cuda:77 is not to be had"):
        load(checkpoint("llama"), "cuda:77")


def test_a_damaged_model_is_a_sentence(tmp_path):
    model, processor = made("concat")
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensors[name] for name in sorted(tensors)[1:]}, weights, {"format": "pt"})
    with pytest.raises(MaskgenError, match=r"lacks weights \(.*\). Copy it again"):
        load(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(MaskgenError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MaskgenError, match="cannot be read"):
        load(tmp_path)
