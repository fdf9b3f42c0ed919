"""`maskgen status` on folders that are no sets of shards."""

import json

import pytest

from maskgen.errors import MaskgenError
from maskgen.evaluation.predictions import Answers, AnswerSetKey
from maskgen.evaluation.question import Question
from maskgen.training.checkpoint import new_folder
from maskgen.views.folder_status import folder_status


def line(stage: int, step: int) -> str:
    figures = {"loss": 2.5, "lm": 2.0, "guidance_above_floor": 0.5, "seconds": 2.0, "data_wait": 0.25}
    return json.dumps({"stage": stage, "step": step, **figures}) + "\n"


@pytest.fixture
def training(tmp_path):
    """A run that was stopped in stage 2 of 3, after 4 of 10 steps."""
    identity = {"recipe": {"recipe": "demo", "stages": {"1": {}, "2": {}, "3": {}}}, "first_stage": 1}
    record = {"identity": identity, "steps": {"1": 3, "2": 10, "3": 20}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    lines = [line(1, step) for step in range(3)] + [line(2, step) for step in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    with new_folder(tmp_path / "stage-1") as partial:
        (partial / "stage.json").write_text(json.dumps({"steps": 3}))
    for step in (10, 9):
        (tmp_path / "checkpoints" / f"stage-2-step-{step}").mkdir(parents=True)
    return tmp_path


def test_a_trainings_folder_says_how_far_it_is(training):
    found = folder_status(str(training))
    told = json.loads(json.dumps(found.to_dict()))
    assert [(one["step"], one["steps"], one["finished"]) for one in told["stages"]] == [
        *((3, 3, True), (4, 10, False), (0, 20, False))
    ]
    assert told["eta"] == 2.0 * (6 + 20) and not told["running"]
    shown = found.render()
    for words in ("finished, 3 steps", "step 4 of 10 (40.0 %)", "not begun, 20 steps", "lm 2.0000"):
        assert words in shown
    assert "25.0 % of it waiting for data; about 52 s left" in shown
    assert "stage-2-step-9, stage-2-step-10" in shown and "same maskgen train line" in shown


def test_a_record_of_an_earlier_version_knows_no_totals(training):
    record = json.loads((training / "run.json").read_text())
    del record["steps"]
    (training / "run.json").write_text(json.dumps(record))
    shown = folder_status(str(training)).render()
    assert "step 4\n" in shown and "not begun\n" in shown and "left" not in shown


def test_a_training_that_was_just_begun(training):
    (training / "metrics.jsonl").unlink()
    assert "step" not in folder_status(str(training)).to_dict()["losses"]
    assert "losses" not in folder_status(str(training)).render()


def test_an_evaluations_folder_counts_its_answers(tmp_path):
    answers = Answers(tmp_path / "pope" / "plain")
    answers.open(AnswerSetKey("pope", "plain", "RUN", "identity", "digest", {}))
    answers.add(
        [Question("1", "?", "yes_no", ("yes",)), Question("2", "?", "yes_no", ("no",))], ["yes", "no"]
    )
    found = folder_status(str(tmp_path))
    assert found.to_dict()["answers"] == {"pope/plain": 2}
    assert "of RUN" in found.render() and "2 answers" in found.render() and "maskgen score" in found.render()


def test_a_reproductions_folder_lists_its_trainings(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"recipe": {}, "exam": 12, "models": {}}))
    for run in ("seed-0/concat", "seed-0/age-vlm", "seed-1/concat"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "metrics.jsonl").write_text(line(1, 0))
    (tmp_path / "seed-0" / "concat" / "model").mkdir()
    (tmp_path / "seed-0" / "concat" / "model" / "config.json").write_text("{}")
    (tmp_path / "seed-0" / "concat.json").write_text("{}")
    found = folder_status(str(tmp_path))
    assert found.to_dict()["runs"] == {
        **{"seed-0/age-vlm": "training", "seed-0/concat": "measured", "seed-1/concat": "training"}
    }
    assert "same maskgen reproduce line" in found.render()


def test_another_folder_is_named_as_what_it_is(tmp_path):
    with pytest.raises(MaskgenError, match="no run was begun in"):
        folder_status(str(tmp_path))
    (tmp_path / "age-vlm").mkdir()
    (tmp_path / "age-vlm" / "run.json").write_text("{}")
    with pytest.raises(MaskgenError, match="holds several runs: age-vlm"):
        folder_status(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MaskgenError, match="is a model folder"):
        folder_status(str(tmp_path))
