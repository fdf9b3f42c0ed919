"""`maskgen explain`: what each stage of a recipe trains and costs, before anything is trained."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from maskgen.age_vlm.meta_model import meta_model
from maskgen.draw import text
from maskgen.errors import MaskgenError
from maskgen.runtime.device import device_name, free_bytes
from maskgen.training import model_folders
from maskgen.training.cost import MetaStage, activation_bytes, sample_flops
from maskgen.training.freezing import freeze, peak_learning_rates
from maskgen.training.metrics import PEAK_FLOPS
from maskgen.training.recipe import Recipe, StageConfig

MFU = 0.45
"""The share of the peak that predicted times reckon with: the trainer's target, not a measurement."""
GPUS = ("A100", "H100")

_ROWS = (
    ("vision, first stages", "vision"),
    ("vision, last stage", "vision.last_stage"),
    ("adapter", "adapter"),
    ("LLM (CA)", "cross_attention"),
    ("LLM (SA)", "language"),
)


@dataclass(frozen=True)
class Module:
    """A column of Table 1 in one stage. `trained`: how many of its parameters; `lr`: their peak rate, if
    any.
    """

    name: str
    parameters: int
    trained: int
    lr: float | None


@dataclass(frozen=True)
class StagePlan:
    """One stage. FLOPs are of one sample with an image and `tokens` text tokens; bytes of one device;
    `hours`: of one GPU of each kind, at `MFU`."""

    stage: int
    modules: list[Module]
    losses: dict[str, float]
    data: str
    samples: int
    steps: int
    size: int
    image_tokens: int
    tokens: int
    forward: float
    backward: float
    guidance: float
    state_bytes: int
    activation_bytes: int
    hours: dict[str, float]

    def bytes_for(self, samples: int, micro_batch: int) -> float:
        """Memory with `samples` at once; `micro_batch`: what `activation_bytes` are of."""
        return self.state_bytes + self.activation_bytes * samples / micro_batch


@dataclass(frozen=True)
class Plan:
    """A recipe on a model."""

    recipe: str
    architecture: str
    self_layers: int
    cross_layers: int
    parameters: int
    micro_batch: int
    stages: list[StagePlan]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def explain(recipe: Recipe, model: str = "") -> Plan:
    """The plan of `recipe` for the model in a folder, or for its own; no weights are loaded or made."""
    config = model_folders.config_of(recipe, model)
    meta = meta_model(config)
    stages = [_stage(recipe, int(name), stage, config, meta) for name, stage in recipe.stages.items()]
    return Plan(
        recipe=recipe.recipe,
        architecture=recipe.architecture,
        self_layers=int(config.text_config.num_hidden_layers),
        cross_layers=config.cross_attention_layers,
        parameters=sum(parameter.numel() for parameter in meta.parameters()),
        micro_batch=recipe.resources.micro_batch,
        stages=stages,
    )


def check_memory(plan: Plan, where: torch.device) -> str:
    """What real steps of every stage will take at most on the device, in a sentence.

    MaskgenError if it is more than what is free there. A GPU says itself when a micro-batch does not fit, so
    there only weights, gradients and optimiser count; a machine's own memory must not run out.
    """
    free, micro = free_bytes(where), plan.micro_batch
    stage = max(plan.stages, key=lambda stage: stage.bytes_for(micro, micro))
    needed, fixed = stage.bytes_for(micro, micro), max(stage.state_bytes for stage in plan.stages)
    demand = (
        f"takes about {text.size(needed)} at most (stage {stage.stage}, {micro} samples at once), and "
        f"{text.size(free)} are free on {device_name(where)}"
    )
    if (fixed if where.type == "cuda" else needed) <= free:
        return f"measuring {demand}"
    raise MaskgenError(f"--measure {demand}. {_smaller(plan, free)}")


def _smaller(plan: Plan, free: int) -> str:
    """What to ask for instead."""
    samples = plan.micro_batch
    while samples and any(stage.bytes_for(samples, plan.micro_batch) > free for stage in plan.stages):
        samples //= 2
    if samples:
        return f"--set resources.micro_batch={samples} fits."
    return "Not even one sample at once fits: give the folder of a smaller --model, or a larger machine."


def render(plan: Plan) -> str:
    """The plan for a person."""
    layers = f"{plan.self_layers} self-attention and {plan.cross_layers} cross-attention layers"
    lines = [f"{plan.recipe}: {plan.architecture}, {_millions(plan.parameters)} parameters, {layers}"]
    for stage in plan.stages:
        lines += ["", *_render_stage(stage, plan.micro_batch)]
    lines += [
        "",
        f"FLOPs are counted on the model without weights, 2 a multiply-add, backward only where it is "
        "needed. Times are "
        f"reckoned at an MFU of {MFU:.0%} of the makers' dense bf16 peaks ({_peaks()}): a target, not a "
        "measurement. "
        "maskgen explain --measure measures this machine.",
    ]
    return "\n".join(lines)


