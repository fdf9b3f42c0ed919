"""The whole reproduction at its smallest: killed, gone on with, and reported from its files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskgen.errors import MaskgenError
from maskgen.reproduce import findings_page
from maskgen.reproduce.measure import Exam
from maskgen.reproduce.reproduce import reproduce
from maskgen.reproduce.runs import FIRST_SEEDS
from maskgen.reproduce.scales import MODELS, SCALES, ReproductionFolder, shared_recipe
from maskgen.training.trainer import METRICS

LINE = [
    sys.executable,
    "-c",
    "from maskgen.cli import script; script()",
    "reproduce",
    "--scale",
    "tiny",
    "--seeds",
    "1",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> ReproductionFolder:
    """One that was killed in the middle of a training and run again."""
    out = tmp_path_factory.mktemp("reproduce") / "out"
    line = [*LINE, "--out", str(out), "--jobs", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(line, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    watched = out / "seed-0" / "ca-baseline" / METRICS
    deadline = time.monotonic() + 300
    while not (watched.is_file() and watched.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert first.poll() is None, "it was over before it could be killed"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert str(out / findings_page.HTML) in done.stdout
    return ReproductionFolder(out)


@pytest.mark.slow
def test_everything_is_there(place):
    markdown = (place.out / findings_page.MARKDOWN).read_text()
    for name in (findings_page.PICTURE, findings_page.MAPS):
        assert (place.out / name).stat().st_size > 10_000
        assert name in markdown
    html = (place.out / findings_page.HTML).read_text()
    assert html.count("data:image/jpeg") == 2 and "<script" not in html
    assert all(model in markdown for model in MODELS)
    assert "maskgen reproduce --scale tiny --seeds 1" in markdown


@pytest.mark.slow
def test_the_figures_follow_from_the_files(place):
    findings = json.loads((place.out / findings_page.FINDINGS).read_text())
    for model in MODELS:
        answers = json.loads(place.measurement(0, model).read_text())["answers"]["image"]
        questions = json.loads(place.exam.read_text())
        assert len(answers) == len(questions)
        hits = [
            row["expected"] == text.rstrip(".").capitalize()
            for row, text in zip(questions, answers, strict=True)
        ]
        assert findings["figures"]["all questions"][model]["value"] == pytest.approx(sum(hits) / len(hits))
        assert 0 <= findings["figures"]["attention inside the mask"][model]["value"] <= 1
    expected = [(number, query.text) for number, query in Exam(SCALES["tiny"].exam).questions]
    assert [(row["scene"], row["question"]) for row in questions] == expected


@pytest.mark.slow
def test_models_share_their_stages(place):
    """AGE-VLM begins where the baseline's stage 2 ended, AGE-VLM-LM where AGE-VLM's stage 3 did."""

    def lineage(model, stage):
        return json.loads((place.run(0, model) / f"stage-{stage}" / "stage.json").read_text())

    assert lineage("age-vlm", 3)["parent"] == lineage("ca-baseline", 2)["weights"]
    assert lineage("ca-baseline", 3)["parent"] == lineage("ca-baseline", 2)["weights"]
    assert lineage("age-vlm-lm", 4)["parent"] == lineage("age-vlm", 3)["weights"]
    assert lineage("age-vlm", 3)["weights"] != lineage("ca-baseline", 3)["weights"]


@pytest.mark.slow
def test_another_call_makes_nothing_anew(place):
    before = {path: path.stat().st_mtime_ns for path in place.out.glob("seed-*/**/*.json")}
    reproduce(str(place.out), SCALES["tiny"], 1, 1, "maskgen", lambda _: None)
    assert {path: path.stat().st_mtime_ns for path in place.out.glob("seed-*/**/*.json")} == before


@pytest.mark.slow
def test_another_scale_is_refused(place):
    with pytest.raises(MaskgenError, match="begun with other settings"):
        reproduce(str(place.out), SCALES["demo"], 1, 1, "maskgen", lambda _: None)


def test_nobody_trains_on_the_exam():
    shared = shared_recipe(SCALES["demo"])
    trained = [
        range(FIRST_SEEDS[name], FIRST_SEEDS[name] + shared.data.expected[name]) for name in FIRST_SEEDS
    ]
    examined = {scene.seed for scene in Exam(3).scenes}
    assert not any(seed in some for seed in examined for some in trained)


def test_an_unknown_scale_is_a_sentence(tmp_path: Path):
    line = [*LINE[:4], "--scale", "huge", "--out", str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Give one of demo, tiny" in done.stderr
