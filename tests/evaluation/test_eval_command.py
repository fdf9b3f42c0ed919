"""`maskgen eval` and `score` from files to the table, on miniatures of all five benchmarks."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from helpers import benchmark_files as miniatures
from maskgen import cli
from maskgen.evaluation.benchmarks import BENCHMARKS
from maskgen.evaluation.predictions import Answers, identity
from maskgen.evaluation.table2 import PAPER
from maskgen.small_models import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `maskgen ARGUMENTS` in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["maskgen", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run's folder RUN, another one OTHER, and all benchmarks in data."""
    folder = tmp_path_factory.mktemp("place")
    miniatures.everything(folder / "data")
    miniatures.model_folder(folder / "RUN" / "model")
    miniatures.model_folder(folder / "OTHER" / "model", kind="concat_vlm", seed=1)
    return folder


def line(place: Path, out: Path, *more: object, model: str = "RUN", bench: str = "pope") -> list[object]:
    model_at = place / model
    places = ["--model", model_at, "--data", place / "data", "--out", out, "--bench", bench]
    return ["eval", *places, "--max-new-tokens", 6, "--device", "cpu", *more]


@pytest.mark.slow
def test_all_benchmarks_end_to_end(call, place, tmp_path):
    every = ",".join(miniatures.MAKERS)
    code, out, err = call(*line(place, tmp_path / "out", "--blind", "--shuffled", bench=every))
    assert code == 0, err
    for name, count in miniatures.QUESTIONS.items():
        assert f"{name} of {tmp_path / 'out'}: {count} questions of " in out
        for test in ("plain", "blind", "shuffled"):
            questions, answers = Answers(tmp_path / "out" / name / test).read()
            assert len(questions) == len(answers) == count
            assert any(answers)
            assert all((question.image is None) == (test == "blind") for question in questions)
    assert "protocol paper" in out and "over blind" in out and "always no" in out
    table = out.split("Table 2")[1]
    assert "(not all questions were asked of cvbench, hallusionbench, ocrbench, pope, realworldqa)" in table
    assert f"{tmp_path / 'out'} (blind)" in table
    assert all(f"paper: {name}" in table for name in PAPER) and "87.34" in table

    # The same again without the model, in every form.
    assert call("score", tmp_path / "out")[1] == out
    code, again, _ = call("score", tmp_path / "out", "--json", "--compare-protocols")
    tree = json.loads(again)
    assert [each["benchmark"] for each in tree["scores"]] == [
        "hallusionbench", "ocrbench", "cvbench", "realworldqa", "pope",
    ]  # fmt: skip
    assert all(each["protocol"] == "paper" and each["tests"]["blind"] for each in tree["scores"])
    assert {row["source"] for row in tree["table2"]} == {"maskgen", "paper"}
    assert tree["scores"][-1][
        "disagreements"
    ]  # no answer of this model is readable, but POPE's script reads all
    code, markdown, _ = call(
        "score", tmp_path / "out", "--markdown", "--bench", "pope", "--protocol", "official"
    )
    assert code == 0 and "protocol official" in markdown and "| paper: AGE-VLM |" in markdown
    assert "hallusionbench of" not in markdown
    told = call("score", tmp_path / "out", "--markdown", "--bench", "pope", "--compare-protocols")[1]
    assert "\n\n- " in told and "- right by official (yes)" in told


def test_a_shuffled_answer_differs_from_a_seeing_one(call, place, tmp_path):
    assert call(*line(place, tmp_path / "out", "--shuffled", "--blind", bench="cvbench"))[0] == 0
    said = {
        test: Answers(tmp_path / "out" / "cvbench" / test).read()[1]
        for test in ("plain", "blind", "shuffled")
    }
    assert said["plain"] != said["shuffled"] and said["plain"] != said["blind"]


@pytest.mark.slow
def test_two_runs_share_a_table(call, place, tmp_path):
    for model in ("RUN", "OTHER"):
        assert call(*line(place, tmp_path / model, model=model))[0] == 0
    code, out, _ = call("score", tmp_path / "RUN", tmp_path / "OTHER")
    assert code == 0
    table = out.split("Table 2")[1]
    assert str(tmp_path / "RUN") in table and str(tmp_path / "OTHER") in table


