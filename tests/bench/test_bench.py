"""`maskgen bench` on a handful of scenes."""

import dataclasses
import json
import signal

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from maskgen import config
from maskgen.bench import comparison, random_checkpoints, workload
from maskgen.bench.bench_report import Agreement, render
from maskgen.bench.comparison import BenchRequest, agreement, run_benchmark
from maskgen.bench.part_times import FORWARDS, PARTS
from maskgen.bench.script_baseline import BenchAnswers
from maskgen.cli import app
from maskgen.commands.bench_commands import _models
from maskgen.errors import MaskgenError
from maskgen.grounding.auto_settings import in_words, resolve
from maskgen.small_models import small_florence2, small_sam

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    result = CliRunner().invoke(
        app,
        ["bench", "--images", "6", "--rounds", "1", "--batch", "4", "--device", "cpu", "--out", str(file)],
    )
    assert result.exit_code == 0, result.output
    return result.output, json.loads(file.read_text())


@pytest.mark.slow
def test_the_json_has_everything(found):
    _, tree = found
    assert (tree["images"], tree["rounds"], tree["dtype"], tree["device"]) == (6, 1, "float32", "cpu")
    assert [way["name"].split()[0] for way in tree["ways"]] == ["a", "b", "c", "d"]
    for way in tree["ways"]:
        assert set(way["parts"]) == set(way["processor_parts"]) == set(PARTS)
        assert all(way["parts"][part] > 0 for part in FORWARDS)
        assert way["images_per_second"] == pytest.approx(6 / way["seconds"][0])
        assert way["share_of_limit"] == pytest.approx(way["images_per_second"] / tree["limit"]["serial"])
        assert way["tokens"] > 5 and way["memory"] is None
    assert tree["ways"][0]["ratio"] == 1
    assert tree["overhead"]["ratio"] == pytest.approx(
        tree["overhead"]["pipeline"] / tree["overhead"]["forwards"]
    )
    assert tree["machine"]["flops"] > 0 and tree["work"]["florence"] > 0


def test_the_ways_agree(found):
    _, tree = found
    script, batches, reference, engine = (way["agreement"] for way in tree["ways"])
    assert engine == reference == {"iou": 1.0, "least": 1.0, "equal": 6}
    # Scripts cut coordinates down to whole pixels: nearly the same boxes, and nearly the same masks.
    assert script["iou"] > 0.9 and batches["iou"] > 0.9
    assert len({round(way["tokens"], 6) for way in tree["ways"]}) == 1


def test_the_text_names_every_number(found):
    printed, tree = found
    for phrase in ("a script", "d engine", "of processor", "of limit", *PARTS, "limit:", "overhead:"):
        assert phrase in printed
    assert f"{tree['overhead']['ratio']:.2f} x" in printed


@pytest.mark.slow
def test_random_weights_run_every_way(monkeypatch):
    """As --full-size does, with a small Florence-2 of the same make and a small SAM."""
    sizes = dataclasses.replace(
        small_florence2.TINY,
        width=64,
        layers=2,
        feed_forward=128,
        positions=512,
        words=900,
        attention_heads=4,
    )

    def write(folder, dtype, lengths, texts):
        (folder / "florence2").mkdir(parents=True)
        random_checkpoints.write_florence2(folder / "florence2", sizes, 2000, lengths, texts, dtype)
        small_sam.build(folder / "sam", small_sam.TINY, 0)
        return [
            f"proposer.model={folder / 'florence2'}",
            "proposer.max_new_tokens=300",
            "refiner.model=demo",
            f"refiner.checkpoint={folder / 'sam'}",
        ]

    monkeypatch.setattr("maskgen.bench.comparison.random_checkpoints.write_checkpoints", write)
    report = run_benchmark(
        BenchRequest(images=5, rounds=1, large=True, tokens=40, scripted=3, batch=2), lambda _: None
    )
    assert "log-normal of mean 40" in report.lengths
    assert [way.images for way in report.ways] == [3, 3, 5, 5]
    assert len({way.tokens for way in report.ways}) == 2
    assert report.ways[-1].agreement == Agreement(1, 1, 5)
    assert report.settings == in_words(resolve(config.load("pretrain"), "cpu")), "as maskgen run would"
    assert all(way.parts["SAM decode"] > 0 for way in report.ways)  # an outline was found, so SAM was asked


