"""Florence-2's answers on the device: token for token what transformers' `generate` writes."""

import copy
from statistics import mean
from typing import Any

import torch

from card.models import drawing
from card.numerics import in_full_precision
from card.record import Record
from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.generator import Generator

LIMIT = 24  # tokens an answer at most
END = 2


class Trial:
    """A model in float32, with prompts of mixed lengths about random images."""

    def __init__(self, large: bool, device: torch.device, prompts: int):
        self.device = device
        self.model, processor = drawing(large, device)
        numbers = torch.Generator().manual_seed(1)
        side = processor.image_processor.size["height"]
        self.images = list(torch.randn(prompts, 3, side, side, generator=numbers).to(device))
        image = [processor.image_token_id] * processor.num_image_tokens
        lengths = torch.randint(3, 14, (prompts,), generator=numbers).tolist()
        self.prompts = [
            [*image, 0, *torch.randint(10, 250, (length,), generator=numbers).tolist(), END]
            for length in lengths
        ]
        self.search(1)
        self._let_some_end()

    def _let_some_end(self) -> None:
        """Answers end at different places: the end token looks like one that several of them hold."""
        written = [set(self.generated(number)[2:-1]) for number in range(min(8, len(self.prompts)))]
        counts: dict[int, int] = {}
        for own in written:
            for token in own:
                counts[token] = counts.get(token, 0) + 1
        chosen = max(sorted(counts), key=lambda token: (counts[token] < len(written), counts[token]))
        with torch.no_grad():
            words = self.model.model.language_model.shared.weight
            words[END] = 1.01 * words[chosen]

    def search(self, beams: int, early: bool | str = True, ngram: int = 3) -> None:
        """How answers are searched for from now on."""
        settings: dict[str, Any] = {"num_beams": beams, "early_stopping": early}
        settings |= {"no_repeat_ngram_size": ngram}
        settings |= {"max_new_tokens": LIMIT, "max_length": None, "do_sample": False}
        for name, value in settings.items():
            setattr(self.model.generation_config, name, value)

    @torch.inference_mode()
    def generated(self, number: int, model: Any = None) -> list[int]:
        """One prompt alone through `generate`."""
        model = model or self.model
        ids = torch.tensor([self.prompts[number]], device=self.device)
        row = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=self.images[number][None].to(model.dtype),
            generation_config=self.model.generation_config,
        )[0]
        return _ended(row.tolist())

    def generator(self, slots: int, batch: int, model: Any = None) -> Generator:
        """The engine on these weights."""
        return Generator(model or self.model, GenerationRules.of(self.model.generation_config), slots, batch)

    def written(self, generator: Generator, numbers: list[int]) -> list[list[int]]:
        """These prompts through the engine."""
        rows = generator.generate(self.images, [(number, self.prompts[number]) for number in numbers])
        return [_ended(row) for row in rows]


def tokens(large: bool, device: torch.device, record: Record) -> None:
    """In float32 every answer is `generate`'s, however the engine's work is cut."""
    count = 6 if large else 10
    with in_full_precision():
        trial = Trial(large, device, count)
        everyone = list(range(count))
        searches: list[tuple[str, dict[str, Any]]] = [("greedy", {"beams": 1}), ("3 beams", {"beams": 3})]
        if not large:
            searches += [
                ("3 beams, late", {"beams": 3, "early": False, "ngram": 0}),
                ("5 beams, never early", {"beams": 5, "early": "never"}),
            ]
        for name, settings in searches:
            trial.search(**settings)
            expected = [trial.generated(number) for number in everyone]
            lengths = {len(answer) for answer in expected}
            record.check(f"{name}: answers differ", len(set(map(tuple, expected))) > 1, f"lengths {lengths}")
            for way, found in _ways(trial, everyone):
                same = sum(map(list.__eq__, found, [expected[number] for number in everyone]))
                record.check(f"{name}: {way}", same == count, f"{same} of {count} answers")


def _ways(trial: Trial, everyone: list[int]) -> list[tuple[str, list[list[int]]]]:
    """The same answers by writers whose work is cut differently, each in the prompts' order."""
    found = []
    for name, slots, batch, blind, ahead in (
        ("all at once", len(everyone), len(everyone), 1, 0),
        ("refills", 3, 2, 1, 0),
        ("a look every fourth step, encoding ahead", 5, 3, 4, 1),
    ):
        generator = trial.generator(slots, batch)
        generator.poll_every, generator.prefetch = blind, ahead
        found.append((name, trial.written(generator, everyone)))
    generator = trial.generator(4, 3)
    found.append(("as it comes", trial.written(generator, everyone)))
    found.append(("a second call", trial.written(generator, everyone)))
    generator, growing = (
        trial.generator(4, 3),
        sorted(everyone, key=lambda number: len(trial.prompts[number])),
    )
    answers = [
        answer
        for begin in range(0, len(growing), 2)
        for answer in trial.written(generator, growing[begin : begin + 2])
    ]
    placed = dict(zip(growing, answers, strict=True))
    found.append(("growing prompts, a call for every two", [placed[number] for number in everyone]))
    return found


def tokens_in_half_precision(large: bool, device: torch.device, record: Record) -> None:
    """In bfloat16 no two ways agree to the last bit: ours stays with float32 about as long as `generate`."""
    count = 6 if large else 10
    with in_full_precision():
        trial = Trial(large, device, count)
        half = copy.deepcopy(trial.model).to(torch.bfloat16)
        for beams in (1, 3):
            trial.search(beams)
            exact = [trial.generated(number) for number in range(count)]
            theirs = [trial.generated(number, half) for number in range(count)]
            ours = trial.written(trial.generator(4, 3, half), list(range(count)))
            kept, expected = _together(ours, exact), _together(theirs, exact)
            among = _together(ours, theirs)
            record.figure(f"bfloat16, beams {beams}: tokens like float32's, engine", kept, "%")
            record.figure(f"bfloat16, beams {beams}: tokens like float32's, generate", expected, "%")
            record.figure(f"bfloat16, beams {beams}: tokens like generate's, engine", among, "%")
            holds = max(kept, among) >= 0.7 * expected
            record.check(
                f"bfloat16, beams {beams}: as close as generate", holds, f"{kept:.0f}, {among:.0f} %"
            )


def _together(found: list[list[int]], expected: list[list[int]]) -> float:
    """Percent of an answer before the first token that differs, on average."""
    shares = []
    for one, other in zip(found, expected, strict=True):
        same = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        shares.append(100 * (min(len(one), len(other)) if same is None else same) / max(len(one), len(other)))
    return mean(shares)


def _ended(row: list[int]) -> list[int]:
    return row[: row.index(END, 1) + 1] if END in row[1:] else row
