"""The five lines of docs/model.md, as they stand there."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from helpers import tiny_age_vlm as tiny
from maskgen.age_vlm import AgeVlmImageProcessor, AgeVlmProcessor
from maskgen.small_models import checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "model.md"


def test_the_pages_python_runs(tmp_path, monkeypatch, capsys):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint("llama"))
    torch.manual_seed(0)
    model = tiny.age_vlm()
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path / "RUN" / "model")
    processor = AgeVlmProcessor(AgeVlmImageProcessor(tiny.SIDE, 4), tokenizer)
    processor.save_pretrained(tmp_path / "RUN" / "model")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save("image.png")
    exec(compile(code, str(PAGE), "exec"), {})
    assert "Where is the star?" in capsys.readouterr().out
