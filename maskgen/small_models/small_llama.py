"""LLaMA at small sizes: an untrained causal language model with its tokenizer, as transformers reads it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from maskgen.age_vlm.chat import ASSISTANT, JINJA, USER


@dataclass(frozen=True)
class LlamaSizes:
    """A LLaMA of any size; `words`: byte-level BPE tokens at most (256 are bytes, three are special)."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    positions: int
    words: int


TINY = LlamaSizes(width=32, layers=4, heads=4, key_value_heads=2, feed_forward=64, positions=256, words=320)
DEMO = LlamaSizes(width=128, layers=6, heads=4, key_value_heads=2, feed_forward=384, positions=512, words=600)


def build(folder: str | Path, sizes: LlamaSizes, texts: Iterable[str], seed: int) -> None:
    """Write an untrained checkpoint to `folder`; its tokenizer's words are learnt from `texts`.

    Equal arguments write equal weights. As in LLaMA 3.2 1B, the output layer shares the input's embeddings.
    """
    tokens = train_tokenizer(texts, sizes.words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama_config(sizes, tokens))
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)


def llama_config(sizes: LlamaSizes, tokens: PreTrainedTokenizerFast) -> LlamaConfig:
    """The configuration of a LLaMA of these sizes with the vocabulary of `tokens`."""
    return LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.key_value_heads,
        intermediate_size=sizes.feed_forward,
        max_position_embeddings=sizes.positions,
        tie_word_embeddings=True,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


def train_tokenizer(texts: Iterable[str], words: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, so that every text has tokens; it knows the chat template's words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=words,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *[f"{USER} \n{ASSISTANT}"] * 100], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=JINJA
    )