def _stage(recipe: Recipe, number: int, stage: StageConfig, config: Any, meta: Any) -> StagePlan:
    peaks = peak_learning_rates(meta, stage)
    freeze(meta, peaks)
    samples = recipe.data.expected.get(stage.data, 0) * stage.epochs
    tokens = recipe.data.expected_tokens
    price = sample_flops(config, stage)
    forward, backward = price.forward(tokens), price.backward(tokens)
    sizes = {name: parameter.numel() for name, parameter in meta.named_parameters()}
    trained = sum(sizes[name] for name in peaks)
    micro = recipe.resources.micro_batch
    dtype = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    return StagePlan(
        stage=number,
        modules=_modules(meta, sizes, peaks),
        losses={str(name): weight for name, weight in stage.losses.items()},
        data=stage.data,
        samples=samples,
        steps=-(-samples // recipe.batch),
        size=stage.size,
        image_tokens=(stage.size // config.stride) ** 2,
        tokens=tokens,
        forward=forward,
        backward=backward,
        guidance=price.query,
        state_bytes=_state_bytes(sum(sizes.values()), trained, recipe.precision),
        activation_bytes=micro * activation_bytes(MetaStage.of(config, stage), stage.size, tokens, dtype),
        hours={gpu: samples * (forward + backward) / (PEAK_FLOPS[gpu] * MFU) / 3600 for gpu in GPUS},
    )


def _state_bytes(parameters: int, trained: int, precision: str) -> int:
    """Weights on the device; of what trains also a gradient and AdamW's two moments in float32.

    In bfloat16 the device holds a copy of all weights and the float32 ones of what trains.
    """
    return 2 * parameters + 16 * trained if precision == "bf16" else 4 * parameters + 12 * trained


def _modules(meta: Any, sizes: dict[str, int], peaks: dict[str, float]) -> list[Module]:
    parts = meta.parts()
    found = []
    for name, part in _ROWS:
        members = set(parts.get(part, []))
        if part == "vision":
            members -= set(parts["vision.last_stage"])
        if members:
            rates_here = [peaks[member] for member in members if member in peaks]
            found.append(
                Module(
                    name,
                    sum(sizes[member] for member in members),
                    sum(sizes[member] for member in members if member in peaks),
                    max(rates_here, default=None),
                )
            )
    return found


def _render_stage(stage: StagePlan, micro: int) -> list[str]:
    losses = " + ".join(_loss(name, weight) for name, weight in stage.losses.items())
    head = (
        f"stage {stage.stage}: {losses}; {stage.samples:,} {stage.data} samples in {stage.steps:,} steps; "
        f"{stage.size} x {stage.size} pixels, {stage.image_tokens} image tokens"
    )
    rows = [("  module", "parameters", "", "lr")]
    for module in stage.modules:
        state = (
            "frozen" if not module.trained else "trained" if module.trained == module.parameters else "partly"
        )
        rows.append(
            (
                f"  {module.name}",
                _millions(module.parameters),
                state,
                f"{module.lr:g}" if module.lr else "",
            )
        )
    hours = ", ".join(f"{_hours(hours)} on one {gpu}" for gpu, hours in stage.hours.items())
    return [
        head,
        *text.table(rows, right=frozenset({1})),
        f"  a sample ({stage.tokens} text tokens): {stage.forward / 1e9:,.1f} GFLOP forward, "
        f"{stage.backward / 1e9:,.1f} backward"
        + (f"; guidance {stage.guidance / 1e6:,.2f} MFLOP a query token" if stage.guidance else ""),
        f"  memory: {text.size(stage.state_bytes)} weights, gradients and optimiser; about "
        f"{text.size(stage.activation_bytes)} activations for {micro} samples",
        f"  time: {hours}",
    ]


def _loss(name: str, weight: float) -> str:
    if not weight:
        return f"({name} measured)"
    label = {"lm": "LM loss", "guidance": "guidance loss"}[name]
    return label if weight == 1 else f"{weight:g} x {label}"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 0.1 else text.duration(3600 * hours)


def _peaks() -> str:
    return ", ".join(f"{gpu} {PEAK_FLOPS[gpu] / 1e12:.0f} TFLOP/s" for gpu in GPUS)
