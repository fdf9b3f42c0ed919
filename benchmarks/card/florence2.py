"""Florence-2's encoders, and a decoding step over slots and lengths."""

from functools import partial
from typing import Any

import torch

from card.models import drawing
from card.part import Setting, Step
from card.profiles import profiled
from card.record import Record
from maskgen.grounding.fast.decode_step import step
from maskgen.grounding.fast.decoder_weights import DecoderWeights
from maskgen.grounding.fast.encoder import PromptEncoder
from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.slots import Slots
from maskgen.runtime.clock import typical

WORDS = 14  # of a prompt, beside its image tokens


def _made(setting: Setting) -> tuple[Any, Any, int]:
    """Model in bfloat16 with processor, and images a pass."""
    model, processor = drawing(not setting.small, setting.device)
    return model.to(torch.bfloat16), processor, 2 if setting.small else 16


def _spent(setting: Setting) -> float:
    return 0.1 if setting.small else 0.6


def _pixels(setting: Setting, processor: Any, count: int) -> torch.Tensor:
    side = processor.image_processor.size["height"]
    return torch.randn(count, 3, side, side, device=setting.device, dtype=torch.bfloat16)


@torch.inference_mode()
def encoders(setting: Setting, record: Record) -> None:
    """Milliseconds an image: image encoder, text encoder, and keys and values for the decoder."""
    model, processor, batch = _made(setting)
    pixels, inner = _pixels(setting, processor, batch), model.model
    tokens = processor.num_image_tokens + WORDS
    embedded = torch.randn(
        batch, tokens, model.config.text_config.d_model, device=setting.device, dtype=torch.bfloat16
    )
    mask = torch.ones(batch, tokens, device=setting.device, dtype=torch.long)
    weights = DecoderWeights.of(model, torch.bfloat16)
    parts = {
        "DaViT and projector": lambda: inner.multi_modal_projector(
            inner.vision_tower(pixels).last_hidden_state
        ),
        "BART's encoder": lambda: inner.language_model.encoder(inputs_embeds=embedded, attention_mask=mask),
        "keys and values of a prompt": lambda: weights.cross_keys_values(embedded),
    }
    for name, work in parts.items():
        took = typical(work, setting.device, _spent(setting))
        record.figure(f"{name}, batch {batch}: an image", 1e3 * took / batch, "ms")
        profiled(name, work, setting.device, record)


@torch.inference_mode()
def reading(setting: Setting, record: Record) -> None:
    """The engine's encoder as a whole, batch by batch."""
    model, processor, batch = _made(setting)
    count = 2 * batch
    images = list(_pixels(setting, processor, count))
    ids = [processor.image_token_id] * processor.num_image_tokens + [0, *range(10, 8 + WORDS), 2]
    encoder = PromptEncoder(model, DecoderWeights.of(model, torch.bfloat16), batch, 1)
    prompts = [(number, ids) for number in range(count)]
    took = typical(lambda: list(encoder.encode(images, prompts)), setting.device, _spent(setting))
    record.figure(f"prompts encoded, batch {batch}: an image", 1e3 * took / count, "ms")


@torch.inference_mode()
def decoding(setting: Setting, record: Record) -> None:
    """A step of all slots when the furthest answer stands at a place; 3 beams."""
    model, processor, _ = _made(setting)
    generation = model.generation_config
    generation.num_beams, generation.do_sample, generation.max_length = 3, False, None
    generation.max_new_tokens = 48 if setting.small else 1022
    weights = DecoderWeights.of(model, torch.bfloat16)
    tokens = processor.num_image_tokens + WORDS
    shape = (len(weights.layers), 2, weights.heads, tokens, weights.width // weights.heads)
    prompt = torch.randn(shape, device=setting.device, dtype=torch.bfloat16)
    for slots in (4,) if setting.small else (32, 64, 128, 8):
        bank = Slots(weights, GenerationRules.of(generation), slots, -(-tokens // 32) * 32)
        if bank.count < slots:
            record.figure(f"{slots} slots: fit", bank.count, "slots")
            continue
        bank.start(list(range(slots)), [prompt] * slots)
        for place in (6, 24) if setting.small else (14, 62, 126, 254, 510):
            took = typical(partial(_step, bank, place), setting.device, _spent(setting) / 2)
            a_slot = f"{1e6 * took / slots:.1f} µs a slot"
            record.figure(f"{slots} slots, at place {place}: a step", 1e3 * took, "ms", a_slot)
        if slots == 64 or setting.small:
            place = 30 if setting.small else 126
            name = f"a step of {slots} slots as it is, at place {place}"
            profiled(name, partial(_eager, bank, place), setting.device, record)
        del bank  # before the next one takes its memory


def _step(bank: Slots, place: int) -> None:
    bank._search.position.fill_(place)
    bank.step(bank.count, place)


def _eager(bank: Slots, place: int) -> None:
    """Without a graph, so that the profiler sees every operation."""
    key = bank.count, place + 2
    bank._search.position.fill_(place)
    step(bank._decoder.first(*key), bank._search.first(*key))


STEPS: list[Step] = [encoders, decoding, reading]
