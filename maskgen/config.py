"""`pipelines/*.yaml` as typed models: the only place that knows the configuration's shape."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from maskgen import lenient_json
from maskgen.answer_formats import RULES
from maskgen.errors import MaskgenError, did_you_mean

_Model = TypeVar("_Model", bound=BaseModel)


class Section(BaseModel):
    """A part of the file; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_strings(cls, tree: Any) -> Any:
        """In YAML "key:" is null, and so is "key=" of --set; where a string is wanted, it is an empty one."""
        if not isinstance(tree, dict):
            return tree
        strings = {name for name, field in cls.model_fields.items() if field.annotation is str}
        return {key: "" if value is None and key in strings else value for key, value in tree.items()}


def _count(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError('give "auto" or a whole number of at least 1')


Count = Annotated[int | Literal["auto"], PlainValidator(_count)]
"""A number, or what the device that does the work has memory for."""

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""auto: what the device that does the work computes in: bfloat16 on a GPU, float32 on a CPU."""


def settled(count: int | Literal["auto"]) -> int:
    """The number that a setting is once its device is known."""
    assert count != "auto", "a setting is used before the device has resolved it"
    return count


def _leave_to_the_fast_engine(section: Any, *names: str) -> None:
    for name in names:
        if section.engine == "reference" and getattr(section, name):
            raise ValueError(f"{name} belongs to the fast engine; with reference, leave it out")


class Scenes(Section):
    """Drawn scenes with known masks, made on the spot (the offline demo)."""

    count: int = Field(200, ge=1, description="scenes to draw")
    seed: int = Field(1_000_000, ge=0, description="first scene's seed; training uses seeds below 1,000,000")


class Source(Section):
    """Where the rows and the images are, relative to --data."""

    files: list[str] = Field(description="annotation files or glob patterns, under --data")
    images: str = Field(".", description="the image root under --data; may hold tar and zip archives")
    rename: dict[str, str] = Field(
        {}, description="how image paths of rows begin: what stands there in the image root instead"
    )
    ignore_case: bool = Field(False, description="find images whose path differs in letter case alone")
    allow_links_to: list[str] = Field(
        [], description="folders outside --data, absolute, that links among the images may lead to"
    )
    truth: str = Field("", description="known masks (COCO annotations) to score against, under --data")
    scenes: Scenes | None = Field(None, description="draw this source instead of reading one")


class Select(Section):
    """Which rows: the ones with the smallest seeded hash of their identity."""

    count: Annotated[int, Field(ge=1)] | None = Field(None, description="rows that can be grounded")
    fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="share of all rows")
    seed: int = Field(0, description="another seed chooses other rows")
    without: list[str] = Field([], description="finished sets whose rows are left out")
    where: str = Field("", description="a condition in SQL over the rows' own columns: source LIKE '%lvis%'")

    @model_validator(mode="after")
    def _one_of_two(self) -> "Select":
        if self.count is not None and self.fraction is not None:
            raise ValueError("give count or fraction, not both (neither means all rows)")
        return self


class Text(Section):
    """The query t_q that is grounded."""

    query: Literal["caption", "question", "question+answer"] = Field(
        description="caption: the first answer; question: the human's words; question+answer: both"
    )
    turns: Literal["first", "all"] = Field("first", description="of several question-answer pairs")
    max_chars: int = Field(8192, ge=1, description="a longer query is not grounded (text_too_long)")
    strip: list[str] = Field(
        list(RULES), description="rules that cut the form of an answer off a question; []: none"
    )

    @field_validator("strip")
    @classmethod
    def _rules_exist(cls, names: list[str]) -> list[str]:
        if unknown := [name for name in names if name not in RULES]:
            raise ValueError(f"there is no rule {unknown[0]}; there are {', '.join(RULES)}")
        return names


class Florence2(Section):
    """Florence-2 referring-expression segmentation: text to polygons."""

    kind: Literal["florence2"] = "florence2"
    model: str = Field(
        "florence-community/Florence-2-large", min_length=1, description="hub id, local folder, or demo"
    )
    revision: str = Field("main", min_length=1, description="branch, tag or commit on the hub")
    dtype: DType = Field("auto", description="of the weights; auto: bfloat16 on a GPU, float32 on a CPU")
    batch: Count = Field(
        "auto", description="images a forward pass; halved when memory runs out; auto: by the device"
    )
    engine: Literal["fast", "reference"] = Field(
        "fast", description="fast: answers are written side by side; reference: transformers' own generate"
    )
    slots: Count = Field("auto", description="fast: answers written at a time; auto: by the device's memory")
    exact: bool = Field(False, description="fast: decode in float32, whatever the encoders' dtype")
    fp8: bool = Field(False, description="fast: 8-bit linear layers in the encoders; other masks")
    compile: bool = Field(False, description="fast: the image encoder compiled; minutes at the start")
    num_beams: int | None = Field(None, ge=1, description="null: the checkpoint's own setting")
    max_new_tokens: int | None = Field(None, ge=1, description="null: the checkpoint's own setting")

    @model_validator(mode="after")
    def _options_are_the_fast_engines(self) -> "Florence2":
        _leave_to_the_fast_engine(self, "exact", "fp8", "compile")
        return self

    @property
    def together(self) -> int:
        """Samples that the proposer is given at once: enough to keep every slot busy most of the time."""
        batch = settled(self.batch)
        return max(batch, 3 * settled(self.slots)) if self.engine == "fast" else batch


class Recorded(Section):
    """Polygons or boxes from a file instead of a model."""

    kind: Literal["recorded"] = "recorded"
    file: str = Field(
        min_length=1,
        description="COCO, Label Studio's JSON, {image: [{label, polygon}]}, or YOLO's folder, under --data",
    )
    match: Literal["image", "label"] = Field(
        "image", description="image: all of an image's shapes; label: those whose label the query names"
    )


class NoProposer(Section):
    """Nothing is asked: the rows are packed for the language-model loss alone, without a model."""

    kind: Literal["none"] = "none"
    text_only: Literal["keep", "drop"] = Field(
        "keep", description="rows without an image: packed with a stand-in, or left out as no_image"
    )


class Sam(Section):
    """Segment Anything: box (and points, and prior) to mask."""

    kind: Literal["sam"] = "sam"
    model: Literal["vit_h", "vit_l", "vit_b", "demo"] = "vit_h"
    checkpoint: str = Field(
        "sam_vit_h_4b8939.pth", description="the official file; for demo a folder, or empty"
    )
    dtype: DType = Field("auto", description="of the image encoder; auto: bfloat16 on a GPU, else float32")
    batch: Count = Field(
        "auto", description="images an encoder pass; halved when memory runs out; auto: by the device"
    )
    engine: Literal["fast", "reference"] = Field(
        "fast",
        description="fast: fused attention, prompts of many images at once; reference: the package's own",
    )
    fp8: bool = Field(False, description="fast: 8-bit linear layers in the image encoder; other masks")
    compile: bool = Field(False, description="fast: the image encoder compiled; minutes at the start")
    prompt: Literal["box", "box+points", "box+points+prior"] = Field(
        "box", description="what of the polygon SAM is shown"
    )
    points: int = Field(3, ge=1, description="interior points, with box+points")
    min_agreement: float = Field(
        0.3, ge=0, le=1, description="IoU of mask and polygon below which the outcome is sam_disagrees"
    )
    on_disagreement: Literal["keep", "polygon"] = Field(
        "keep", description="keep SAM's mask, or put the polygon in its place"
    )

    @model_validator(mode="after")
    def _options_are_the_fast_engines(self) -> "Sam":
        _leave_to_the_fast_engine(self, "fp8", "compile")
        return self


class NoRefiner(Section):
    """The polygon itself is the mask."""

    kind: Literal["none"] = "none"


class Grid(Section):
    """From the mask to M': the trainer's geometry (Appendix C: 768 x 768, 24 x 24 tokens)."""

    fit: Literal["squash", "pad", "crop"] = Field("squash", description="how an image fills the square")
    size: int = Field(768, ge=1, le=2**16, description="pixels a side")
    cells: int = Field(24, ge=1, le=2**12, description="tokens a side")


class Shards(Section):
    size: int = Field(1000, ge=1, description="planned rows a shard")


class Limits(Section):
    """What one sample may cost."""

    image_megabytes: int = Field(64, ge=1, le=1000, description="an image file's size at most")
    image_megapixels: int = Field(100, ge=1, le=256, description="an image's pixels at most")

    @property
    def image_bytes(self) -> int:
        return self.image_megabytes * 1_000_000

    @property
    def image_pixels(self) -> int:
        return self.image_megapixels * 1_000_000


class Resources(Section):
    """What a run may use: speed, not content."""

    actors: Annotated[int, Field(ge=1)] | None = Field(
        None, description="null: one a GPU; without GPUs one for every two CPU cores"
    )
    threads: int = Field(4, ge=1, description="an actor's threads that read and decode images")
    picture_megabytes: int = Field(
        1000,
        ge=1,
        description="decoded pictures that an actor holds; at least a batch, which takes 1000 at most",
    )
    stall_seconds: float = Field(900, gt=0, description="an actor without progress this long is killed")
    failure_budget: float = Field(
        0.05, ge=0, le=1, description="share of failed samples above which the run exits with 2"
    )
    metrics_file: str = Field(
        "",
        description="where the run's figures go as Prometheus text, on the driver's machine",
    )


class Config(Section):
    """One grounding run, from rows to shards."""

    split: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    source: Source
    select: Select = Select()
    text: Text
    proposer: Annotated[Florence2 | Recorded | NoProposer, Field(discriminator="kind")] = Florence2()
    refiner: Annotated[Sam | NoRefiner, Field(discriminator="kind")] = Sam()
    quality: Literal["none", "signals", "mirror"] = Field(
        "none",
        description="signals: note in the index how sure the models were; mirror: ask about the mirrored "
        "picture too, one more pass of Florence-2",
    )
    grid: Grid = Grid()
    shards: Shards = Shards()
    limits: Limits = Limits()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _quality_is_the_models(self) -> "Config":
        if self.quality != "none" and not isinstance(self.proposer, Florence2):
            raise ValueError("quality is measured on Florence-2's answers: leave it out with others")
        return self


def pipelines_folder() -> Path:
    """The folder with the shipped YAML files."""
    return Path(__file__).parent / "pipelines"


def shipped(kind: str = "split") -> list[str]:
    """Names that --split accepts; with `kind` "recipe", the files of the training recipes.

    Both lie in one folder: a file says what it is by its top-level key, `split:` or `recipe:`.
    """
    paths = sorted(pipelines_folder().glob("*.yaml"))
    return [path.stem for path in paths if re.search(rf"^{kind}:", path.read_text(), re.MULTILINE)]


def load(split: str = "", file: str = "", overrides: list[str] | None = None) -> Config:
    """The shipped pipeline `split`, or `file`, with `overrides` ("select.count=100") laid over it."""
    if split and file:
        raise MaskgenError("--split names a shipped pipeline and --config a file: give one of them.")
    if not file and split not in shipped():
        if split in shipped("recipe"):
            raise MaskgenError(
                f"{split} is a training recipe, not a split. Give it to maskgen train as --recipe."
            )
        near = did_you_mean(split, shipped())
        wrong = f"there is no split {split}.{near}" if split else "no split is given."
        raise MaskgenError(f"{wrong} Give --split one of {', '.join(shipped())}, or --config FILE.")
    path = Path(file) if file else pipelines_folder() / f"{split}.yaml"
    if not path.is_file():
        raise MaskgenError(f"--config {path}: there is no such file. Check the path, or give --split NAME.")
    tree = read_tree(path, "maskgen config --split pretrain")
    if "recipe" in tree and "split" not in tree:
        raise MaskgenError(f"{path} is a training recipe, not a split. Give it to maskgen train as --recipe.")
    for override in overrides or []:
        lay_over(tree, override)
    return parse(tree, str(path), overrides)


def parse(tree: dict[str, Any], where: str, overrides: list[str] | None = None) -> Config:
    """`tree` as a Config, `overrides` in it already; what is wrong is said with place, key and remedy."""
    return validated(Config, tree, where, overrides)


def read_tree(path: Path, example: str) -> dict[str, Any]:
    """The keys of a YAML or JSON file; `example` is the command that prints a file to start from."""
    if path.stat().st_size > _YAML_BYTES:
        raise MaskgenError(f"{path} has over {_YAML_BYTES / 1e6:.0f} MB, so it is no configuration.")
    try:
        tree = _yaml_or_json(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MaskgenError(f"{path} is not YAML: {_one_line(error)}. Mend the file.") from error
    if not isinstance(tree, dict):
        raise MaskgenError(f"{path} holds no keys. Start from a shipped file: {example}.")
    return tree


def _yaml_or_json(data: bytes) -> Any:
    """JSON is read by its own reader: YAML 1.1 takes no tabs, and 1e-5 for a word."""
    try:
        return lenient_json.loads(data)
    except (ValueError, RecursionError):
        return _parsed_yaml(data)


def _parsed_yaml(text: str | bytes) -> Any:
    """What the text holds; YAMLError too where aliases would make far more of it than is written, or where it
    is nested too deep for the parser."""
    sizes: dict[str, int] = {}  # nodes by anchor, aliases counted as what they stand for
    open_nodes: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > _YAML_DEPTH:
                raise yaml.YAMLError(f"it is nested more than {_YAML_DEPTH} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.NodeEvent):
            anchor = event.anchor
            size = sizes.get(anchor or "", 1) if isinstance(event, yaml.AliasEvent) else 1
        else:
            continue
        if anchor and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        if open_nodes:
            above, before = open_nodes[-1]
            open_nodes[-1] = above, before + size
            if before + size > _YAML_NODES:
                raise yaml.YAMLError(f"with its aliases it has more than {_YAML_NODES:,} values")
    return yaml.safe_load(text)


def validated(
    model: type[_Model], tree: dict[str, Any], where: str, overrides: list[str] | None = None
) -> _Model:
    """`tree` as a `model`; what is wrong is said with place, key and remedy, a line each.

    The place is the override that a problem comes from, else the file `where`.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(problem, where, model, overrides or []) for problem in error.errors()]
        raise MaskgenError("\n".join(lines)) from error


