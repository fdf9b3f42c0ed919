"""Segment Anything at small sizes: the package's own `Sam` class, written to and read from a folder."""

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from maskgen.errors import MaskgenError


@dataclass(frozen=True)
class SamSizes:
    """A Sam of any size.

    `image`: pixels a side of the padded input. `patch`: pixels a side of a token. `width`, `depth`,
    `heads`, `window` (tokens a side) are the image encoder's; the blocks in `global_blocks` attend to
    the whole image. `prompt_width` (a multiple of 8) and `feed_forward` are the mask decoder's.
    """

    image: int
    patch: int
    width: int
    depth: int
    heads: int
    window: int
    global_blocks: tuple[int, ...]
    prompt_width: int
    decoder_heads: int
    feed_forward: int


TINY = SamSizes(
    image=64,
    patch=8,
    width=16,
    depth=2,
    heads=2,
    window=4,
    global_blocks=(1,),
    prompt_width=16,
    decoder_heads=2,
    feed_forward=32,
)

DEMO = SamSizes(
    image=128,
    patch=8,
    width=128,
    depth=6,
    heads=4,
    window=8,
    global_blocks=(2, 5),
    prompt_width=128,
    decoder_heads=4,
    feed_forward=256,
)


def create(sizes: SamSizes) -> Sam:
    """An untrained Sam; draws its weights from torch's global random generator."""
    cells = sizes.image // sizes.patch
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=sizes.image,
            patch_size=sizes.patch,
            embed_dim=sizes.width,
            depth=sizes.depth,
            num_heads=sizes.heads,
            out_chans=sizes.prompt_width,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=sizes.window,
            global_attn_indexes=sizes.global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=sizes.prompt_width,
            image_embedding_size=(cells, cells),
            input_image_size=(sizes.image, sizes.image),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=sizes.prompt_width,
                mlp_dim=sizes.feed_forward,
                num_heads=sizes.decoder_heads,
            ),
            transformer_dim=sizes.prompt_width,
            iou_head_depth=3,
            iou_head_hidden_dim=sizes.prompt_width,
        ),
    )
    return sam.eval()


def build(folder: str | Path, sizes: SamSizes, seed: int) -> None:
    """Write an untrained Sam to `folder`; equal arguments write equal bytes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save(folder, create(sizes), sizes)


def save(folder: str | Path, sam: Sam, sizes: SamSizes) -> None:
    """Write `sam`'s weights and sizes to `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in sam.state_dict().items()}, _weights(folder))
    _config(folder).write_text(json.dumps(asdict(sizes), indent=2) + "\n")


def load(folder: str | Path) -> Sam:
    """The Sam that `save` wrote to `folder`, on the CPU, in eval mode."""
    folder = Path(folder)
    try:
        tree = json.loads(_config(folder).read_text())
        sam = create(SamSizes(**{**tree, "global_blocks": tuple(tree["global_blocks"])}))
        sam.load_state_dict(load_file(_weights(folder)), strict=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise MaskgenError(
            f"{folder} holds no small SAM that can be read ({type(error).__name__}). Write the folder again."
        ) from error
    return sam


def _weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def _config(folder: Path) -> Path:
    return folder / "config.json"
