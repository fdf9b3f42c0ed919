"""The five benchmarks in the layouts of their authors, a few questions each, and a tiny model to ask."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from maskgen.age_vlm import AgeVlmImageProcessor, AgeVlmProcessor
from maskgen.age_vlm.registry import model_class
from maskgen.small_models import checkpoint

SIDE, CELLS = 32, 4


def picture(seed: int) -> bytes:
    """A small PNG."""
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 30, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(seed))


def pope(folder: Path) -> Path:
    """coco_pope_SPLIT.json, which are JSON lines, and COCO's images: four questions a split, two images."""
    folder.mkdir(parents=True)
    for split in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": number + 1,
                "image": f"COCO_val2014_00000000000{number // 2}.jpg",
                "text": f"Is there a {thing} in the image?",
                "label": label,
            }
            for number, (thing, label) in enumerate(
                [("dog", "yes"), (f"{split} cat", "no"), ("car", "yes"), (f"{split} cup", "no")]
            )
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"coco_pope_{split}.json").write_text(text)
    for number in range(2):
        write_picture(folder / "val2014" / f"COCO_val2014_00000000000{number}.jpg", number)
    return folder


def hallusion_rows() -> list[dict[str, Any]]:
    """Two sets: one of two figures with two questions each, one with a figure and a question without one."""
    places = [
        ("VD", "illusion", "1", "0", "0", "0", "1"),
        ("VD", "illusion", "1", "0", "0", "1", "0"),
        ("VD", "illusion", "2", "0", "1", "0", "0"),
        ("VD", "illusion", "2", "0", "1", "1", "0"),
        ("VS", "chart", "0", "0", "0", "0", "1"),
        ("VS", "chart", "1", "0", "1", "0", "1"),
        ("VS", "chart", "2", "0", "2", "0", "0"),
    ]
    names = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id", "gt_answer")
    rows = []
    for place in places:
        row: dict[str, Any] = dict(zip(names, place, strict=True))
        figure = f"./{row['category']}/{row['subcategory']}/{row['set_id']}_{row['figure_id']}.png"
        row |= {
            "sample_note": "note",
            "question": f"Is line {row['question_id']} longer?",
            "gt_answer_details": "details",
            "filename": None if row["visual_input"] == "0" else figure,
        }
        rows.append(row)
    return rows


def hallusionbench(folder: Path) -> Path:
    """HallusionBench.json and the folder hallusion_bench of its images."""
    folder.mkdir(parents=True)
    (folder / "HallusionBench.json").write_text(json.dumps(hallusion_rows()))
    for number, row in enumerate(hallusion_rows()):
        if row["filename"]:
            write_picture(folder / "hallusion_bench" / row["filename"], number)
    return folder


def hallusionbench_parquet(folder: Path) -> Path:
    """The same as the Parquet files of its copies: image-*.parquet and non_image-*.parquet."""
    folder.mkdir(parents=True)
    rows = hallusion_rows()
    for name, some in (
        ("image", [row for row in rows if row["filename"]]),
        ("non_image", [row for row in rows if not row["filename"]]),
    ):
        pictured = [
            {**row, "image": {"bytes": picture(number), "path": row["filename"]} if row["filename"] else None}
            for number, row in enumerate(some)
        ]
        schema = pa.schema(
            [(key, pa.string()) for key in rows[0]]
            + [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
        )
        table = pa.Table.from_pylist(pictured, schema=schema)
        pq.write_table(table, folder / f"{name}-00000-of-00001.parquet", row_group_size=2)
    return folder


def ocrbench(folder: Path) -> Path:
    """OCRBench.json and OCRBench_Images, a question of several types each."""
    folder.mkdir(parents=True)
    kinds = [
        ("IIIT5K", "Regular Text Recognition", ["CENTRE"]),
        ("textVQA", "Scene Text-centric VQA", ["dakota", "dakota digital"]),
        ("docVQA", "Doc-oriented VQA", ["1/8/93"]),
        ("SROIE", "Key Information Extraction", "20.00"),
        ("HME100k", "Handwritten Mathematical Expression Recognition", ["1 + \\frac { a } { b }"]),
    ]
    rows = [
        {
            "dataset_name": name,
            "id": number,
            "question": f"what is written in image {number}?",
            "answers": answers,
            "type": kind,
            "image_path": f"{name}/{number}.jpg",
        }
        for number, (name, kind, answers) in enumerate(kinds)
    ]
    (folder / "OCRBench.json").write_text(json.dumps(rows))
    for number, row in enumerate(rows):
        write_picture(folder / "OCRBench_Images" / str(row["image_path"]), number)
    return folder


def cv_rows(kind: str) -> list[dict[str, Any]]:
    sources = ["ADE20K", "ADE20K", "COCO", "COCO"] if kind == "2D" else ["Omni3D", "Omni3D"]
    tasks = ["Count", "Relation"] if kind == "2D" else ["Depth", "Distance"]
    rows = []
    for number, source in enumerate(sources):
        counts = tasks[number % 2] == "Count"
        choices = ["0", "3", "1"] if counts else ["chair", "table lamp"]
        options = "".join(f"\n({'ABC'[place]}) {choice}" for place, choice in enumerate(choices))
        question = f"How many organs are in image {number}?" if counts else f"Which is closer in {number}?"
        rows.append(
            {
                "idx": number,
                "type": kind,
                "task": tasks[number % 2],
                "question": question,
                "choices": choices,
                "answer": "(C)" if counts else "(B)",
                "prompt": f"{question} Select from the following choices.{options}",
                "filename": f"img/{kind}/{tasks[number % 2].lower()}/{source.lower()}_{number}.png",
                "source": source,
                "source_dataset": source,
                "source_filename": "a.jpg",
                "target_class": None,
                "target_size": None,
                "bbox": None,
            }
        )
    return rows


def cvbench(folder: Path) -> Path:
    """test_2d.jsonl, test_3d.jsonl and img/."""
    folder.mkdir(parents=True)
    for kind in ("2D", "3D"):
        rows = cv_rows(kind)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"test_{kind.lower()}.jsonl").write_text(text)
        for number, row in enumerate(rows):
            write_picture(folder / row["filename"], number)
    return folder