@pytest.fixture
def stopped(monkeypatch):
    """The report of a comparison in which so many passes were timed before `stop`."""

    def measured(passes, stop, **options):
        timed, calls = comparison.time_run, []

        def counted(*args):
            calls.append(args)
            if len(calls) > passes:
                stop()
            return timed(*args)

        monkeypatch.setattr(comparison, "time_run", counted)
        return run_benchmark(BenchRequest(images=3, rounds=2, batch=2, **options), lambda _: None)

    return measured


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.slow
def test_what_is_cut_short_says_what_it_has(stopped):
    report = stopped(2, interrupt)
    assert report.cut == "interrupted" and [len(way.seconds) for way in report.ways] == [0, 0, 1, 1]
    printed, tree = render(report), json.loads(json.dumps(report.to_dict()))
    assert "cut short (interrupted)" in printed and "overhead: not measured" in printed
    script, engine = tree["ways"][0], tree["ways"][3]
    assert script["images_per_second"] is script["share_of_limit"] is engine["ratio"] is None
    assert engine["images_per_second"] > 0 and engine["share_of_limit"] > 0
    assert engine["agreement"]["equal"] == 3 and script["parts"]["read"] > 0


@pytest.mark.slow
def test_a_time_limit_cuts_short(stopped):
    report = stopped(5, lambda: signal.raise_signal(signal.SIGALRM), seconds=500)
    assert report.cut == "500 seconds were over" and [len(way.seconds) for way in report.ways] == [1, 1, 1, 2]
    assert report.overhead and "overhead: plan to shard" in render(report)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("whole", [0, 1])
@pytest.mark.slow
def test_in_the_first_pass_too(monkeypatch, whole):
    watched, calls = comparison.time_parts, []

    def stopping(*args):
        calls.append(args)
        return watched(*args) if len(calls) <= whole else interrupt()

    monkeypatch.setattr(comparison, "time_parts", stopping)
    if not whole:
        with pytest.raises(MaskgenError, match="interrupted before maskgen's own way was through"):
            run_benchmark(BenchRequest(images=3, rounds=1, batch=2), lambda _: None)
        return
    report = run_benchmark(BenchRequest(images=3, rounds=1, batch=2), lambda _: None)
    assert [(way.name, way.agreement) for way in report.ways] == [("d engine", None)]
    assert "d engine" in render(report)


@pytest.mark.slow
def test_ctrl_c_has_its_exit_code(monkeypatch):
    monkeypatch.setattr(comparison, "time_run", lambda *_: interrupt())
    result = CliRunner().invoke(app, ["bench", "--images", "3", "--batch", "2"])
    assert result.exit_code == 3 and "cut short (interrupted)" in result.output


def test_settings_are_those_of_a_run():
    """The embedded models' are the demo's; named models have the shipped defaults."""
    plain = workload.pipeline_config([], 5)
    assert (plain.proposer, plain.refiner) == (config.load("demo").proposer, config.load("demo").refiner)
    named = workload.pipeline_config(_models("some/folder", "sam_vit_b_01ec64.pth"), 5)
    models = {"proposer.model": "some/folder", "refiner.model": "vit_b"}
    models["refiner.checkpoint"] = "sam_vit_b_01ec64.pth"
    shipped = config.load("pretrain", overrides=[f"{key}={value}" for key, value in models.items()])
    assert (named.proposer, named.refiner) == (shipped.proposer, shipped.refiner)


def test_agreement_counts_empty_masks_as_the_same():
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    half = np.array([[True, True], [False, False]])
    reference = BenchAnswers([empty, full, full], [1, 1, 1], [1, 1, 1])
    found = agreement(BenchAnswers([empty, half, np.zeros((1, 1), bool)], [1, 1, 1], [1, 1, 1]), reference)
    assert (found.iou, found.least, found.equal) == (pytest.approx(0.5), 0.0, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--full-size", "--proposer", "x"], "leave out"),
        (["--refiner", "nowhere.pth"], "says no size"),
        (["--dtype", "int8"], "--dtype int8"),
        (["--device", "tpu"], "the device tpu"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--proposer", "/nowhere"], "no folder"),
        (["--out", "/nowhere/x.json"], "cannot be written"),
    ],
)
@pytest.mark.slow
def test_bad_options_are_sentences(arguments, words):
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(result.exception, MaskgenError) and words in str(result.exception)
    assert torch.get_num_threads() == 1
