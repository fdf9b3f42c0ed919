"""SAM's image encoder at each batch and dtype, the package's own beside it, and what comes after it."""

import torch

from card.models import given, untrained_masker
from card.part import Setting, Step
from card.profiles import profiled
from card.record import Record
from card.segmenting import scenes
from maskgen import config
from maskgen.flops import counted
from maskgen.geometry import Frame
from maskgen.grounding.fast.sam_forward import ImageEncoder
from maskgen.grounding.sam import SamRefiner
from maskgen.runtime.clock import typical


def encoder(setting: Setting, record: Record) -> None:
    """Milliseconds an image."""
    sizes = [(torch.bfloat16, 8), (torch.bfloat16, 4), (torch.bfloat16, 16), (torch.float16, 8)]
    for dtype, batch in [*sizes, (torch.float32, 4)]:
        _one(setting, record, dtype, batch if not setting.small else 2, ours=True)
        if setting.small:
            break
    _one(setting, record, torch.bfloat16, 8 if not setting.small else 2, ours=False)


@torch.inference_mode()
def _one(setting: Setting, record: Record, dtype: torch.dtype, batch: int, ours: bool) -> None:
    made = untrained_masker(not setting.small, setting.device).image_encoder.to(dtype)
    run = ImageEncoder(made) if ours else made
    side = made.img_size
    pixels = torch.randn(batch, 3, side, side, device=setting.device, dtype=dtype)
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.device)
    took = typical(lambda: run(pixels), setting.device, 0.2 if setting.small else 1.0)
    name = f"{str(dtype).removeprefix('torch.')}, batch {batch}{'' if ours else ', the package'}"
    flops = _flops(setting.small)
    record.figure(f"{name}: an image", 1e3 * took / batch, "ms", f"{flops * batch / took / 1e12:.1f} TFLOP/s")
    if setting.device.type == "cuda":
        record.figure(f"{name}: peak memory", torch.cuda.max_memory_allocated(setting.device) / 1e9, "GB")


def _flops(small: bool) -> float:
    """Of an image."""
    made = untrained_masker(not small, torch.device("meta")).image_encoder
    with torch.device("meta"), torch.no_grad():
        return counted(lambda: made(torch.zeros(1, 3, made.img_size, made.img_size)))


@torch.inference_mode()
def kernels(setting: Setting, record: Record) -> None:
    """Where the encoder's time goes, and which attention its two kinds of layer get."""
    batch = 2 if setting.small else 8
    made = untrained_masker(not setting.small, setting.device).image_encoder.to(torch.bfloat16)
    pixels = torch.randn(batch, 3, made.img_size, made.img_size, device=setting.device, dtype=torch.bfloat16)
    run = ImageEncoder(made)
    profiled(f"encoder, bfloat16, batch {batch}", lambda: run(pixels), setting.device, record)


def masks(setting: Setting, record: Record) -> None:
    """A whole batch through the refiner: what pixels, prompts, masks and grids add to the encoder."""
    batch = 2 if setting.small else 8
    pictures, regions = scenes(batch)
    model = "demo" if setting.small else "vit_h"
    chosen = config.Sam.model_validate(
        {"model": model, "checkpoint": "", "dtype": "bfloat16", "batch": batch}
    )
    with given(refiner=untrained_masker(not setting.small, setting.device)):
        refiner = SamRefiner(chosen, setting.where, Frame.of(config.Grid()))
    took = typical(lambda: refiner.refine(pictures, regions), setting.device, 0.2 if setting.small else 1.0)
    record.figure(f"refiner, bfloat16, batch {batch}: an image", 1e3 * took / batch, "ms", "pixels to grids")


STEPS: list[Step] = [encoder, masks, kernels]
