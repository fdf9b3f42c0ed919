"""docs/performance.md is what its measurement says, and no hand's work."""

import json
import subprocess
import sys

import pytest
from card import page
from card.plan import PARTS
from card.record import LINES, Record

MACHINE = {
    "card": "NVIDIA H100 80GB HBM3",
    "memory": 80e9,
    "capability": "9.0",
    "cuda": "13.0",
    "cudnn": 9,
    "cores": 16,
    "python": "3.12.3",
    "versions": {"torch": "2.11.0"},
    "rehearsal": False,
}


def lines(run="one", **machine):
    """A run of two parts."""
    first = Record("ceilings", run=run, shows=False)
    first.machine(**(MACHINE | machine))
    first.figure("bfloat16 product, 8192 a side", 798.2, "TFLOP/s")
    first.ended("done", 20)
    second = Record("checks", run=run, shows=False)
    second.check("greedy: refills", True, "10 of 10 answers")
    second.check("3 beams: refills", False, "9 of 10 answers")
    second.step("masks", "failed", 1.0, "RuntimeError: no kernel")
    second.table("attention by shape", ["1 x flash"])
    second.ended("over its time", 100, "in training_step")
    return first.lines + second.lines


def test_the_page_is_what_was_measured():
    assert page.filled(page.PAGE.read_text(), page.section(page.kept())) == page.PAGE.read_text()


def test_nothing_measured_is_not_yet():
    text = page.section([])
    assert "No card was at hand" in text and text.count(page.NOT_YET) >= len(PARTS) + len(page.PREDICTED)


def test_a_run_fills_its_parts_and_no_others():
    text = page.section(lines())
    assert "NVIDIA H100 80GB HBM3, 80 GB, 16 cores; CUDA 13.0, Python 3.12.3, torch 2.11.0; 20" in text
    assert "| bfloat16 product, 8192 a side | 800 TFLOP/s | 798.2 TFLOP/s |  |" in text
    assert "| copy on the device, read and written | 3,000 GB/s | not yet |  |" in text
    assert "1 of 2 checks hold." in text and "Does not hold: 3 beams: refills (9 of 10 answers)." in text
    assert "Failed: masks (RuntimeError: no kernel)." in text
    assert "Ended early: over its time in training_step." in text
    assert "`trainer`: not yet." in text and "`ceilings`: not yet." not in text


def test_of_several_runs_the_last_that_has_a_part_counts():
    again = Record("ceilings", run="two", shows=False)
    again.figure("bfloat16 product, 8192 a side", 700, "TFLOP/s")
    text = page.section([*lines(), *again.lines])
    assert "700 TFLOP/s" in text and "798.2" not in text and "1 of 2 checks hold." in text


def test_rehearsals_and_other_cards_are_refused(tmp_path):
    assert page.measured(lines(rehearsal=True)) == []
    with pytest.raises(SystemExit, match="several cards"):
        page.section([*lines(), *lines("two", card="NVIDIA H200")])
    (tmp_path / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines(rehearsal=True)))
    for folder, said in ((tmp_path, "a rehearsal's figures"), (tmp_path / "none", "is not there")):
        ended = subprocess.run(
            [sys.executable, page.__file__, str(folder)], capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 1 and said in ended.stderr


def test_a_page_without_its_marks_is_left_alone():
    with pytest.raises(SystemExit, match="lost its marks"):
        page.filled("# Performance\n", "new")


def test_a_folder_is_kept_and_the_section_replaced(tmp_path, monkeypatch):
    (tmp_path / "performance.md").write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LINES).write_text("".join(json.dumps(line) + "\n" for line in lines()))
    monkeypatch.setattr(page, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(page, "KEPT", tmp_path / LINES)
    monkeypatch.setattr(sys, "argv", ["page.py", str(tmp_path / "run")])
    page.main()
    text = (tmp_path / "performance.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert page.section(page.kept()) in text and "798.2 TFLOP/s" in text
