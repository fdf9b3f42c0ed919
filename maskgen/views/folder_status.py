"""`maskgen status` on whatever maskgen wrote: the folder's own files say what it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from maskgen.draw import text
from maskgen.errors import MaskgenError
from maskgen.runtime.folder_kind import folder_kind
from maskgen.runtime.lease import is_alive, read_holder
from maskgen.runtime.store import Store
from maskgen.views import status


class FolderStatus(Protocol):
    """What a folder's status can do."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""

    def render(self) -> str:
        """For a person."""


@dataclass(frozen=True)
class Told:
    """A status of few lines: `rows` of label and words, and the same as JSON values."""

    values: dict[str, Any]
    rows: list[tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return self.values

    def render(self) -> str:
        """For a person."""
        return "\n".join(text.printable(f"{label:<16}{words}") for label, words in self.rows)


def folder_status(out: str) -> FolderStatus:
    """The status of a set of shards, a training, an evaluation or a reproduction.

    MaskgenError for a folder of another kind, with what it is.
    """
    kind = folder_kind(out)
    if kind == "a training":
        from maskgen.views.training_status import training_status

        holder = read_holder(out)
        record = Store(out).read_json("run.json")
        return training_status(out, record, holder is not None and is_alive(holder))
    if kind == "a reproduction":
        return _reproduction(Path(out), Store(out).read_json("run.json"))
    if kind == "answers":
        return _evaluation(out, sorted(Path(out).glob("*/*/asked.json")))
    if kind == "a model":
        raise MaskgenError(f"{out} is a model folder, not a run: maskgen eval takes it as --model.")
    if kind is None:
        _refuse_several(Path(out))
    return status.status(out)


def _reproduction(out: Path, record: dict[str, Any]) -> Told:
    trained = {path.parent.parent for path in out.glob("seed-*/*/model/config.json")}
    begun = {path.parent for path in out.glob("seed-*/*/metrics.jsonl")}
    runs = sorted(
        str(path.relative_to(out)) for path in trained | begun if path.parent.name.startswith("seed-")
    )
    measured = {str(path.relative_to(out).with_suffix("")) for path in out.glob("seed-*/*.json")}
    state = {
        run: "measured" if run in measured else "trained" if out / run in trained else "training"
        for run in runs
    }
    report = out / "reproduction.html"
    following = f"finished: {report}" if report.is_file() else "run the same maskgen reproduce line to go on"
    values = {
        "out": str(out),
        "kind": "reproduction",
        "exam": record["exam"],
        "runs": state,
        "next": following,
    }
    rows = [("reproduction", f"{text.plural(len(runs), 'training')}, an exam of {record['exam']} scenes")]
    rows += [
        *((run, f"{what}; maskgen status {out / run}") for run, what in state.items()),
        ("next", following),
    ]
    return Told(values, rows)


def _evaluation(out: str, headers: list[Path]) -> Told:
    from maskgen.evaluation.predictions import Answers

    counts, models = {}, set()
    for header in headers:
        answers = Answers(header.parent)
        models.add(answers.asked().model)
        counts["/".join(header.parent.parts[-2:])] = len(answers.read()[0])
    following = f"maskgen score {out}, or the same maskgen eval line to ask what is missing"
    values = {
        "out": out,
        "kind": "evaluation",
        "models": sorted(models),
        "answers": counts,
        "next": following,
    }
    rows = [("evaluation", f"of {', '.join(sorted(models))}")]
    rows += [*((name, text.plural(count, "answer")) for name, count in counts.items()), ("next", following)]
    return Told(values, rows)


def _refuse_several(out: Path) -> None:
    """MaskgenError for a folder of runs, with one of them."""
    below = sorted(path.parent.name for path in out.glob("*/run.json"))
    if below:
        raise MaskgenError(
            f"{out} holds several runs: {', '.join(below)}. Give one: maskgen status {out / below[0]}."
        )
