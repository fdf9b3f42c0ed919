"""What the demo's training asks its models, and the whole of it at its smallest."""

import json

import numpy as np
import pytest
from PIL import Image

from maskgen.evaluation.benchmarks import BENCHMARKS
from maskgen.evaluation.locations import find
from maskgen.reproduce import demo_training
from maskgen.reproduce.demo_questions import demo_dialogue, first_questions, write_pope
from maskgen.reproduce.demo_training import train_demo
from maskgen.reproduce.question_families import SPLITS
from maskgen.scenes.drawing import draw_scene
from maskgen.scenes.scene_dataset import scene_query
from maskgen.training import recipe as recipes


def test_a_scene_teaches_its_own_question_first():
    for seed in range(5):
        turns = demo_dialogue(draw_scene(seed))
        assert turns[0].value == scene_query(draw_scene(seed)).text
        assert [turn.role for turn in turns] == ["user", "assistant"] * (len(turns) // 2)


def test_the_first_questions_are_of_known_kinds_and_right():
    asked = first_questions(range(30, 60))
    assert len(asked) == 5 and len({seed for seed, _ in asked}) == 5
    assert [query.answer for _, query in asked[:2]] == ["Yes", "No"]
    assert {query.kind for _, query in asked[2:]} == {"attribute"}
    for seed, query in asked[2:]:
        (thing,) = (draw_scene(seed).things[index] for index in query.targets)
        assert query.answer.lower() in (thing.size, thing.colour, thing.shape)


def test_pope_is_read_as_published(tmp_path):
    folder = write_pope(tmp_path / "pope", range(40, 48))
    source = find(BENCHMARKS["pope"], str(folder), prompt="dataset")
    assert source.total == len(source.questions) > 30
    source.pictures()  # none is missing
    assert {question.groups["split"] for question in source.questions} == set(SPLITS)
    for split in SPLITS:
        answers = [each.answers for each in source.questions if each.groups["split"] == split]
        assert answers.count(("yes",)) == answers.count(("no",))
    seen = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    write_pope(folder, range(40, 48))
    assert seen == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    scene = draw_scene(40)
    (name,) = (each.name for each in (folder / "val2014").glob("0000040.*"))
    there = {(thing.colour, thing.shape) for thing in scene.things}
    for question in source.questions:
        if question.image == name:
            *_, colour, shape = question.text.rstrip("?").split()
            assert ((colour, shape) in there) == (question.answers == ("yes",))


@pytest.mark.slow
def test_the_demo_shares_its_first_stages_and_ends_in_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_training, "HELD_OUT", 12)
    monkeypatch.setattr(demo_training, "_POPE", 4)
    small = ["data.expected={pretrain: 8, finetune: 8}", "batch=4", "resources.micro_batch=4"]
    recipe = recipes.load("demo", small)
    said: list[str] = []
    told = train_demo(recipe, str(tmp_path / "demo"), said.append)
    out = tmp_path / "demo"
    assert told.count(" Yes\n") + told.count(" No\n") >= 2 and f"maskgen ask --model {out}/age-vlm" in told
    lineages = {
        name: json.loads((out / name / "stage-3" / "model" / "lineage.json").read_text())
        for name in ("age-vlm", "ca-baseline")
    }
    shared = json.loads((out / "shared" / "stage-2" / "model" / "lineage.json").read_text())
    assert [each["parent"] for each in lineages.values()] == [shared["weights"]] * 2
    assert lineages["age-vlm"]["weights"] != lineages["ca-baseline"]["weights"]
    assert not (out / "shared" / "model").exists() and not (out / "age-vlm" / "stage-1").exists()
    assert np.asarray(Image.open(out / "attention.png")).std() > 10
    trained = [(out / name / "metrics.jsonl").read_bytes() for name in lineages]
    assert train_demo(recipe, str(out), said.append) == told  # again: nothing is trained anew
    assert trained == [(out / name / "metrics.jsonl").read_bytes() for name in lineages]
