"""The loop: an interrupted training ends where an undisturbed one does."""

import json

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from maskgen.pretraining.pretraining_loop import pretrain

STEPS = 24


class Batches(Dataset):
    """The batch of a step; from step `until` on there is none."""

    def __init__(self, until=STEPS):
        self._until = until

    def __getitem__(self, step):
        if step >= self._until:
            raise OSError("the disk is gone")
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 3, generator=generator)
        return {"x": x, "y": x @ torch.tensor([1.0, -2.0, 0.5])}


class Learner(nn.Sequential):
    def forward(self, batch):
        return {"squared": (super().forward(batch["x"])[:, 0] - batch["y"]).square().mean()}


def trained(out, until=STEPS):
    torch.manual_seed(0)
    learner = Learner(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    return pretrain(out, learner, Batches(until), lambda _: {"one": 1.0}, STEPS, 0.05, measure_every=8)


def test_interrupted_equals_undisturbed(tmp_path):
    whole = trained(tmp_path / "whole")
    with pytest.raises(OSError, match="the disk is gone"):
        trained(tmp_path / "cut", until=19)
    resumed = trained(tmp_path / "cut")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_the_curve_has_a_line_for_each_measurement(tmp_path):
    trained(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [8, 16, 24]
    assert lines[-1]["squared"] < lines[0]["squared"]
    assert all(line["one"] == 1 for line in lines)


def test_what_is_done_is_not_done_again(tmp_path):
    trained(tmp_path)
    curve = (tmp_path / "curve.jsonl").read_bytes()
    trained(tmp_path, until=0)
    assert (tmp_path / "curve.jsonl").read_bytes() == curve
