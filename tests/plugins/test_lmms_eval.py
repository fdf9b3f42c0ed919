"""lmms-eval finds maskgen's model and runs a task on it, from local data alone: docs/lmms-eval.md.

pip install 'maskgen[lmms-eval]'; skipped where lmms-eval is missing.
"""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from maskgen.age_vlm.init_model import build_model, save_model
from maskgen.errors import MaskgenError
from maskgen.scenes.drawing import draw_scene
from maskgen.small_models import checkpoint

if importlib.util.find_spec("lmms_eval") is None:
    pytest.skip("lmms-eval is not installed: pip install 'maskgen[lmms-eval]'", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

PAGE = (Path(__file__).parents[2] / "docs" / "lmms-eval.md").read_text()
TEXTS = ["Where is the star?", "How many circles are there?", "What is in the picture?", "red", "Is it blue?"]


def model(folder, architecture):
    """The demo's LLaMA and ConvNeXt as a run's model, its new layers awake so that images count."""
    slots: dict[str, Any] = {"slots": [1, 4]} if architecture == "age_vlm" else {}
    made = build_model(
        str(checkpoint("llama")), str(checkpoint("convnext")), architecture, image_size=96, **slots
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in made.model.named_parameters():
            if name.startswith(("model.cross", "model.adapter")) and weight.dim() == 2:
                weight.normal_(0, 0.08 if "cross" in name else 0.15)
    save_model(made, str(folder / "model"))
    return folder


def scenes():
    """(question, image or None) of a few drawn scenes, texts of several lengths."""
    return [
        (TEXTS[seed % len(TEXTS)], None if seed % 4 == 3 else Image.fromarray(draw_scene(seed).pixels))
        for seed in range(9)
    ]


def own_answers(run):
    """What the model's `generate` says of each scene alone, as docs/model.md calls it."""
    bare = AutoModelForImageTextToText.from_pretrained(run / "model", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(run / "model")
    answers = []
    for text, image in scenes():
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True
        )
        inputs = processor(images=None if image is None else [image], text=prompt)
        written = bare.generate(**inputs, max_new_tokens=16, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
        answers.append(processor.decode(written, skip_special_tokens=True).split(".")[0].strip())
    return answers


def write_task(folder, answers):
    """The page's task, and its data."""
    import datasets

    blocks = dict(re.findall(r"`tasks/(scenes\.\w+)`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL))
    assert set(blocks) == {"scenes.yaml", "scenes.py"}
    (folder / "tasks").mkdir()
    for name, content in blocks.items():
        (folder / "tasks" / name).write_text(content)
    texts, images = zip(*scenes(), strict=True)
    kinds = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    rows = {"image": list(images), "question": list(texts), "answer": answers}
    datasets.Dataset.from_dict(rows, kinds).to_parquet(folder / "scenes.parquet")


def test_the_registry_knows_it():
    from lmms_eval.models import get_model, get_model_manifest

    from maskgen.plugins import lmms_eval_manifest
    from maskgen.plugins.lmms_eval import Maskgen

    assert get_model_manifest("maskgen") == lmms_eval_manifest(), (
        "install maskgen again: its entry point is old"
    )
    assert get_model("maskgen") is Maskgen


@pytest.mark.parametrize("architecture", ["age_vlm", "concat_vlm"])
def test_it_answers_a_local_task_as_the_model_itself_does(architecture, tmp_path):
    answers = own_answers(model(tmp_path / "RUN", architecture))
    assert len(set(answers)) > len(TEXTS)  # questions alone do not decide them
    write_task(tmp_path, answers)
    (line,) = re.findall(r"^python (-m lmms_eval .* --include_path .*)$", PAGE, re.MULTILINE)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    ran = subprocess.run(
        [sys.executable, *shlex.split(line), "--device", "cpu"],
        cwd=tmp_path,
        env=os.environ | offline,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = list((tmp_path / "OUT").rglob("*samples_scenes.jsonl"))
    assert found, ran.stdout[-3000:] + ran.stderr[-3000:]
    samples = [json.loads(line) for line in found[0].read_text().splitlines()]
    told = {sample["doc_id"]: sample["filtered_resps"] for sample in samples}
    assert [told[number] for number in range(len(answers))] == answers
    (results,) = (tmp_path / "OUT").rglob("*results.json")
    assert json.loads(results.read_text())["results"]["scenes"]["right,none"] == 1.0


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Ask a small model questions as lmms-eval does: `asked(messages, ...)`, one `messages` a row."""
    from lmms_eval.api.instance import Instance

    from maskgen.plugins.lmms_eval import Maskgen

    run = model(tmp_path_factory.mktemp("run"), "age_vlm")
    chat = Maskgen(pretrained=str(run), device="cpu", batch_size="3")

    def ask(*rows, kind="generate_until", **kwargs):
        chat.task_dict = {"pairs": {"test": list(rows)}}
        requests = [
            Instance(
                kind,
                ("", lambda row: row, kwargs, number, "pairs", "test"),
                0,
                {"task": "pairs", "doc_id": number, "repeats": 1},
            )
            for number in range(len(rows))
        ]
        return getattr(chat, kind)(requests)

    return ask


def messages(text, *images):
    parts = [{"type": "image", "url": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_generation_kwargs_are_followed(asked):
    image = Image.fromarray(draw_scene(0).pixels)
    rows = [messages(text, image) for text in TEXTS]
    greedy = [one.text for one in asked(*rows, max_new_tokens=8, temperature=0, do_sample=False)]
    assert [one.text for one in asked(*rows, max_new_tokens=8, temperature=0.9, do_sample=False)] == greedy
    assert [one.text for one in asked(*rows, max_new_tokens=8, temperature=0, do_sample=True)] == greedy
    torch.manual_seed(0)
    assert [one.text for one in asked(*rows, max_new_tokens=8, temperature=3.0)] != greedy
    assert [one.text for one in asked(*rows, max_new_tokens=8, num_beams=4, repetition_penalty=2.0)] != greedy
    assert all(one.token_counts.output_tokens <= 2 for one in asked(*rows, max_new_tokens=2))
    assert [one.text for one in asked(*rows, max_gen_toks=8, until=[None, ""])] == greedy
    assert asked(rows[2], max_new_tokens=8, until=greedy[2][2:4])[0].text == greedy[2][:2].strip()


def test_an_image_may_be_a_path(asked, tmp_path):
    image = Image.fromarray(draw_scene(1).pixels)
    image.save(tmp_path / "scene.png")
    by_path, open_, without = asked(
        messages(TEXTS[2], str(tmp_path / "scene.png")),
        messages(TEXTS[2], image),
        [{"role": "user", "content": TEXTS[2]}],
        max_new_tokens=16,
    )
    assert by_path.text == open_.text != without.text
    (tmp_path / "scene.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(
        MaskgenError, match=r"question 0 of the task pairs \(test\): cannot read the image .*scene.png"
    ):
        asked(messages("?", str(tmp_path / "scene.png")))


def test_what_it_cannot_be_asked_is_said_with_the_tasks_name(asked):
    image = Image.fromarray(draw_scene(0).pixels)
    with pytest.raises(MaskgenError, match=r"question 1 of the task pairs \(test\) comes with 2 image\(s\)"):
        asked(messages("?", image), messages("?", image, image))
    video = [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}, {"type": "text", "text": "?"}]}]
    with pytest.raises(MaskgenError, match=r"comes with 1 video\(s\).*Leave pairs out of --tasks"):
        asked(video)
    with pytest.raises(MaskgenError, match="temperature is 'hot', which is no number"):
        asked(messages("?"), temperature="hot")
    for kind, why in (("loglikelihood", "likelihoods"), ("generate_until_multi_round", "several rounds")):
        with pytest.raises(MaskgenError, match=f"the task pairs .*{why}.*Leave it out of --tasks"):
            asked(messages("?"), kind=kind)


def test_arguments_that_cannot_be_used_are_sentences(tmp_path):
    from maskgen.plugins.lmms_eval import Maskgen

    with pytest.raises(MaskgenError, match="pretrained is missing"):
        Maskgen(device="cpu")
    with pytest.raises(MaskgenError, match="max_batch_size is none of maskgen's"):
        Maskgen(pretrained=str(tmp_path), max_batch_size=4)
    with pytest.raises(MaskgenError, match="--batch_size auto: give a number"):
        Maskgen(pretrained=str(tmp_path), batch_size="auto")
    with pytest.raises(MaskgenError, match="neither a run of maskgen train nor"):
        Maskgen(pretrained=str(tmp_path), device="cpu")
