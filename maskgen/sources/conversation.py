"""Raw row → key and rank; turns; the query text and its spans; outcomes known at planning."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import orjson

from maskgen.answer_formats import trim
from maskgen.config import Text
from maskgen.errors import SampleError
from maskgen.outcome import Outcome
from maskgen.sample import Query, Sample, Turn, role
from maskgen.sources.row_layout import PLACEHOLDER, Image, RawRow

KEY_CHARS = 20

# What Florence-2's and LLaMA's tokenizers, or LLaVA's template, would not read as text. White space and
# control characters separate words; both are the same to the models.
_SPECIAL = re.compile(
    r"<(?:image|/?(?:s|pad|unk|mask|poly|sep|and|od|ocr|cap|ncap|dcap|grounding|seg|region_cap|proposal"
    r"|region_to_desciption)|loc_\d+|OD|OCR|OCR_WITH_REGION|REGION_PROPOSAL|OPEN_VOCABULARY_DETECTION"
    r"|(?:MORE_)?(?:DETAILED_)?CAPTION|DENSE_REGION_CAPTION|CAPTION_TO_PHRASE_GROUNDING"
    r"|REFERRING_EXPRESSION_SEGMENTATION|REGION_TO_(?:SEGMENTATION|CATEGORY|DESCRIPTION|OCR))>"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_Stretch = tuple[int, int, str]


def canonical(row: RawRow) -> bytes:
    """The row's content as JSON, `[id, image, [[speaker, value], ...]]`: equal rows, equal bytes.

    JSON keeps the id 7 apart from the id "7". What UTF-8 cannot say becomes U+FFFD.
    """
    try:
        return orjson.dumps([row.id, row.image, row.turns])
    except orjson.JSONEncodeError:
        return orjson.dumps([_encodable(row.id), _encodable(row.image), _encodable(row.turns)])


def key(content: bytes) -> str:
    """The identity of a row's canonical content, and its sample's key: KEY_CHARS hex digits."""
    return hashlib.blake2b(content, digest_size=KEY_CHARS // 2).hexdigest()


def seed_bytes(seed: int) -> bytes:
    """Any seed as 16 bytes, for `rank`."""
    return hashlib.blake2b(str(seed).encode(), digest_size=16).digest()


def rank(key: str, seed: bytes) -> bytes:
    """The row's place in the selection: a uniform 64-bit number, big-endian, smallest chosen first."""
    return hashlib.blake2b(seed + key.encode(), digest_size=8).digest()


Check = Callable[[Image, Sequence[Sequence[str]], Text], Query]
"""Says what a row's query is, or by a SampleError why the row cannot be used: `check` or `check_packed`."""


def sample(
    content: bytes, key: str, text: Text, checked: "Check | None" = None, meta: bytes = b"{}"
) -> Sample:
    """The planned sample of a row's canonical content, with its outcome if that is known already."""
    name, image, turns = orjson.loads(content)
    outcome, reason, query = None, "", Query("", ())
    try:
        query = (checked or check)(image, turns, text)
    except SampleError as error:
        outcome, reason = error.outcome, error.reason
    return Sample(
        key=key,
        id="" if name is None else str(name),
        image=image if isinstance(image, str) else ", ".join(image) if isinstance(image, list) else "",
        conversations=tuple([Turn(speaker, value) for speaker, value in turns]),
        query=query,
        outcome=outcome,
        reason=reason,
        meta=meta.decode(),
    )


def check(image: Image, turns: Sequence[Sequence[str]], text: Text) -> Query:
    """The query of a row that can be grounded; of another, the SampleError that planning knows already.

    Those of `check_image` and `check_speakers`, TEXT_EMPTY, TEXT_TOO_LONG.
    """
    check_image(image)
    check_speakers(turns)
    query = make_query(turns, text)
    if not query.text:
        raise SampleError(Outcome.TEXT_EMPTY, f"the row has no text for the {text.query}")
    if len(query.text) > text.max_chars:
        raise SampleError(
            Outcome.TEXT_TOO_LONG,
            f"the query has {len(query.text)} characters, more than text.max_chars ({text.max_chars})",
        )
    return query


def check_packed(image: Image, turns: Sequence[Sequence[str]], text: Text, text_only: bool = True) -> Query:
    """As `check`, of a row that is packed without a mask: any that has an answer to learn.

    With `text_only` a row needs no image, unless its text shows where one would be. A query that could not be
    grounded is no obstacle, and left out.
    """
    if image or not text_only:
        check_image(image)
    elif any(PLACEHOLDER in value for _, value in turns):
        raise SampleError(Outcome.NO_IMAGE, f"the text has {PLACEHOLDER}, and the row names no image")
    check_speakers(turns)
    if not any(role(speaker) == "assistant" and value.strip() for speaker, value in turns):
        raise SampleError(Outcome.TEXT_EMPTY, "the row has no answer to learn")
    query = make_query(turns, text)
    return query if len(query.text) <= text.max_chars else Query("", ())


