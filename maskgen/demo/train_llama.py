"""Train the small LLaMA on what is said about scenes: python -m maskgen.demo.train_llama --out DIR."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from maskgen.age_vlm.chat import ChatTemplate, Encoded
from maskgen.demo import llama, talks
from maskgen.demo.drawing import FIRST_HELD_OUT_SEED, draw
from maskgen.demo.train_convnext import WORDS_FROM
from maskgen.demo.training import Batch, Losses, train

TALKS = 32  # a step
COMMON = 1.0  # the weight of what all embeddings have in common: left alone, it drowns what they say


@dataclass
class Talks(Dataset[Batch]):
    """Item `i` is the batch of step `i`: a conversation about each of `talks` new scenes.

    `described`: the share of them that begin with a description from which the questions can be answered.

    `tokens`: int64 (talks, tokens), padded. `answers`: bool likewise, the assistant's words and ends.
    """

    template: ChatTemplate
    steps: int
    talks: int = TALKS
    first_seed: int = 0
    described: float = 0.5

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        first = self.first_seed + step * self.talks
        scenes = [draw(seed) for seed in range(first, first + self.talks)]
        told = round(self.described * self.talks)
        said = [talks.reading(scene) for scene in scenes[:told]] + [
            talks.talk(scene) for scene in scenes[told:]
        ]
        return batch_of([self.template.encode(turns) for turns in said], self.template.pad_id)


def batch_of(said: list[Encoded], pad: int) -> Batch:
    """Conversations filled up to the longest."""
    longest = max(len(each.input_ids) for each in said)
    tokens = [each.input_ids + [pad] * (longest - len(each.input_ids)) for each in said]
    answers = [
        [label >= 0 for label in each.labels] + [False] * (longest - len(each.labels)) for each in said
    ]
    return {"tokens": torch.tensor(tokens), "answers": torch.tensor(answers)}


class Learner(nn.Module):
    """Every token is learnt, not answers alone: this is the pretraining, before there is anything to see."""

    def __init__(self, model: LlamaForCausalLM, pad: int):
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, batch: Batch) -> Losses:
        words = self.model.get_input_embeddings().weight
        common = words.mean(dim=0).square().sum() / words.square().sum(dim=1).mean()
        return {"text": surprise(self.model, batch["tokens"], self.pad).mean(), "common": COMMON * common}


def surprise(model: LlamaForCausalLM, tokens: torch.Tensor, pad: int) -> torch.Tensor:
    """Nats, float32 (n,), of every token after the first, in order, row by row, padding left out."""
    there = tokens != pad
    logits = model(input_ids=tokens, attention_mask=there.long()).logits[:, :-1]
    return F.cross_entropy(logits[there[:, 1:]].float(), tokens[:, 1:][there[:, 1:]], reduction="none")


def understood(model: LlamaForCausalLM, batch: Batch) -> float:
    """The share of answers of which every token is the likeliest, given the true ones before it."""
    tokens, answers = batch["tokens"], batch["answers"]
    likeliest = model(input_ids=tokens).logits[:, :-1].argmax(dim=-1)
    wrong = (likeliest != tokens[:, 1:]) & answers[:, 1:]
    begins = answers[:, 1:] & ~answers[:, :-1]
    number = begins.cumsum(dim=1) * answers[:, 1:]
    rows = torch.arange(len(tokens))[:, None] * (int(number.max()) + 1)
    return 1 - len(torch.unique((number + rows)[wrong])) / int(begins.sum())


def main() -> None:
    """Train, going on from what lies in --out, and write `--out/model`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for state, curve and model")
    parser.add_argument("--steps", type=int, default=1500, help=f"of {TALKS} conversations")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate")
    options = parser.parse_args()
    untrained = options.out / "untrained"
    llama.build(untrained, llama.DEMO, talks.texts(WORDS_FROM), options.seed)
    tokens = PreTrainedTokenizerFast.from_pretrained(untrained)
    template = ChatTemplate(tokens, llama.DEMO.positions)
    learner = Learner(LlamaForCausalLM.from_pretrained(untrained), template.pad_id)
    lessons = Talks(template, options.steps)
    held_out = Talks(template, steps=1, talks=200, first_seed=FIRST_HELD_OUT_SEED, described=0)[0]
    read = Talks(template, steps=1, talks=200, first_seed=FIRST_HELD_OUT_SEED, described=1)[0]

    def batches(first: int) -> Iterator[Batch]:
        return iter(DataLoader(lessons, None, sampler=range(first, options.steps), num_workers=1))

    def measure(module: nn.Module) -> dict[str, float]:
        assert isinstance(module, Learner)
        with torch.no_grad():
            return {
                "perplexity": surprise(module.model, held_out["tokens"], template.pad_id).mean().exp().item(),
                "understood": understood(module.model, read),
            }

    average = train(
        options.out,
        learner,
        batches,
        lambda module, batch: module(batch),
        measure,
        options.steps,
        options.rate,
    )
    assert isinstance(average, Learner)
    average.model.half().save_pretrained(options.out / "model")
    tokens.save_pretrained(options.out / "model")


if __name__ == "__main__":
    main()
