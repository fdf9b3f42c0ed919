"""Started by torchrun in a test: writes the gradients of stage 4's first step, guidance included."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.small_training import small
from maskgen.training import loop
from maskgen.training.checkpoint import to_full_tensor
from maskgen.training.data_loader import StepLoader
from maskgen.training.launch import init_world
from maskgen.training.trainer import TrainRequest, prepare_stage

model, data, to, micro, parallel = sys.argv[1:]
torch.set_num_threads(1)
options = [f"resources.micro_batch={micro}", f"resources.parallel={parallel}", "stages.4.losses.guidance=1"]
with init_world() as here:
    request = TrainRequest(small(*options), model, {"pretrain": [data], "finetune": [data]}, "unused")
    run = prepare_stage(request, here, 4, model)
    step = next(iter(StepLoader(run.batches, 0, 0, here.device)))  # type: ignore[arg-type]
    counts, _ = loop.global_counts(run, step, False)
    loop.accumulate(run, step, counts)
    found = {
        name: to_full_tensor(parameter.grad)
        for name, parameter in run.parallel_model.module.named_parameters()
        if parameter.grad is not None
    }
    if here.is_main:
        torch.save(found, to)
    here.wait()