def test_answers_are_plain_parquet(call, place, tmp_path):
    call(*line(place, tmp_path / "out"))
    (part,) = sorted((tmp_path / "out" / "pope" / "plain").glob("part-*.parquet"))
    row = pq.read_table(part).to_pylist()[0]
    assert row["text"].endswith("Please answer yes or no.") and row["answers"] == ["yes"] and "answer" in row


@pytest.mark.slow
def test_an_interrupted_run_goes_on(call, place, tmp_path, monkeypatch):
    from maskgen.evaluation import evaluate

    whole = tmp_path / "whole"
    assert call(*line(place, whole))[0] == 0
    asked = []
    real = evaluate.ask

    def interrupted(request, say, count):
        def stop(done: int, total: int) -> None:
            asked.append(total)
            if done == 5:
                raise KeyboardInterrupt

        real(request, say, stop)

    monkeypatch.setattr(evaluate, "ask", interrupted)
    code, _, err = call(*line(place, tmp_path / "out", "--batch", 2))
    assert code == 3 and "run the same line again" in err
    assert len(Answers(tmp_path / "out" / "pope" / "plain").read()[0]) == 5
    code, _, err = call("score", tmp_path / "out")
    assert code == 1 and "is not complete: 5 questions are answered" in err
    monkeypatch.setattr(evaluate, "ask", real)
    code, _, err = call(*line(place, tmp_path / "out", "--batch", 2))
    assert code == 0 and "5 are answered, 7 are left" in err
    code, _, err = call(*line(place, tmp_path / "out"))
    assert code == 0 and "every question is answered already" in err
    for one, other in zip(
        Answers(whole / "pope" / "plain").read(),
        Answers(tmp_path / "out" / "pope" / "plain").read(),
        strict=True,
    ):
        assert one == other


