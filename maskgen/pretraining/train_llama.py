"""Train the small LLaMA on scenes' dialogues: python -m maskgen.pretraining.train_llama --out DIR."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from maskgen.age_vlm.chat import ChatTemplate, EncodedConversation
from maskgen.pretraining.pretraining_loop import Batch, Losses, argument_parser, pretrain
from maskgen.pretraining.train_convnext import WORDS_FROM
from maskgen.scenes import dialogues
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.shapes import COLOURS, SHAPES, SIZES
from maskgen.small_models import small_llama

DIALOGUES = 32  # a step
WARMUP = 100
NAMED = (*SIZES, *COLOURS, *SHAPES)
# Of the logits for what was named: how far apart, and how low where nothing was.
NAME_SCALE, NAME_THRESHOLD = 2.0, 3.0


@dataclass
class DialogueDataset(Dataset[Batch]):
    """Item `i` is the batch of step `i`: a conversation about each of `dialogues` new scenes.

    `tokens`: int64 (dialogues, tokens), padded. `answers`: bool likewise, the assistant's words and ends.
    """

    template: ChatTemplate
    steps: int
    dialogues: int = DIALOGUES
    first_seed: int = 0

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        first = self.first_seed + step * self.dialogues
        seeds = range(first, first + self.dialogues)
        encoded = [self.template.encode(dialogues.dialogue(draw_scene(seed))) for seed in seeds]
        return batch_of(encoded, self.template.pad_id)


def batch_of(encoded: list[EncodedConversation], pad: int) -> Batch:
    """Conversations padded to the longest."""
    longest = max(len(each.input_ids) for each in encoded)
    tokens = [each.input_ids + [pad] * (longest - len(each.input_ids)) for each in encoded]
    answers = [
        [label >= 0 for label in each.labels] + [False] * (longest - len(each.labels)) for each in encoded
    ]
    return {"tokens": torch.tensor(tokens), "answers": torch.tensor(answers)}


class LlamaPretraining(nn.Module):
    """Language modelling on every token, not on answers alone, with an auxiliary loss on what was named.

    In text alone "star" and "circle" are used alike, and their states in so small a model are all but equal;
    a large LLaMA's differ. So fixed directions read from every state, of all layers, which sizes, colours and
    shapes were named since the user's turn began.
    """

    name_directions: torch.Tensor

    def __init__(self, model: LlamaForCausalLM, tokens: PreTrainedTokenizerFast, pad: int):
        super().__init__()
        self.model = model
        self.pad = pad
        self.names, self.user = name_of_token(tokens), tokens("User", add_special_tokens=False).input_ids[0]
        random = torch.Generator().manual_seed(0)
        drawn = torch.randn(model.config.hidden_size, len(NAMED), generator=random)
        self.register_buffer("name_directions", torch.linalg.qr(drawn)[0], persistent=False)

    def forward(self, batch: Batch) -> Losses:
        tokens = batch["tokens"]
        mask = tokens != self.pad
        out = self.model(input_ids=tokens, attention_mask=mask.long(), output_hidden_states=True)
        text = F.cross_entropy(out.logits[:, :-1][mask[:, 1:]].float(), tokens[:, 1:][mask[:, 1:]])
        mentioned = names_mentioned(tokens, self.names, self.user)[mask]
        logits = [self.name_logits(state)[mask] for state in out.hidden_states]
        name_losses = torch.stack([F.binary_cross_entropy_with_logits(each, mentioned) for each in logits])
        return {"text": text, "named": name_losses.mean()}

    def name_logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits (n, tokens, names) of what was named, by states (n, tokens, width)."""
        size = states.square().mean(dim=-1, keepdim=True).sqrt()
        return NAME_SCALE * (states / size) @ self.name_directions - NAME_THRESHOLD


def name_of_token(tokens: PreTrainedTokenizerFast) -> torch.Tensor:
    """int64 (words,): which of NAMED each token is, singular or plural; -1 for all others."""
    found = torch.full((len(tokens),), -1)
    for number, name in enumerate(NAMED):
        for form in (name, f"{name}s", f"{name}es"):
            ids = tokens(f" {form}", add_special_tokens=False).input_ids
            found[ids[0]] = number if len(ids) == 1 or form == name else found[ids[0]]
    return found


def names_mentioned(tokens: torch.Tensor, names: torch.Tensor, user: int) -> torch.Tensor:
    """float32 (n, tokens, NAMED): 1 where a name was mentioned since the last `user` token, inclusive."""
    mentioned = F.one_hot(names[tokens] + 1, len(NAMED) + 1)[..., 1:].cumsum(dim=1)
    place = torch.arange(tokens.shape[1]).expand_as(tokens)
    turn_start = torch.where(tokens == user, place, 0).cummax(dim=1).values
    before = mentioned.gather(1, turn_start[..., None].expand_as(mentioned))
    return (mentioned > before).float()


def token_nll(model: LlamaForCausalLM, tokens: torch.Tensor, pad: int) -> torch.Tensor:
    """Nats, float32 (n,), of every token after the first, in order, row by row, padding left out."""
    mask = tokens != pad
    logits = model(input_ids=tokens, attention_mask=mask.long()).logits[:, :-1]
    return F.cross_entropy(logits[mask[:, 1:]].float(), tokens[:, 1:][mask[:, 1:]], reduction="none")


def main() -> None:
    """Train, going on from what lies in --out, and write `--out/model`."""
    parser = argument_parser(__doc__, 800, f"{DIALOGUES} conversations", 2e-3)
    options = parser.parse_args()
    untrained = options.out / "untrained"
    small_llama.build(untrained, small_llama.DEMO, dialogues.dialogue_texts(WORDS_FROM), options.seed)
    tokens = PreTrainedTokenizerFast.from_pretrained(untrained)
    template = ChatTemplate(tokens, small_llama.DEMO.positions)
    learner = LlamaPretraining(LlamaForCausalLM.from_pretrained(untrained), tokens, template.pad_id)
    training = DialogueDataset(template, options.steps)
    held_out = DialogueDataset(template, steps=1, dialogues=200, first_seed=FIRST_HELD_OUT_SEED)[0]

    def measure(module: LlamaPretraining) -> dict[str, float]:
        with torch.no_grad():
            return {
                "perplexity": token_nll(module.model, held_out["tokens"], template.pad_id)
                .mean()
                .exp()
                .item(),
                "named": module(held_out)["named"].item(),
            }

    average = pretrain(
        options.out,
        learner,
        training,
        measure,
        options.steps,
        options.rate,
        warmup=WARMUP,
    )
    average.model.half().save_pretrained(options.out / "model")
    tokens.save_pretrained(options.out / "model")


if __name__ == "__main__":
    main()
