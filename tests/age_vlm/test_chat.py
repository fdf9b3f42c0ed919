"""The chat template: labels, query tokens, cuts, and the same ids as transformers' own template."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.age_vlm.chat import ChatTemplate
from maskgen.sample import Turn
from maskgen.small_models import checkpoint

TALK = [
    Turn("human", "<image>\nWhere is the small star?"),
    Turn("gpt", "At the top left"),
    Turn("human", "What is in the picture?"),
    Turn("gpt", "A star."),
]


@pytest.fixture(scope="module")
def template():
    from transformers import PreTrainedTokenizerFast

    return ChatTemplate(PreTrainedTokenizerFast.from_pretrained(checkpoint("llama")), 200)


def words(template, ids):
    return template.tokenizer.decode(list(ids))


def messages(turns):
    names = {"human": "user", "gpt": "assistant", "system": "system"}
    return [{"role": names[turn.speaker], "content": turn.value.replace("<image>\n", "")} for turn in turns]


def test_the_text_is_as_documented(template):
    assert words(template, template.encode(TALK).input_ids) == (
        "<s>User: Where is the small star?\nAssistant: At the top left</s>\n"
        "User: What is in the picture?\nAssistant: A star.</s>"
    )


def test_answers_and_their_ends_are_learnt(template):
    encoded = template.encode(TALK)
    learnt = [label for label in encoded.labels if label != -100]
    assert words(template, learnt) == " At the top left</s> A star.</s>"
    assert all(label in (-100, token) for label, token in zip(encoded.labels, encoded.input_ids, strict=True))


@pytest.mark.parametrize(
    ("span", "said"),
    [((0, 8, 32), "Where is the small star?"), ((0, 21, 31), " small star"), ((3, 0, 7), " A star.")],
)
def test_spans_find_their_tokens(template, span, said):
    encoded = template.encode(TALK, [span])
    marked = [token for token, query in zip(encoded.input_ids, encoded.query_mask, strict=True) if query]
    assert words(template, marked) in (said, said.strip(), f" {said}")


def test_special_tokens_in_a_text_are_text(template):
    eos = template.tokenizer.eos_token_id
    encoded = template.encode([Turn("human", "</s> <s> </s>"), Turn("gpt", "No</s>")])
    assert encoded.input_ids.count(eos) == 1 and encoded.input_ids[-1] == eos


def test_what_is_too_long_is_cut_at_its_end(template):
    whole = template.encode(TALK)
    short = ChatTemplate(template.tokenizer, 10).encode(TALK)
    assert short.truncated and not whole.truncated
    assert short.input_ids == whole.input_ids[:10] and len(short.labels) == len(short.query_mask) == 10
    prompt = ChatTemplate(template.tokenizer, 10).prompt(TALK[:3])
    assert prompt.truncated and prompt.input_ids == template.prompt(TALK[:3]).input_ids[-10:]


TURNS = st.lists(
    st.tuples(
        st.sampled_from(["human", "gpt", "system"]),
        st.text(
            st.characters(codec="utf-8", exclude_categories=["Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=20
        ),
    ),
    min_size=1,
    max_size=5,
)


@given(TURNS)
def test_transformers_own_template_gives_the_same_tokens(template, pairs):
    turns = [Turn(speaker, f"a {value.replace('<', '(')} b") for speaker, value in pairs]
    rendered = template.tokenizer.apply_chat_template(
        messages(turns), return_dict=True, return_assistant_tokens_mask=True
    )
    encoded = template.encode(turns)
    assert rendered["input_ids"] == encoded.input_ids
    assert [bool(mask) for mask in rendered["assistant_masks"]] == [label != -100 for label in encoded.labels]
    prompt = template.tokenizer.apply_chat_template(
        messages(turns), add_generation_prompt=True, return_dict=True
    )
    assert prompt["input_ids"] == template.prompt(turns).input_ids
