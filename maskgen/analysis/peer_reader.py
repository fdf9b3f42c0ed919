"""A peer of the paper for the analyses: its states, and its first self-attention over the image's tokens."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskgen.age_vlm.generation import ChatPrompt, GenerationOptions
from maskgen.analysis.attention_maps import ANSWER_TOKENS, AttentionMaps, States
from maskgen.analysis.samples import Item
from maskgen.geometry import HALF, Frame
from maskgen.peers.peer_generation import PeerAnswerer
from maskgen.peers.peer_model import PeerModel, Say
from maskgen.sample import Turn


@dataclass(frozen=True)
class _Read:
    """Of one prompt, `states`: (T, width); `attention`: of the first layer, (heads, T, T).

    `image`: the image's place in it; `asks`: the places of the question's tokens, and `ids` what they are.
    """

    states: torch.Tensor
    attention: torch.Tensor | None
    image: slice
    asks: list[int]
    ids: list[int]


class PeerReader:
    """See `similarity.StateReader` and `attention_maps.MapReader`."""

    def __init__(self, model: PeerModel):
        self.model, self.name, self.model_type = model, model.name, model.family
        self.frame = Frame("pad", model.size, model.side)
        self.layers: Sequence[str] = ("first self-attention",)
        self.masks_padding = False

    @classmethod
    def load(cls, place: str | Path, device: str = "", say: Say = lambda line: None) -> "PeerReader":
        """MaskgenError as `PeerModel.load`."""
        return cls(PeerModel.load(place, device, attention="eager", say=say))

    def hidden_states(self, items: Iterable[Item]) -> Iterator[States]:
        """The states after the last layer and its norm, of all image tokens, padding's too, and of t_q."""
        for item in items:
            read = self._read(item)
            states = read.states.float().cpu().numpy()
            yield states[read.image], states[read.asks]

    def attention_maps(self, items: Iterable[Item]) -> Iterator[tuple[Item, AttentionMaps]]:
        """Every item, and the attention of its text over its image."""
        for item in items:
            read = self._read(item, attends=True)
            assert read.attention is not None
            rows = read.attention[:, read.asks, read.image].mean(dim=0)
            attention = rows.mean(dim=0) if read.asks else torch.zeros(rows.shape[-1])
            yield item, self._maps_of(item, attention, len(read.asks))

    def token_attention_maps(self, item: Item) -> list[tuple[str, AttentionMaps]]:
        """Each of the text's tokens, as written, and its attention over the image."""
        read = self._read(item, attends=True)
        assert read.attention is not None
        rows = read.attention[:, read.asks, read.image].mean(dim=0)
        words = [self.model.prompt.word(token) for token in read.ids]
        return [(word, self._maps_of(item, row, 1)) for word, row in zip(words, rows, strict=True)]

    def answer(self, item: Item) -> str:
        """What the model says to the text."""
        asked = ChatPrompt([Turn("human", item.text)], item.pixels)
        return next(PeerAnswerer(self.model).answers([[asked]], GenerationOptions(ANSWER_TOKENS))).text

    @torch.inference_mode()
    def _read(self, item: Item, attends: bool = False) -> _Read:
        model, asked = self.model, self.model.prompt.asked(item.text)
        image = model.image_tokens([item.pixels])[0]
        embeds = torch.cat([model.embedded(asked.before), image, model.embedded(asked.after)])[None]
        found: list[torch.Tensor] = []

        def keep(module: Any, given: Any, out: Any) -> None:
            found.append(out[1][0])

        core = model.language.model
        hook = core.layers[0].self_attn.register_forward_hook(keep) if attends else None
        try:
            states = core(inputs_embeds=embeds).last_hidden_state[0]
        finally:
            if hook is not None:
                hook.remove()
        start, end = len(asked.before), len(asked.before) + len(image)
        places = [place for place, asks in enumerate(asked.asks) if asks]
        return _Read(
            states,
            found[0].float().cpu() if found else None,
            slice(start, end),
            [end + place for place in places],
            [asked.after[place] for place in places],
        )

    def _maps_of(self, item: Item, attention: torch.Tensor, tokens: int) -> AttentionMaps:
        side, (height, width) = self.model.side, item.pixels.shape[:2]
        every = np.ones((side, side), bool)
        image = self.frame.image_cells(width, height) >= HALF
        return AttentionMaps(attention.numpy().reshape(1, side, side), image, every, tokens)
