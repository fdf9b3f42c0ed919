"""The command with its standard streams closed, or with nobody who reads them."""

import subprocess

import pytest

from helpers.command import MASKGEN


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_command_without_its_standard_streams_ends_well(closed):
    done = subprocess.run(
        ["bash", "-c", f"{MASKGEN} config --split pretrain {closed}; echo code $?"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "code 0" in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_a_reader_that_goes_away_does_not_make_finished_work_a_failure():
    done = subprocess.run(
        ["bash", "-c", f"{MASKGEN} config --split pretrain | true; echo code ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "code 0\n" and not done.stderr


def test_a_full_disk_under_stdout_is_a_sentence():
    done = subprocess.run(
        ["bash", "-c", f"{MASKGEN} config --split pretrain >/dev/full"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "the disk is full" in done.stderr and "bug" not in done.stderr