def cvbench_parquet(folder: Path) -> Path:
    """The Parquet files, which hold the images."""
    folder.mkdir(parents=True)
    for kind in ("2D", "3D"):
        rows = [
            {**row, "image": {"bytes": picture(number), "path": row["filename"]}}
            for number, row in enumerate(cv_rows(kind))
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"test_{kind.lower()}.parquet")
    return folder


def realworldqa(folder: Path) -> Path:
    """data/test-0000N-of-00002.parquet with image, question and answer."""
    letter = "Please answer directly with only the letter of the correct option and nothing else."
    word = "Please answer directly with a single word or number."
    rows = [
        ("How wide is the road?\nA. One lane.\nB. Two lanes.\nC. Three lanes.\n" + letter, "B"),
        (f"Is the light green? {word}", "No"),
        (f"How many cars are there? {word}", "3"),
        (f"In which direction does the sign point? {word}", "Left"),
    ]
    (folder / "data").mkdir(parents=True)
    for part in range(2):
        some = [
            {
                "image": {"bytes": picture(number), "path": f"{number}.webp"},
                "question": text,
                "answer": answer,
            }
            for number, (text, answer) in enumerate(rows)
            if number % 2 == part
        ]
        pq.write_table(pa.Table.from_pylist(some), folder / "data" / f"test-0000{part}-of-00002.parquet")
    return folder


MAKERS = {
    "pope": pope,
    "hallusionbench": hallusionbench,
    "ocrbench": ocrbench,
    "cvbench": cvbench,
    "realworldqa": realworldqa,
}
QUESTIONS = {"pope": 12, "hallusionbench": 6, "ocrbench": 5, "cvbench": 6, "realworldqa": 4}


def everything(folder: Path) -> Path:
    """All five, each in a folder of its name."""
    for name, make in MAKERS.items():
        make(folder / name)
    return folder


def model_folder(folder: Path, kind: str = "age_vlm", seed: int = 0) -> Path:
    """A model folder with the demo LLaMA's tokenizer, whose answers depend on the image."""
    tokens = PreTrainedTokenizerFast.from_pretrained(checkpoint("llama"))
    config: Any = model_class(kind).config_class(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "tie_word_embeddings": False,
        },
        vision_config={"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "patch_size": 1},
        image_size=SIDE,
        **({"slots": [1, 3]} if kind == "age_vlm" else {}),
    )
    torch.manual_seed(seed)
    model = model_class(kind)(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "vision" not in name:
                weight.normal_(0, 0.4)
            if name.endswith("layer_scale_parameter"):
                weight.fill_(0.7)
    model.save_pretrained(folder)
    AgeVlmProcessor(AgeVlmImageProcessor(SIDE, CELLS), tokens).save_pretrained(folder)
    return folder