@pytest.mark.slow
def test_a_killed_run_goes_on(call, place, tmp_path):
    script = (
        "import os, signal, sys\n"
        "from maskgen.evaluation import evaluate\n"
        "evaluate._PART = 2\n"
        "real = evaluate.ask\n"
        "def dying(request, say, count):\n"
        "    def die(done, total):\n"
        "        if done == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(request, say, die)\n"
        "evaluate.ask = dying\n"
        "from maskgen import cli\n"
        f"sys.argv = {['maskgen', *map(str, line(place, tmp_path / 'out', '--batch', 2))]!r}\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL
    kept = Answers(tmp_path / "out" / "pope" / "plain").read()[0]
    assert 4 <= len(kept) < 12
    code, _, err = call(*line(place, tmp_path / "out"))
    assert code == 0 and f"{len(kept)} are answered" in err
    assert len(Answers(tmp_path / "out" / "pope" / "plain").read()[0]) == 12


def test_other_answers_are_not_mixed_in(call, place, tmp_path):
    assert call(*line(place, tmp_path / "out"))[0] == 0
    for more, model, said in (
        ((), "OTHER", "another model"),
        (("--limit", 3), "RUN", "other questions"),
        (("--max-new-tokens", 7), "RUN", "other settings"),
    ):
        code, _, err = call(*line(place, tmp_path / "out", *more, model=model))
        assert code == 1 and said in err and "Give another --out" in err


def test_a_folder_alone_and_a_prompt(call, place, tmp_path):
    out = tmp_path / "out"
    told = [
        "eval",
        "--model",
        place / "RUN",
        "--data",
        place / "data" / "pope",
        "--out",
        out,
        "--device",
        "cpu",
    ]
    code, said, _ = call(*told, "--prompt", "dataset", "--max-new-tokens", 2)
    assert code == 0 and "prompt dataset, protocol paper" in said and "most likely F1" in said
    assert [folder.name for folder in out.iterdir() if folder.name in BENCHMARKS] == ["pope"]
    assert Answers(out / "pope" / "plain").asked().prompt == "dataset"
    code, _, err = call(*told, "--max-new-tokens", 2)
    assert code == 1 and "holds answers of other questions" in err
    code, _, err = call(*told, "--prompt", "pope=louder")
    assert code == 1 and "pope has no prompt louder. It has paper, dataset" in err


@pytest.mark.parametrize("held", ["run.json", "shard-00000.tar"])
def test_answers_are_not_written_into_a_set_of_shards(call, place, tmp_path, held):
    (tmp_path / held).write_text('{"identity": {}}')
    code, _, err = call(*line(place, tmp_path))
    assert code == 1 and "holds a set of shards, which stays as it is" in err
    assert [path.name for path in tmp_path.iterdir()] == [held]


def test_baselines_need_no_model(call, place):
    file = place / "data" / "hallusionbench" / "HallusionBench.json"
    told = ["eval", "--bench", "hallusionbench", "--annotations", file, "--baselines-only"]
    code, out, _ = call(*told)
    assert code == 0 and "hallusionbench: 6 questions" in out
    (always_no,) = [row for row in out.splitlines() if row.strip().startswith("aAcc ")][:1]
    assert always_no.split()[2] == "66.67"
    assert json.loads(call(*told, "--json")[1])["hallusionbench"]["always no"]["aAcc"] == pytest.approx(
        66.67, abs=0.01
    )


def test_a_model_is_what_its_files_are(place, tmp_path):
    shutil.copytree(place / "RUN" / "model", tmp_path / "copy")
    (tmp_path / "copy" / "lineage.json").write_text("{}")
    assert identity(tmp_path / "copy") == identity(place / "RUN" / "model")
    assert identity(tmp_path / "copy") != identity(place / "OTHER" / "model")


def test_a_local_judge_reads_what_no_rule_can(call, place, tmp_path):
    assert call(*line(place, tmp_path / "out", bench="cvbench"))[0] == 0
    code, out, err = call("score", tmp_path / "out", "--judge", checkpoint("llama"), "--device", "cpu")
    assert code == 0, err
    assert "judged" in out.splitlines()[0]
    code, _, err = call("score", tmp_path / "out", "--judge", tmp_path)
    assert code == 1 and "--judge" in err and "cannot be loaded" in err
    lacking = shutil.copytree(checkpoint("llama"), tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    code, _, err = call("score", tmp_path / "out", "--judge", lacking, "--device", "cpu")
    assert code == 1 and "lacks weights (model.layers.0.self_attn.q_proj.weight)" in err


def test_a_damaged_part_is_named(call, place, tmp_path):
    call(*line(place, tmp_path / "out"))
    (tmp_path / "out" / "pope" / "plain" / "part-00000.parquet").write_bytes(b"PAR1 no more")
    code, _, err = call("score", tmp_path / "out")
    assert code == 1 and "part-00000.parquet is damaged" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eval"], "--data is missing"),
        (["eval", "--data", "DATA"], "--model (a run of maskgen train) is missing"),
        (["eval", "--data", "DATA", "--model", "RUN"], "--out (the folder for the answers) is missing"),
        (["eval", "--bench", "mme", "--data", "DATA"], "there is no benchmark mme"),
        (["eval", "--annotations", "x.json"], "one benchmark's"),
        (
            ["eval", "--bench", "pope", "--data", "DATA", "--protocol", "strict"],
            "pope has no protocol strict",
        ),
        (["eval", "--bench", "pope", "--data", "DATA", "--protocol", "mme=strict"], "no benchmark mme"),
        (["eval", "--data", "DATA", "--model", "/no/such", "--out", "OUT"], "is no model: neither a run"),
        (
            ["eval", "--data", "DATA", "--model", "RUN", "--out", "OUT", "--device", "cuda:99"],
            "the device cuda:99 is not to be had",
        ),
        (["eval", "--data", "DATA", "--model", "RUN", "--out", "OUT", "--device", "tpu9"], "the device tpu9"),
        (["score", "/no/such"], "holds no answers"),
        (["score", "/no/such", "--json", "--markdown"], "give one of them"),
    ],
)
def test_a_mistake_is_a_sentence(call, place, tmp_path, arguments, said):
    names = {"DATA": place / "data", "RUN": place / "RUN", "OUT": tmp_path / "out"}
    code, _, err = call(*(names.get(word, word) for word in arguments))
    assert code == 1 and said in err and "bug in maskgen" not in err