def dump(config: BaseModel) -> str:
    """The resolved configuration as YAML, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def lay_over(tree: dict[str, Any], override: str) -> None:
    """Put "a.b=value" into `tree`; the value is read as YAML, so 5 is a number and null is null."""
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise MaskgenError(f"--set {override}: write KEY=VALUE, for example --set select.count=1000.")
    *parents, last = path.split(".")
    node = tree
    for name in parents:
        child = node.get(name)
        if not isinstance(child, dict):
            child = node[name] = {}
        node = child
    try:
        parsed = _parsed_yaml(value)
    except yaml.YAMLError as error:
        raise MaskgenError(f"--set {override}: the value is not YAML: {_one_line(error)}.") from error
    if last == "kind" and node.get("kind") != parsed:
        node.clear()  # the other kind's keys do not belong to this one
    node[last] = parsed


_YAML_BYTES, _YAML_NODES, _YAML_DEPTH = 10_000_000, 100_000, 50

_KINDS = {str(one.model_fields["kind"].default) for one in (Florence2, Recorded, NoProposer, Sam, NoRefiner)}


def _explain(problem: Any, where: str, model: type[BaseModel], overrides: list[str]) -> str:
    location = [str(part) for part in problem["loc"] if part not in _KINDS]  # pydantic's, not the file's
    key = ".".join(location) or "(the whole file)"
    kind, given = problem["type"], problem["input"]
    section = location[:-1] if kind == "missing" else location
    typed = next((each for each in reversed(overrides) if _concerns(each, section)), "")
    said = problem["msg"].removeprefix("Value error, ")
    said = said[0].lower() + said[1:] + ("" if isinstance(given, dict | list) else f" (it is {given!r})")
    if kind == "extra_forbidden":
        near = _nearest_key(typed.partition("=")[0] or key, model)
        said = f"there is no such key.{near} maskgen config prints all keys"
    elif kind == "missing":
        said = f"{key} is required"
    elif kind == "union_tag_invalid":
        said = f"there is no such kind; there are {problem['ctx']['expected_tags']}"
    if not typed:
        return f"{where}: {key}: {said}."
    below = f"{key}: " if len(location) > len(typed.partition("=")[0].split(".")) else ""
    return f"--set {typed}: {'' if kind == 'missing' else below}{said}."


def _concerns(override: str, location: list[str]) -> bool:
    """Whether the problem at `location` comes from this override: it lies on the way there, or below it."""
    path = override.partition("=")[0].split(".")
    path = path[:-1] if path[-1] == "kind" else path
    shared = min(len(path), len(location))
    return path[:shared] == location[:shared]


def _nearest_key(given: str, model: type[BaseModel]) -> str:
    """See `did_you_mean`; of a key that was given without its section, that key."""
    number = next((part for part in given.split(".") if part.isdecimal()), "1")
    known = [key.replace("*", number) for key in _dotted_keys(model)]
    same = [key for key in known if key.rpartition(".")[2] == given.rpartition(".")[2]]
    return f" Did you mean {min(same, key=len)}?" if same else did_you_mean(given, known)


def _dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of a file, "stages.*.lr" for one under any name."""
    for name, field in model.model_fields.items():
        yield prefix + name
        below = f"{prefix}{name}.*." if get_origin(field.annotation) is dict else f"{prefix}{name}."
        for section in _sections(field.annotation):
            yield from _dotted_keys(section, below)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation: itself, or those of a union or a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
