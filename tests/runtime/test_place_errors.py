"""What is the place's fault is said in a sentence; what is ours gets a report file."""

import errno
import sys

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from maskgen import cli
from maskgen.errors import MaskgenError
from maskgen.runtime.place_errors import translate


def raised(work):
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_error_number_names_its_file_and_a_remedy(number):
    said = str(translate(OSError(number, "why", "/here/it.bin")))
    assert said.startswith("/here/it.bin: ") and said.endswith(".")


def test_a_disk_that_fills_up_under_a_library(tmp_path):
    error = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "the disk is full" in str(translate(error))


def test_weights_that_are_none(tmp_path):
    path = tmp_path / "model.safetensors"
    for data in (b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", b"\0" * 64):
        path.write_bytes(data)
        assert "Fetch them again" in str(translate(raised(lambda: load_file(path))))


def test_a_pickled_file_of_weights(tmp_path):
    torch.save({"a": print}, tmp_path / "model.bin")
    error = raised(lambda: torch.load(tmp_path / "model.bin", weights_only=True))
    assert ".safetensors" in str(translate(error))


def test_a_port_in_use(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    held = dist.TCPStore("127.0.0.1", 0, 1, True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_PORT", str(held.port))
    error = raised(lambda: dist.TCPStore("127.0.0.1", held.port, 2, True, wait_for_workers=False))
    said = str(translate(error))
    assert f"127.0.0.1:{held.port}" in said and "MASTER_PORT" in said and "in use" in said


@pytest.mark.parametrize(
    "said",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:18304.",
        "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv",
        "[enforce fail at gloo/transport/tcp/pair.cc:444] writev [127.0.0.1]:1: Connection reset by peer",
    ],
)
def test_a_process_that_trained_along_and_is_gone(said):
    """As gloo says it in those that are left; what is no word about a peer stays a bug."""
    assert "another process of the training" in str(translate(RuntimeError(said)))
    assert translate(RuntimeError("shapes differ: 3 closed by peer")) is None


def test_storages_tell_their_own_errors():
    botocore = pytest.importorskip("botocore.exceptions")
    error = botocore.EndpointConnectionError(endpoint_url="http://x:1")
    assert "network" in str(translate(error))
    assert "credentials" in str(translate(botocore.NoCredentialsError()))


def test_paths_that_are_no_text():
    assert "\\udcff" in str(translate(raised(lambda: "a\udcff".encode())))
    assert "UTF-8" in str(translate(raised(lambda: b"\xff".decode())))


def test_a_cause_is_found_and_a_bug_is_none():
    outer = KeyError("x")
    assert translate(outer) is None and translate(ValueError("shape")) is None
    outer.__context__ = OSError(errno.EIO, "unrelated")
    assert translate(outer) is None, "what was handled meanwhile is no reason"
    outer.__cause__ = MaskgenError("the sentence.")
    assert str(translate(outer)) == "the sentence."


def test_a_bug_writes_a_report_with_versions_and_traceback(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["maskgen", "config"])
    monkeypatch.delenv("MASKGEN_TRACEBACK", raising=False)
    nothing: dict[str, str] = {}
    monkeypatch.setattr(cli, "app", lambda **_: nothing["gone"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    (report,) = tmp_path.glob("maskgen-report-*.txt")
    assert end.value.code == 1 and str(report) in capsys.readouterr().err
    text = report.read_text()
    assert "KeyError: 'gone'" in text and "torch " in text and "command: maskgen config" in text


def test_an_error_of_the_place_at_the_command_line_is_no_bug(monkeypatch, capsys):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device", "/out/x")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().err
    assert said.startswith("error: /out/x: the disk is full") and "bug" not in said
