"""Questions are true of their scenes: each answer is worked out again from the things themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.reproduce.question_families import (
    OBJECTS,
    SPLITS,
    dialogue,
    dialogue_with_description,
    exam_questions,
    objects_by_frequency,
    presence_question,
)
from maskgen.scenes.drawing import draw_scene
from maskgen.scenes.scene_dataset import scene_query
from maskgen.scenes.texts import DESCRIBE

SEEDS = st.integers(0, 5_000)


def named(text, scene):
    """The things that "red star" names, by its words alone."""
    words = text.split()
    return [t for t in scene.things if all(word in (t.size, t.colour, t.shape, "thing") for word in words)]


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_presence_is_answered_by_what_the_scene_holds(seed):
    scene = draw_scene(seed)
    for query in exam_questions(scene, np.random.default_rng(seed), OBJECTS):
        if query.kind.startswith("presence"):
            phrase = query.text.removeprefix("Is there a ").removesuffix("?")
            assert (query.answer == "Yes") == bool(named(phrase, scene))
            assert {scene.things[i].shape for i in query.targets} <= {phrase.split()[-1]}


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_an_adversarial_object_is_made_of_what_is_there(seed):
    scene = draw_scene(seed)
    query = presence_question(scene, "adversarial", False, np.random.default_rng(seed))
    if query is not None:
        colour, shape = query.text.removeprefix("Is there a ").removesuffix("?").split()
        assert colour in {thing.colour for thing in scene.things}
        assert shape in {thing.shape for thing in scene.things}
        assert not named(f"{colour} {shape}", scene)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_relations_follow_from_the_centres(seed):
    scene = draw_scene(seed)
    height, width = scene.pixels.shape[:2]
    for query in exam_questions(scene, np.random.default_rng(seed), OBJECTS):
        if query.kind == "relation":
            one, other = (scene.things[i] for i in query.targets)
            across, down = (one.x - other.x) / width, (one.y - other.y) / height
            relation = next(r for r in ("left of", "right of", "above", "below") if r in query.text)
            clear = {"left of": -across, "right of": across, "above": -down, "below": down}[relation]
            assert abs(clear) > 0.1
            assert (query.answer == "Yes") == (clear > 0)


def test_a_popular_object_is_the_first_of_the_list_that_is_missing():
    scenes = [draw_scene(seed) for seed in range(30)]
    popular = objects_by_frequency(scenes)
    counts = [
        sum((p.colour, p.shape) == (t.colour, t.shape) for s in scenes for t in s.things) for p in popular
    ]
    assert counts == sorted(counts, reverse=True)
    for scene in scenes:
        query = presence_question(scene, "popular", False, np.random.default_rng(0), popular)
        first = next(phrase for phrase in popular if not named(f"{phrase.colour} {phrase.shape}", scene))
        assert query is not None and query.text == f"Is there a {first}?"


@pytest.mark.parametrize("questions", [1, 6])
def test_a_talk_begins_with_the_query_that_is_grounded(questions):
    for seed in range(20):
        scene = draw_scene(seed)
        turns = dialogue(scene, np.random.default_rng(seed), questions)
        texts = [turn.value for turn in turns[::2]]
        assert texts[0] == scene_query(scene).text
        assert len(set(texts)) == len(texts) == questions
        assert [turn.speaker for turn in turns] == ["human", "gpt"] * questions


def test_a_description_comes_second():
    turns = dialogue_with_description(draw_scene(3), np.random.default_rng(3), 3)
    assert [turns[0].value, turns[2].value] == [scene_query(draw_scene(3)).text, DESCRIBE]


def test_half_of_the_presence_questions_are_true():
    exam = [q for s in range(60) for q in exam_questions(draw_scene(s), np.random.default_rng(s), OBJECTS)]
    for split in SPLITS:
        answers = [q.answer for q in exam if q.kind == f"presence/{split}"]
        assert answers.count("Yes") == answers.count("No") > 30
