"""A tiny Florence-2 whose answers differ in length: what generate writes with it, and what the engine."""

import numpy as np
import torch
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from helpers.tiny_florence2 import drawing_florence2
from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.generator import Generator
from maskgen.scenes import texts

WORDS = ["red", "small", "star", "left", "of", "the", "circle"]


class World:
    """A tiny model that answers with places, and prompts of mixed lengths about random pictures."""

    def __init__(self, folder, ending):
        """`ending`: the end token is as likely as the one that the model likes so-and-so much."""
        drawing_florence2(folder, list(texts.vocabulary())[:200], 1)
        self.model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)
        random = np.random.default_rng(0)
        pictures = [random.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(40)]
        options = {"input_data_format": "channels_last", "return_tensors": "pt"}
        self.images = list(self.processor.image_processor(pictures, **options)["pixel_values"])
        self.prompts = [self._prompt(" ".join(random.choice(WORDS, random.integers(1, 9)))) for _ in pictures]
        self.generation = self.model.generation_config
        self.set(num_beams=1, no_repeat_ngram_size=3, early_stopping=True)
        likes = [token for number in range(40) for token in self.theirs(number)[2:]]
        often = [int(token) for token in np.argsort(-np.bincount(likes)) if token > 2]
        with torch.no_grad():
            words = self.model.model.language_model.shared.weight
            words[2] = 1.01 * words[often[ending]]

    def _prompt(self, query):
        tokenizer, image = self.processor.tokenizer, self.processor.image_token_id
        words = tokenizer(f"Locate {query} in the image with mask", add_special_tokens=False).input_ids
        ends = tokenizer.bos_token_id, tokenizer.eos_token_id
        return [image] * self.processor.num_image_tokens + [ends[0], *words, ends[1]]

    def set(self, **settings):
        plain = {"max_new_tokens": 24, "max_length": None, "do_sample": False, "length_penalty": 1.0}
        for name, value in (plain | settings).items():
            setattr(self.generation, name, value)

    def theirs(self, number):
        """One prompt alone through generate; the answer up to its end token."""
        ids = torch.tensor([self.prompts[number]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        pixels = self.images[number][None]
        with torch.inference_mode():
            row = self.model.generate(**inputs, pixel_values=pixels, generation_config=self.generation)[0]
        return ended(row.tolist())

    def ours(self, numbers, slots, batch, poll_every=1, prefetch=0):
        generator = Generator(self.model, GenerationRules.of(self.generation), slots, batch)
        generator.poll_every, generator.prefetch = poll_every, prefetch
        rows = generator.generate(self.images, [(number, self.prompts[number]) for number in numbers])
        return [ended(row) for row in rows]


def ended(row):
    return row[: row.index(2, 1) + 1] if 2 in row[1:] else row
