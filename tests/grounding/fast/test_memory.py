"""What fits on a GPU, by the figures that one would give; the arithmetic alone, there is no GPU here."""

import pytest
import torch

from maskgen.grounding.fast.memory import BatchSize, fitting

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def card(monkeypatch):
    """A card with 1000 bytes free, on which a pass takes 60."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 260)


def test_half_of_what_is_free_is_given_away(card):
    assert fitting(GPU, 100) == 5
    assert fitting(GPU, 5000) == 1
    assert fitting(GPU, 0) == 500


@pytest.mark.parametrize(("most", "fit"), [(16, 8), (4, 4), (1, 1)])
def test_the_first_pass_is_of_one_and_measured(card, most, fit):
    batch = BatchSize(most, GPU)
    assert batch.size == 1
    for _ in range(3):
        with batch.measured():
            pass
        assert batch.size == fit


def test_on_a_cpu_the_configuration_decides():
    batch = BatchSize(7, CPU)
    with batch.measured():
        assert batch.size == 7
    assert batch.size == 7 and fitting(CPU, 1 << 40) > 1000
