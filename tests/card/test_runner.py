"""What is cut off, killed or raises loses only itself."""

import os
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from card.plan import Part
from card.record import FIGURE, LINES, LOG, PART, read
from card.runner import Run, run

ROOT = Path(__file__).parents[2]
FAULTS = {
    "raises": ("failed", "faulty", "no kernel image is available"),
    "killed": ("failed", "faulty", "SIGKILL"),
    "exits": ("failed", "faulty", "exit code 7"),
    "leaves a child": ("done", "", ""),
    "does not hold": ("done", "", "does not hold: does not hold: is right: it is not"),
}
"""A part's name, how it ends, and what the screen says of it."""


def ran(folder, parts, seconds):
    paths = os.pathsep.join(str(ROOT / name) for name in (".", "benchmarks", "tests"))
    given = Run(folder, "cpu", False, seconds, "now", {"PYTHONPATH": paths})
    screen = StringIO()
    with redirect_stdout(screen):
        whole = run(parts, given)
    return whole, screen.getvalue(), read(folder / LINES)


def figures(lines, part):
    return [line["name"] for line in lines if (line["part"], line["kind"]) == (part, FIGURE)]


def end(lines, part):
    (line,) = (line for line in lines if (line["part"], line["kind"]) == (part, PART))
    return line["state"], line["detail"]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """All faults in one run, and a sound part after each."""
    folder = tmp_path_factory.mktemp("card")
    faulty = [Part(name, "helpers.faulty_part", name, 60) for name in FAULTS]
    others = [
        Part("hangs", "helpers.faulty_part", "It hangs", 8),
        Part("unimportable", "helpers.unimportable_part", "It cannot be imported", 60),
        Part("sound", "helpers.sound_part", "Nothing is wrong", 60),
    ]
    began = time.monotonic()
    found = ran(folder, [*faulty, *others], 300)
    assert time.monotonic() - began < 200  # not the 600 that some of them sleep
    return folder, *found


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_a_step_that_fails_costs_the_others_nothing(everything, fault):
    _, _, said, lines = everything
    state, detail, words = FAULTS[fault]
    assert figures(lines, fault) == ["before", "half-way", "after"]
    assert end(lines, fault) == (state, detail)
    assert words in said


def test_a_part_that_hangs_is_cut_off(everything):
    lines = everything[-1]
    assert figures(lines, "hangs") == ["before", "half-way"]
    assert end(lines, "hangs") == ("over its time", "in faulty")


def test_a_part_that_cannot_be_imported_costs_the_others_nothing(everything):
    _, whole, said, lines = everything
    assert end(lines, "unimportable") == ("failed", "exit code 1 before its first step")
    assert "a_package_that_nobody_has" in said
    assert figures(lines, "sound") == ["sound"] and end(lines, "sound") == ("done", "")
    assert not whole


def test_the_screen_is_kept_and_its_last_line_says_what_to_do(everything):
    folder, _, said, _ = everything
    assert said == (folder / LOG).read_text()
    assert f"page.py {folder}" in said.splitlines()[-1] and "docs/performance.md" in said.splitlines()[-1]


@pytest.mark.slow
def test_the_budget_ends_everything(tmp_path):
    parts = [Part("hangs", "helpers.faulty_part", "", 60), Part("sound", "helpers.sound_part", "", 60)]
    whole, _, lines = ran(tmp_path, parts, 14)
    assert not whole and figures(lines, "hangs") == ["before", "half-way"]
    assert end(lines, "hangs") == ("over its time", "in faulty")
    assert end(lines, "sound") == ("no time left", "")


def test_a_sound_run_is_whole(tmp_path):
    whole, said, _ = ran(tmp_path, [Part("sound", "helpers.sound_part", "Sound", 60)], 60)
    assert whole and "sound" in said


def test_a_line_cut_off_in_the_middle_is_left_out(tmp_path):
    file = tmp_path / LINES
    file.write_text('{"kind": "figure", "part": "a"}\n{"kind": "fig')
    assert [line["part"] for line in read(file)] == ["a"]
