"""Training dialogues about scenes, for the small LLaMA and the small ConvNeXt."""

from collections.abc import Iterator

import numpy as np

from maskgen.sample import Turn
from maskgen.scenes.drawing import Scene, draw_scene
from maskgen.scenes.texts import DESCRIBE, KINDS, caption, random_query

# Every kind as often as it takes to learn it; presence is asked of what is there and of what is not.
_SHARES = KINDS | {"count": 0.12, "presence": 0.15, "nothing": 0.15}


def dialogue(scene: Scene, seed: int = 6, questions: int = 3) -> list[Turn]:
    """One to `questions` different questions with their answers, now and then a description; seeded."""
    rng = np.random.default_rng((scene.seed, seed))
    turns: list[Turn] = []
    texts = set()
    for _ in range(rng.integers(1, questions + 1)):
        query = random_query(scene, rng, _SHARES)
        if query.text not in texts:
            texts.add(query.text)
            turns += [Turn("human", query.text), Turn("gpt", query.answer)]
    if rng.random() < 0.5:
        place = 2 * int(rng.integers(len(turns) // 2 + 1))
        turns[place:place] = [Turn("human", DESCRIBE), Turn("gpt", caption(scene, rng))]
    return turns


def dialogue_texts(seeds: range) -> Iterator[str]:
    """All turns of the dialogues about the scenes of `seeds`, for a tokenizer to learn its words from."""
    for seed in seeds:
        yield from (turn.value for turn in dialogue(draw_scene(seed)))
