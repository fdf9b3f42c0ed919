"""Started by torchrun in a test: writes the gradients of stage 4's first step, guidance included."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.small_training import small
from maskgen.training import loop
from maskgen.training.checkpoint import whole
from maskgen.training.data_loader import Feed
from maskgen.training.launch import world
from maskgen.training.trainer import Request, prepare

model, data, to, micro, parallel = sys.argv[1:]
torch.set_num_threads(1)
options = [f"resources.micro_batch={micro}", f"resources.parallel={parallel}", "stages.4.losses.guidance=1"]
with world() as here:
    request = Request(small(*options), model, {"pretrain": [data], "finetune": [data]}, "unused")
    leg = prepare(request, here, 4, model)
    step = next(iter(Feed(leg.batches, leg.each, 0, 0, here.device)))  # type: ignore[arg-type]
    counts, _ = loop.agree(leg, step, False)
    loop.accumulate(leg, step, counts)
    found = {
        name: whole(parameter.grad)
        for name, parameter in leg.wrapped.bare.named_parameters()
        if parameter.grad is not None
    }
    if here.is_main:
        torch.save(found, to)
    here.wait()
