"""The prompt both peers were trained with, Vicuna's, in tokens as their authors' code makes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskgen.errors import MaskgenError

_BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
)
_AFTER = "\n{question} ASSISTANT:"


@dataclass(frozen=True)
class PromptTokens:
    """Token ids before the image and after it, and which of those after it are the question's."""

    before: list[int]
    after: list[int]
    asks: list[bool]


class VicunaPrompt:
    """LLaMA's sentencepiece model. The two sides of the image are cut into tokens apart, each as a text of
    its own, so that the second begins with a blank.
    """

    def __init__(self, file: Path):
        from sentencepiece import SentencePieceProcessor

        try:
            self._pieces = SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError) as error:
            raise MaskgenError(f"{file} is no sentencepiece model. Download the checkpoint again.") from error
        self.end_id: int = self._pieces.eos_id()
        self._start_id: int = self._pieces.bos_id()

    @property
    def size(self) -> int:
        """How many tokens it knows."""
        return int(self._pieces.get_piece_size())

    def asked(self, question: str) -> PromptTokens:
        """A question about an image."""
        before = [self._start_id, *self._pieces.encode(_BEFORE)]
        text = _AFTER.format(question=question)
        pieces: Any = self._pieces.encode(text, out_type="offset_mapping")
        start = text.index("\n") + 1
        end = start + len(question)
        # A byte of a character has no width but at the last one.
        asks = [start <= first < end or first < start < last for first, last in pieces["offsets"]]
        return PromptTokens(before, list(pieces["ids"]), asks)

    def blind(self, question: str) -> list[int]:
        """The ids of a question without an image."""
        text = _BEFORE + _AFTER.format(question=question).lstrip("\n")
        return [self._start_id, *self._pieces.encode(text)]

    def text(self, ids: list[int]) -> str:
        """What tokens say."""
        return str(self._pieces.decode(ids))

    def word(self, token: int) -> str:
        """One token as it is written, with its blank."""
        return str(self._pieces.id_to_piece(token)).replace("▁", " ")
