"""A model's parameters by the columns of Table 1, the parts that a recipe trains or freezes."""

from torch import nn


def parameter_names_by_part(model: nn.Module) -> dict[str, list[str]]:
    """The parameter names of each part; "vision.last_stage" and "vision.last_block" lie within "vision".

    A part that the architecture does not have is empty. The output layer counts as the LLaMA's own, also
    where it shares the embeddings' weights.
    """
    names = [name for name, _ in model.named_parameters()]
    stages = sorted({name.split(".")[4] for name in names if name.startswith("model.vision.encoder.stages.")})
    last_stage = f"model.vision.encoder.stages.{stages[-1]}."
    blocks = {int(name.split(".")[6]) for name in names if name.startswith(f"{last_stage}layers.")}
    prefixes = {
        "vision": ("model.vision.",),
        "vision.last_stage": (last_stage,),
        "vision.last_block": (f"{last_stage}layers.{max(blocks)}.",),
        "adapter": ("model.adapter.",),
        "cross_attention": ("model.cross.",),
        "language": ("model.language.", "lm_head."),
    }
    return {part: [name for name in names if name.startswith(start)] for part, start in prefixes.items()}