def check_image(image: Image) -> None:
    """Whether a row has one image that can be read, by its words alone.

    Raises SampleError: those of `check_reference`, SEVERAL_IMAGES, IMAGE_UNSUPPORTED.
    """
    if isinstance(image, list):
        raise SampleError(Outcome.SEVERAL_IMAGES, f"the row has {len(image)} images")
    if isinstance(image, dict):
        raise SampleError(Outcome.IMAGE_UNSUPPORTED, image["unread"])
    check_reference(image)


def check_speakers(turns: Sequence[Sequence[str]]) -> None:
    """Whether all speakers are known: SampleError UNKNOWN_SPEAKER, since nobody can say who learns what."""
    for speaker, _ in turns:
        if not role(speaker):
            raise SampleError(
                Outcome.UNKNOWN_SPEAKER,
                f"a speaker is {speaker[:40]!r}, neither user nor assistant nor system",
            )


def check_reference(image: str | None) -> None:
    """Whether an image reference names something under a root, by its words alone.

    Raises SampleError: NO_IMAGE for none, PATH_ESCAPE for an absolute path, a URL, a part "..", NUL. What a
    remote storage would read otherwise is `ImageFolder`'s to refuse: "a::b.jpg" may well lie on a disk.
    """
    if not image:
        raise SampleError(Outcome.NO_IMAGE, "the row names no image")
    if image.startswith("/"):
        raise SampleError(Outcome.PATH_ESCAPE, "the image path is absolute")
    if ".." in image.replace("\\", "/").split("/"):
        raise SampleError(Outcome.PATH_ESCAPE, "the image path climbs out of its folder")
    if "://" in image or image.startswith("data:"):
        raise SampleError(Outcome.PATH_ESCAPE, "the image path is a URL")
    if "\0" in image:
        raise SampleError(Outcome.PATH_ESCAPE, "the image path holds a NUL character")


def make_query(turns: Sequence[Sequence[str]], text: Text) -> Query:
    """The text t_q of a conversation of (speaker, value) turns, clean, and where it stands.

    The query is the clean text of its spans, joined by single spaces.
    """
    pieces: list[str] = []
    spans: list[tuple[int, int, int]] = []
    rules = tuple(text.strip)
    for turn in _chosen(tuple([speaker for speaker, _ in turns]), text.query, text.turns):
        speaker, value = turns[turn]
        stretches = list(_stretches(value))
        if rules and role(speaker) == "user":
            stretches = _trimmed(value, stretches, rules)
        for start, end, piece in stretches:
            pieces.append(" ".join(piece.split()))
            spans.append((turn, start, end))
    return Query(" ".join(pieces), tuple(spans))


@lru_cache(maxsize=4096)  # a file has few patterns of speakers
def _chosen(speakers: tuple[str, ...], query: str, turns: str) -> list[int]:
    """Indices of the turns that make the query."""
    roles = [role(speaker) for speaker in speakers]
    questions = [turn for turn, who in enumerate(roles) if who == "user"]
    answers = [turn for turn, who in enumerate(roles) if who == "assistant"]
    if query == "question":
        return questions if turns == "all" else questions[:1]
    if query == "caption":
        return answers if turns == "all" else answers[:1]
    if turns == "all":
        return sorted(questions + answers)
    return questions[:1] + [turn for turn in answers if questions and turn > questions[0]][:1]


def _trimmed(value: str, stretches: list[_Stretch], rules: tuple[str, ...]) -> list[_Stretch]:
    """The stretches of a question without what its answer should look like."""
    kept: list[_Stretch] = []
    for start, end, _ in stretches:
        first, last = trim(value[start:end], rules)
        kept += _ink(value, start + first, start + last)
    return kept


def _stretches(value: str) -> Iterator[_Stretch]:
    """(start, end, text) of what stands between special tokens, trimmed, without empty stretches."""
    start = 0
    tokens = [token.span() for token in _SPECIAL.finditer(value)] if "<" in value else []
    for end, after in [*tokens, (len(value), len(value))]:
        yield from _ink(value, start, end)
        start = after


def _ink(value: str, start: int, end: int) -> Iterator[_Stretch]:
    """The stretch of `value` from `start` to `end` without white space around it, if anything is left."""
    stretch = value[start:end].rstrip()
    piece = stretch.lstrip()
    if not piece.isprintable():
        stretch = _CONTROL.sub(" ", value[start:end]).rstrip()
        piece = stretch.lstrip()
    if piece:
        yield start + len(stretch) - len(piece), start + len(stretch), piece


def _encodable(value: Any) -> Any:
    """`value` with U+FFFD for what UTF-8 cannot say."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list | tuple):
        return [_encodable(each) for each in value]
    return {name: _encodable(each) for name, each in value.items()} if isinstance(value, dict) else value
