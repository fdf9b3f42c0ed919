"""The command line: help for everything, and sentences instead of tracebacks."""

import sys

import pytest

from maskgen import cli, config

COMMANDS = ["run", "plan", "config", "status", "verify", "show", "report", "doctor", "eval", "score"]


@pytest.fixture
def call(monkeypatch, capsys):
    """Run `maskgen ARGUMENTS` in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["maskgen", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_config_says_auto_and_on_demand_what_it_becomes_here(call):
    _, out, _ = call("config", "--split", "pretrain")
    assert out.count("dtype: auto\n") == 2 and out.count("batch: auto\n") == 2 and "slots: auto\n" in out
    code, here, _ = call("config", "--split", "pretrain", "--resolved", "--set", "refiner.batch=7")
    assert code == 0 and here.startswith("# auto as resolved for this machine's device: ")
    assert "auto" not in here.partition("\n")[2] and "batch: 7\n" in here
    code, _, err = call("config", "--recipe", "demo", "--resolved")
    assert code == 1 and "nothing in a recipe is auto" in err


def test_help_names_every_command(call):
    code, out, _ = call("--help")
    assert code == 0
    assert all(f"\n  {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    lines = out.split("Options:\n")[1].splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("  -"):
            explained = len(line.split()) > 2 or below.startswith("      ")
            assert explained, line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--splt", "demo"], "--splt"),
        (["rn"], "rn"),
        (["status"], "OUT"),
        (["run"], "--split"),
        (["run", "--split", "demo", "--config", "mine.yaml"], "give one of them"),
        (["run", "--split", "pretrain", "--data", "/tmp", "--out", "/tmp/"], "a folder of their own"),
        (["config", "--split", "demo", "--set", "grid.cells=5000"], "grid.cells"),
        (["run", "--split", "nothing"], "demo, finetune, pretrain"),
        (["run", "--split", "pretrain"], "--data is missing"),
        (["run", "--split", "pretrain", "--data", "/no/such"], "/no/such"),
        (["run", "--split", "demo", "--where", "outcome=oom"], "--retry-failed"),
        (["run", "--split", "demo", "--retry-failed", "--where", "oom"], "outcome=NAME"),
        (["plan", "--split", "demo", "--pilot", "many"], "--pilot"),
        (["config", "--split", "demo", "--set", "shards.size=0"], "shards.size"),
        (["verify", "/no/such"], "/no/such"),
        (["show", "/no/such", "key"], "/no/such"),
        (["report", "/no/such"], "/no/such"),
        (["status", "s3x://bucket/a"], "s3x"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_one(call, arguments, said):
    code, out, err = call(*arguments)
    assert code == 1
    assert said in out + err
    assert "Traceback" not in err and "bug in maskgen" not in err


def test_config_prints_what_it_reads_back(call, tmp_path):
    _, out, _ = call("config", "--split", "pretrain", "--set", "select.count=12")
    path = tmp_path / "mine.yaml"
    path.write_text(out)
    assert call("config", "--config", str(path)) == (0, out, "")


def test_an_interruption_says_how_to_go_on(call, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load", interrupted)
    code, _, err = call("config", "--split", "demo")
    assert code == 3 and "run the same line again" in err


def test_a_bug_is_confessed_without_a_traceback(call, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(config, "load", broken)
    code, _, err = call("config", "--split", "demo")
    assert code == 1
    assert "bug in maskgen" in err and "ZeroDivisionError" in err
