"""Answers on disk: Parquet parts with all that scoring needs, so that no model is loaded again.

A folder of answers, OUT/BENCHMARK/TEST, holds `asked.json`, which says what model was asked what, and parts
that appear whole or not at all; what a killed run has answered is not asked again.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskgen.errors import MaskgenError
from maskgen.evaluation.question import Question
from maskgen.grounding.weights import probe
from maskgen.runtime.store import Store

TESTS = ("plain", "blind", "shuffled")
_HEADER = "asked.json"


@dataclass(frozen=True)
class AnswerSetKey:
    """What makes answers comparable. `model`: where it lay; `identity`: what it is; `questions`: a digest of
    them as they were put; `prompt`: the name of how.
    """

    benchmark: str
    test: str
    model: str
    identity: str
    questions: str
    settings: dict[str, Any]
    prompt: str = "paper"


class Answers:
    """The answers in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._store = Store(str(folder))

    def open(self, asked: AnswerSetKey) -> None:
        """Begin, or go on with what is there. MaskgenError if it is something else."""
        if not self._store.exists(_HEADER):
            self._store.write_json(_HEADER, asdict(asked))
            return
        held = self.asked()
        names = {"identity": "another model", "questions": "other questions", "settings": "other settings"}
        other = [name for key, name in names.items() if getattr(held, key) != getattr(asked, key)]
        if other:
            raise MaskgenError(
                f"{self.folder} holds answers of {' and '.join(other)} (of {held.model}). "
                "Give another --out, or remove that folder."
            )

    def asked(self) -> AnswerSetKey:
        """The header. MaskgenError if it is missing or damaged."""
        if not self._store.exists(_HEADER):
            raise MaskgenError(f"{self.folder} holds no answers of maskgen eval: it has no {_HEADER}.")
        try:
            return AnswerSetKey(**self._store.read_json(_HEADER))
        except TypeError:
            raise MaskgenError(
                f"{self.folder / _HEADER} is not of maskgen eval. Remove the folder, and ask again."
            ) from None

    def add(self, questions: Sequence[Question], answers: Sequence[str]) -> None:
        """One more part."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [
            {**asdict(question), "groups": json.dumps(dict(question.groups)), "answer": answer}
            for question, answer in zip(questions, answers, strict=True)
        ]
        for row in rows:  # a tokenizer's broken byte may end as half a character
            row["answer"] = str(row["answer"]).encode("utf-8", "replace").decode()
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), sink, compression="zstd")
        number = max((int(name[5:10]) for name in self._parts()), default=-1) + 1
        self._store.write_bytes(f"part-{number:05d}.parquet", sink.getvalue().to_pybytes())

    def read(self) -> tuple[list[Question], list[str]]:
        """All questions with their answers, in the order they were asked. MaskgenError for a damaged part."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        questions, answers = [], []
        for name in self._parts():
            try:
                rows = pq.read_table(self.folder / name, schema=_schema()).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise MaskgenError(
                    f"{self.folder / name} is damaged ({type(error).__name__}). Remove it and run maskgen "
                    "eval again: it asks what is missing."
                ) from error
            for row in rows:
                answers.append(row.pop("answer"))
                questions.append(_question(row))
        return questions, answers

    def _parts(self) -> list[str]:
        return [name for name in self._store.names() if re.fullmatch(r"part-\d{5}\.parquet", name)]


def identity(folder: Path) -> str:
    """What a model is, without loading it: a digest of size and probe of each file that it is loaded from."""
    kinds = ("*.json", "*.safetensors", "*.bin", "tokenizer.model")
    files = sorted({file for kind in kinds for file in folder.glob(kind)} - {folder / "lineage.json"})
    return digest({path.name: probe(str(path)) for path in files})


def digest(tree: Any) -> str:
    """A short name for the content of something that JSON can hold."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_of(questions: Sequence[Question]) -> str:
    """The same for questions, in whatever order."""
    return digest([asdict(question) for question in sorted(questions, key=lambda each: each.id)])


def _schema() -> Any:
    import pyarrow as pa

    texts = pa.list_(pa.string())
    columns: dict[str, Any] = {
        "id": pa.string(),
        "text": pa.string(),
        "kind": pa.string(),
        "answers": texts,
        "image": pa.string(),
        "choices": texts,
        "groups": pa.string(),
        "cluster": pa.string(),
        "answer": pa.string(),
    }
    return pa.schema(columns.items())


def _question(row: dict[str, Any]) -> Question:
    return Question(
        **row
        | {
            "answers": tuple(row["answers"]),
            "choices": tuple(row["choices"]),
            "groups": json.loads(row["groups"]),
        }
    )
