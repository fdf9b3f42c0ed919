"""ConvLLaVA and MobileVLM V2 by folder or published name: tower, projector and language model as one."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from maskgen.age_vlm.image_processing import MEAN, STD, normalise
from maskgen.errors import MaskgenError
from maskgen.peers import weight_files
from maskgen.peers.peer_names import PUBLISHED, read_object
from maskgen.peers.projectors import SIDE, LdpNetV2, MlpProjector
from maskgen.peers.vicuna_prompt import VicunaPrompt
from maskgen.peers.vision_towers import ClipTower, ConvNextTower, built, fill
from maskgen.runtime.device import choose_device, usual_dtype

_FILES = ["*.json", "tokenizer.model", "*.bin", "*.safetensors"]
_TOWER, _PROJECTOR = "model.vision_tower.vision_tower.", "model.mm_projector."
_LEFTOVERS = ("rotary_emb.inv_freq", "embeddings.position_ids")
_LLAMA = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta"),
    *("tie_word_embeddings", "bos_token_id", "eos_token_id"),
)  # a file may hold another library's settings too, such as n_head
_BORDER = tuple(int(255 * part) for part in MEAN)

Say = Callable[[str], None]


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True)
class PeerModel:
    """`name`: for tables. `family`: "ConvLLaVA" or "MobileVLM V2".

    `tower`: from pixels, (B, 3, size, size), to tokens; `projector`: from those to (B, side^2, width).
    `language`: a LlamaForCausalLM. `prompt`: from words to tokens and back. `size`: pixels a side. `side`:
    image tokens a side.
    """

    name: str
    family: str
    tower: nn.Module
    projector: nn.Module
    language: Any
    prompt: VicunaPrompt
    size: int
    side: int

    @classmethod
    def load(
        cls,
        place: str | Path,
        device: str | torch.device = "",
        dtype: torch.dtype | None = None,
        attention: str = "sdpa",
        say: Say = _silent,
    ) -> "PeerModel":
        """The model of a folder, or of a published name, which the hub's cache or the hub then has to have.

        `attention`: how transformers computes it; "eager" gives the maps. `say` is told which copy of
        ConvLLaVA's tower is used. MaskgenError if a tensor is missing or unexpected.
        """
        folder, where = fetched(str(place)), choose_device(device)
        kind, config = dtype or usual_dtype(where), read_object(folder / "config.json")
        tensors = weight_files.read(folder)
        tensors = {name: each for name, each in tensors.items() if not name.endswith(_LEFTOVERS)}
        inner, projecting = (weight_files.under(prefix, tensors) for prefix in (_TOWER, _PROJECTOR))
        speaking = {name: each for name, each in tensors.items() if not name.startswith((_TOWER, _PROJECTOR))}
        family = _family(folder, config, inner)
        prompt = VicunaPrompt(folder / "tokenizer.model")
        with _quiet():
            tower: Any
            projector: nn.Module
            if family == "ConvLLaVA":
                beside = tower_folder(folder, str(place))
                tower = ConvNextTower(_tower_tensors(inner, beside, say), kind)
                size = _square(folder, beside, config)
                side, projector = size // tower.stride, MlpProjector(tower.channels, config["hidden_size"])
            else:
                tower = ClipTower(inner, kind)
                size, side = tower.size, SIDE
                projector = LdpNetV2(tower.channels, config["hidden_size"])
            llama = LlamaConfig(**{key: config[key] for key in _LLAMA if key in config})
            language = built(LlamaForCausalLM, llama, speaking, kind, attn_implementation=attention)
        fill(projector, projecting)
        if prompt.size > llama.vocab_size:
            raise MaskgenError(f"{folder}: its tokenizer knows more tokens than its embedding has rows.")
        for part in (tower, projector, language):
            part.to(where, kind).eval()
        return cls(Path(place).name, family, tower, projector, language, prompt, size, side)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.language.device

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """uint8 (height, width, 3), padded to a square and resized, to float32 (3, size, size)."""
        height, width = image.shape[:2]
        longer = max(height, width)
        square = Image.new("RGB", (longer, longer), _BORDER)
        square.paste(Image.fromarray(image), ((longer - width) // 2, (longer - height) // 2))
        resized = np.asarray(square.resize((self.size, self.size), Image.Resampling.BICUBIC))
        return normalise(torch.from_numpy(resized.copy())[None], MEAN, STD)[0]

    @torch.inference_mode()
    def image_tokens(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """The projected tokens, (B, side^2, width), row by row."""
        pixels = torch.stack([self.pixels(image) for image in images])
        tokens: torch.Tensor = self.projector(self.tower(pixels.to(self.device, self.language.dtype)))
        return tokens

    def embedded(self, ids: Sequence[int]) -> torch.Tensor:
        """(T, width)."""
        table = self.language.get_input_embeddings()
        found: torch.Tensor = table(torch.tensor(list(ids), dtype=torch.long, device=self.device))
        return found


def fetched(place: str, only_cached: bool = False) -> Path:
    """The folder of a path or of a published name. MaskgenError if it is not to be had."""
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(place, allow_patterns=_FILES, local_files_only=only_cached)
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise MaskgenError(
            f"{place} is neither a folder nor in the hub's cache, and cannot be downloaded "
            f"({type(error).__name__}). Where there is a network: hf download {place}."
        ) from error
    return Path(folder)


def _family(folder: Path, config: dict[str, Any], tower: Collection[str]) -> str:
    """By the tower's tensors, since configurations of other models look alike."""
    projector, named = config.get("mm_projector_type"), str(config.get("mm_vision_tower"))
    if projector == "mlp2x_gelu" and any(name.startswith("encoder.stages.") for name in tower):
        return "ConvLLaVA"
    if projector == "mlp2x_gelu" and not tower and "convnext" in named.lower():
        return "ConvLLaVA"
    if projector == "ldpnetv2" and any(name.startswith("vision_model.") for name in tower):
        return "MobileVLM V2"
    raise MaskgenError(
        f"{folder} is neither a ConvLLaVA nor a MobileVLM V2: it has the projector {projector} on {named}. "
        "Of LLaVA-1.5 give transformers' own format, such as llava-hf's."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' own report of what does not fit is left out: it is an error here."""
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def tower_folder(folder: Path, place: str) -> Path | None:
    """The folder that the configuration names as ConvLLaVA's tower: there, beside the model's, or in the
    hub's cache; of a model by its published name, `place`, from the hub. None of another model.
    """
    named = str(read_object(folder / "config.json").get("mm_vision_tower", ""))
    if "convnext" not in named.lower():
        return None
    for candidate in (Path(named), folder / named, folder.parent / Path(named).name):
        if (candidate / "config.json").is_file():
            return candidate
    if not PUBLISHED.fullmatch(named):
        return None
    try:
        return fetched(named, only_cached=not PUBLISHED.fullmatch(place))
    except MaskgenError:
        return None


def _tower_tensors(inner: dict[str, torch.Tensor], tower: Path | None, say: Say) -> dict[str, torch.Tensor]:
    """The tower's own repository is what the authors' code uses; the checkpoint holds a second copy."""
    if tower is None:
        say("the vision tower is the checkpoint's own copy: a folder of its own is not there")
        return inner
    found = weight_files.read(tower)
    found = weight_files.under("convnext.", found) or found
    shared = [name for name in found if name in inner and found[name].shape == inner[name].shape]
    apart = max(
        (float((found[name].float() - inner[name].float()).abs().max()) for name in shared), default=0.0
    )
    say(f"the vision tower is that of {tower}; it differs from the checkpoint's copy by {apart:.3g} at most")
    return found


def _square(folder: Path, tower: Path | None, config: dict[str, Any]) -> int:
    """Pixels a side: of the tower's own files, or else the number its name ends in."""
    if tower is not None:
        size = read_object(tower / "preprocessor_config.json").get("size")
        found = size.get("shortest_edge") if isinstance(size, dict) else size
        found = found or read_object(tower / "config.json").get("image_size")
        if isinstance(found, int) and found > 0:
            return found
    ends = re.search(r"-(\d+)/?$", str(config["mm_vision_tower"]))
    if ends is None:
        raise MaskgenError(
            f"{folder} does not say how large its pictures are. Put its tower's folder beside it, named "
            f"{Path(str(config['mm_vision_tower'])).name}."
        )
    return int(ends[1])
