"""Right answers on a device: the card's checks, here on the CPU, and with `-m gpu` on a GPU."""

import pytest
import torch
from card import checks, checks_large
from card.part import Setting
from card.record import CHECK, Record

from maskgen.grounding.fast.decoder import Decoder
from maskgen.grounding.fast.sam_forward import ImageEncoder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def taken(step, setting) -> Record:
    record = Record("test")
    step(setting, record)
    assert any(line["kind"] == CHECK for line in record.lines)
    return record


@pytest.mark.parametrize("step", checks.STEPS, ids=lambda step: step.__name__)
def test_small_models_answer_as_their_references(step, device):
    assert not taken(step, Setting(str(device), small=device.type == "cpu")).failed()


@pytest.mark.gpu
@pytest.mark.parametrize("step", checks_large.STEPS, ids=lambda step: step.__name__)
def test_models_of_full_size_answer_as_their_references(step):
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA GPU here")
    assert not taken(step, Setting("cuda")).failed()


def test_a_wrong_decoder_is_found(monkeypatch):
    right = Decoder.step

    def wrong(self, tokens, place):
        return right(self, tokens, place).roll(1, dims=-1)

    monkeypatch.setattr(Decoder, "step", wrong)
    failed = taken(step_named("tokens"), Setting("cpu", small=True)).failed()
    assert "greedy: all at once" in failed and "3 beams: a second call" in failed


def test_a_wrong_encoder_is_found(monkeypatch):
    right = ImageEncoder.__call__
    monkeypatch.setattr(ImageEncoder, "__call__", lambda self, pixels: 1.01 * right(self, pixels))
    failed = taken(step_named("embeddings"), Setting("cpu", small=True)).failed()
    assert "float32 embeddings" in failed


def step_named(name):
    return next(step for step in checks.STEPS if step.__name__ == name)
