"""The loop: an interrupted training ends where an undisturbed one does."""

import json

import pytest
import torch
from torch import nn

from maskgen.pretraining.pretraining_loop import pretrain

STEPS = 24


def tasks(first, until=STEPS):
    for step in range(first, STEPS):
        if step == until:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 3, generator=generator)
        yield {"x": x, "y": x @ torch.tensor([1.0, -2.0, 0.5])}


def losses(learner, batch):
    return {"squared": (learner(batch["x"])[:, 0] - batch["y"]).square().mean()}


def learner():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def trained(out, batches=tasks):
    return pretrain(out, learner(), batches, losses, lambda _: {"one": 1.0}, STEPS, 0.05, measure_every=8)


def test_interrupted_equals_undisturbed(tmp_path):
    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", lambda first: tasks(first, until=19))
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
    assert list(tasks(STEPS)) == []
    curve = (tmp_path / "curve.jsonl").read_bytes()
    trained(tmp_path)
    assert (tmp_path / "curve.jsonl").read_bytes() == curve
