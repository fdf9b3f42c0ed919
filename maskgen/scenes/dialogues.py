"""Conversations about scenes: what the small LLaMA and the small ConvNeXt learn from."""

from collections.abc import Iterator

import numpy as np

from maskgen.sample import Turn
from maskgen.scenes.drawing import Scene, draw
from maskgen.scenes.texts import DESCRIBE, KINDS, caption, query

# Every kind as often as it takes to learn it; presence is asked of what is there and of what is not.
_SHARES = KINDS | {"count": 0.12, "presence": 0.15, "nothing": 0.15}


def talk(scene: Scene, seed: int = 6, questions: int = 3) -> list[Turn]:
    """One to `questions` different questions with their answers, now and then a description; seeded."""
    rng = np.random.default_rng((scene.seed, seed))
    turns: list[Turn] = []
    asked = set()
    for _ in range(rng.integers(1, questions + 1)):
        each = query(scene, rng, _SHARES)
        if each.text not in asked:
            asked.add(each.text)
            turns += [Turn("human", each.text), Turn("gpt", each.answer)]
    if rng.random() < 0.5:
        place = 2 * int(rng.integers(len(turns) // 2 + 1))
        turns[place:place] = [Turn("human", DESCRIBE), Turn("gpt", caption(scene, rng))]
    return turns


def texts(seeds: range) -> Iterator[str]:
    """All turns of the talks about the scenes of `seeds`, for a tokenizer to learn its words from."""
    for seed in seeds:
        yield from (turn.value for turn in talk(draw(seed)))
