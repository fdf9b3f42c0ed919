"""The command line: help for everything, and sentences instead of tracebacks."""

import re
import sys

import pytest
from typer.main import get_command

from maskgen import cli, config
from maskgen.commands.options import by_comma

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


def test_help_is_grouped_and_every_summary_fits_its_line(call):
    code, out, _ = call("--help")
    assert code == 0 and "..." not in out.partition("Make masks")[2]
    groups = [
        "Make masks:",
        "Look:",
        "Hand on:",
        "Train:",
        "Ask and evaluate:",
        "Analyse:",
        "Measure:",
        "Options:",
    ]
    assert [line for line in out.splitlines() if line.endswith(":") and line[0] != " "] == groups
    commands = out.partition("Make masks:")[2].partition("Options:")[0]
    summaries = [line for line in commands.splitlines() if line.startswith("  ")]
    assert len(summaries) == len(get_command(cli.app).commands), "one line each"  # type: ignore[attr-defined]
    assert "Exit codes:" in out and "130" in out


@pytest.mark.parametrize("command", sorted(get_command(cli.app).commands))  # type: ignore[attr-defined]
def test_help_speaks_no_python_and_out_means_one_thing(call, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = call(command, "--help")
    assert code == 0 and not re.search(r"<\w|list\[|x[<>]=|\bstr\b|range", out), out
    assert all(len(line) <= 60 for line in out.splitlines())
    parameters = get_command(cli.app).commands[command].params  # type: ignore[attr-defined]
    for parameter in parameters:
        if "--out" in parameter.opts or "-o" in parameter.opts:
            assert parameter.opts[:2] == ["--out", "-o"] and f"-o, --out {parameter.metavar}" in out
        if getattr(parameter, "multiple", False) and "--set" not in parameter.opts:
            assert parameter.callback, f"{parameter.opts} does not take commas"


def test_commas_and_repeats_are_the_same_and_a_place_may_hold_a_comma(tmp_path):
    (tmp_path / "a,b").mkdir()
    assert by_comma(["pope, ocrbench", "cvbench"]) == ["pope", "ocrbench", "cvbench"]
    assert by_comma([f"{tmp_path}/a,b", "c,d"]) == [f"{tmp_path}/a,b", "c", "d"]
    assert by_comma(None) is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["veryfy", "x"], "verify"),
        (["run", "--split", "pretrian"], "pretrain"),
        (["explain", "--recipe", "age-vml"], "age-vlm"),
        (["score", "x", "--bench", "pop"], "pope"),
        (["score", "x", "--bench", "pope", "--protocol", "oficial"], "official"),
        (["run", "--split", "demo", "--retry-failed", "--where", "outcome=image_mising"], "image_missing"),
        (["reproduce", "--out", "x", "--scale", "tinny"], "tiny"),
        (["similarity", "--model", "x", "--data", "x", "--pool", "maen"], "mean"),
        (["config", "--split", "demo", "--set", "shards.sise=3"], "shards.size"),
    ],
)
def test_what_was_meant_is_asked(call, typed, meant):
    code, _, err = call(*typed)
    assert code == 1 and re.search(rf"Did you mean '?{meant}'?\?", err), err


def test_a_shell_completes_commands_and_names(monkeypatch, capsys):
    for words, number, expected in (("maskgen re", 1, "report"), ("maskgen run --split d", 3, "demo")):
        monkeypatch.setenv("_MASKGEN_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(number))
        monkeypatch.setattr(sys, "argv", ["maskgen"])
        with pytest.raises(SystemExit):
            cli.app(prog_name="maskgen")
        assert expected in capsys.readouterr().out.split()
