"""Florence-2 as a proposer: the query's words and the pixels to polygons (Section 3.2.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoProcessor, Florence2ForConditionalGeneration
from transformers.utils import logging

from maskgen.config import Florence2, settled
from maskgen.errors import MaskgenError
from maskgen.grounding import weights
from maskgen.grounding.auto_settings import resolve_model
from maskgen.grounding.fast.decoder_weights import DecoderWeights
from maskgen.grounding.fast.fp8 import use_fp8
from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.generator import Generator
from maskgen.grounding.fast.preprocessing import Florence2Images
from maskgen.grounding.mirroring import mirrored_picture, mirrored_polygons, mirrored_text
from maskgen.runtime import spans
from maskgen.runtime.lfs_pointers import refuse_lfs_pointers
from maskgen.runtime.spans import span
from maskgen.sample import Picture, Proposal, Sample, Signals

TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"

# The length that the model's authors generate with; the published checkpoints record none.
PUBLISHED_LENGTH = 1024

# Florence-2 writes a coordinate as one of 1000 places along the image's side.
PLACES = 1000


@dataclass(frozen=True)
class Answer:
    """What the model wrote: `ids` without decoder start and padding, the end token included. `log_probs`,
    `end_prob`: as `WrittenAnswer`'s, where they are kept.
    """

    ids: list[int]
    truncated: bool
    log_probs: list[float] = field(default_factory=list)
    end_prob: float = 0.0


class Florence2Proposer:
    """A `Proposer` around a checkpoint in transformers' native format: hub id, local folder or `demo`.

    Generates with the checkpoint's own settings, apart from what `config` overrides, and never samples.

    `model`, `processor`: as transformers has them; `generation`: the GenerationConfig; `generator`:
    the fast engine, None if it is the model's `generate` that answers.
    """

    def __init__(self, config: Florence2, device: str, quality: str = "none"):
        """`quality`: what is measured, see `Config`. Raises MaskgenError if the checkpoint is missing,
        damaged, or of another kind.
        """
        self._quality = quality
        self._config = config = resolve_model(config, device)
        self._device = torch.device(device)
        self.model, self.processor = _load(config)
        self.model.to(self._device)
        self._positions = int(self.model.config.text_config.max_position_embeddings)
        generation = self.model.generation_config
        generation.do_sample = False
        generation.num_beams = config.num_beams or generation.num_beams or 1
        generation.max_new_tokens = min(config.max_new_tokens or _own_length(generation), self._positions)
        generation.max_length = None
        self.generation = generation
        ends = generation.eos_token_id
        self._ends: list[int] = ends if isinstance(ends, list) else [ends]
        first = self.processor.tokenizer.convert_tokens_to_ids("<loc_0>")
        self._places = range(first, first + PLACES)
        self.generator: Generator | None = None
        self._images: Florence2Images | None = None
        if config.engine == "fast":
            self.generator, self._images = self._fast()
        else:
            inner = self.model.model
            for module in (inner.vision_tower, inner.multi_modal_projector, inner.language_model.encoder):
                spans.trace(module, "florence2.encode")
            spans.trace(self.model, "florence2.decode")

    def propose(self, pictures: list[Picture], samples: list[Sample]) -> list[Proposal]:
        """One Proposal a sample, with all polygons of its answer. See `Proposer.propose`.

        An answer that ends only because it reached the length limit is `truncated`; so is one whose end
        token stands exactly at the limit, as the checkpoints force one there.
        """
        if not samples:
            return []
        with span("florence2.search"):
            return self._propose(pictures, samples)

    def _propose(self, pictures: list[Picture], samples: list[Sample]) -> list[Proposal]:
        prompts = [self.prompt(sample.query.text) for sample in samples]
        answers = self._generate(pictures, [ids for ids, _ in prompts])
        mirrored = self._mirrored(pictures, samples)
        return [
            Proposal(
                polygons=self._polygons(answer, picture),
                truncated=answer.truncated,
                query_truncated=cut,
                tokens=len(answer.ids),
                signals=None if self._quality == "none" else self._signals(answer),
                mirrored=again,
            )
            for picture, answer, (_, cut), again in zip(pictures, answers, prompts, mirrored, strict=True)
        ]

    def _mirrored(self, pictures: list[Picture], samples: list[Sample]) -> Sequence[list[np.ndarray] | None]:
        """What is found in the mirrored pictures, mirrored back; None where it is not asked for."""
        if self._quality != "mirror":
            return [None] * len(samples)
        others = [mirrored_picture(picture) for picture in pictures]
        prompts = [self.prompt(mirrored_text(sample.query.text))[0] for sample in samples]
        answers = self._generate(others, prompts)
        return [
            mirrored_polygons([] if answer.truncated else self._polygons(answer, other), other.width)
            for answer, other in zip(answers, others, strict=True)
        ]

    def _signals(self, answer: Answer) -> Signals:
        """How sure the model was of the answer's tokens, the forced beginning left out."""
        begins = int(self.generation.forced_bos_token_id is not None)
        written = list(zip(answer.ids, answer.log_probs, strict=False))[begins:]
        structure = [score for token, score in written if token not in self._places]
        return Signals(
            min_log_prob=min((score for _, score in written), default=None),
            structure_log_prob=sum(structure) / len(structure) if structure else None,
            end_prob=answer.end_prob,
        )

    def describe(self) -> dict[str, object]:
        """The checkpoint and the settings that decide its answers. See `Proposer.describe`."""
        generation = self.generation
        return {
            "kind": self._config.kind,
            "model": self._config.model,
            "commit": getattr(self.model.config, "_commit_hash", None) or "",
            "task": TASK,
            "engine": self._config.engine,
            "dtype": self._config.dtype,
            "exact": self._config.exact,
            "fp8": self._config.fp8,
            "compile": self._config.compile,
            "num_beams": generation.num_beams,
            "max_new_tokens": generation.max_new_tokens,
            "no_repeat_ngram_size": generation.no_repeat_ngram_size or 0,
            "early_stopping": generation.early_stopping or False,
            "length_penalty": 1.0 if generation.length_penalty is None else generation.length_penalty,
            "transformers": version("transformers"),
            **({} if self._quality == "none" else {"quality": self._quality}),
        }

    def prompt(self, query: str) -> tuple[list[int], bool]:
        """Token ids as the processor lays them out (image, `<s>`, task sentence, `</s>`), and whether cut.

        The query's special tokens are read as plain text, so it can neither inject a location nor turn
        into another task. A query too long for the encoder loses its end; the task's words stay.
        """
        tokenizer = self.processor.tokenizer
        sentence = self.processor.task_prompts_with_input[TASK]
        words = self._words(sentence.format(input=query.strip()))
        most = self._positions - self.processor.num_image_tokens - 2
        cut = len(words) > most
        if cut:
            ending = self._words(sentence.partition("{input}")[2])
            words = words[: most - len(ending)] + ending
        image = [self.processor.image_token_id] * self.processor.num_image_tokens
        return [*image, tokenizer.bos_token_id, *words, tokenizer.eos_token_id], cut

    def _words(self, text: str) -> list[int]:
        tokenizer = self.processor.tokenizer
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids

    def _fast(self) -> tuple[Generator, Florence2Images]:
        """The engine; with `exact`, the decoder's weights stay as they were read and the rest is cast."""
        dtype = torch.float32 if self._config.exact else self.model.dtype
        decoder = DecoderWeights.of(self.model, dtype)
        self.model.to(getattr(torch, self._config.dtype))
        if self._config.fp8:
            use_fp8(self.model.model.vision_tower, self._device, "proposer.fp8")
            use_fp8(self.model.model.language_model.encoder, self._device, "proposer.fp8")
        try:
            rules = GenerationRules.of(self.generation, keep_scores=self._quality != "none")
            images = Florence2Images(self.processor.image_processor, self._device)
        except ValueError as error:
            raise MaskgenError(
                f"proposer.model: {self._config.model} says {error}, which the fast engine does "
                "not know. Use --set proposer.engine=reference."
            ) from error
        generator = Generator(
            self.model, rules, settled(self._config.slots), settled(self._config.batch), decoder
        )
        if self._config.compile:
            generator.encoder.compile()
        return generator, images

    def _generate(self, pictures: list[Picture], prompts: list[list[int]]) -> list[Answer]:
        if self.generator is None:
            return self._generate_by_reference(pictures, prompts)
        # A row's picture is often another row's too: it is looked at once.
        numbers = {_identity(picture): place for place, picture in reversed(list(enumerate(pictures)))}
        first = sorted(numbers.values())
        pixels = self._pixels([pictures[place] for place in first])
        order = {place: number for number, place in enumerate(first)}
        images = [order[numbers[_identity(picture)]] for picture in pictures]
        written = self.generator.write(list(pixels), list(zip(images, prompts, strict=True)))
        return [self._answer(each.ids, each.log_probs, each.end_prob) for each in written]

    def _pixels(self, pictures: list[Picture]) -> torch.Tensor:
        """The processor's pixel values, made where the model is."""
        with span("florence2.preprocess"):
            return self._preprocess(pictures)

    def _preprocess(self, pictures: list[Picture]) -> torch.Tensor:
        arrays = [picture.pixels for picture in pictures]
        if self._images is not None:
            return self._images(arrays)
        pixels: torch.Tensor = self.processor.image_processor(
            arrays,
            input_data_format="channels_last",  # or a picture three pixels high would be taken for planes
            return_tensors="pt",
            device=self._device,
        )["pixel_values"]
        return pixels

    @torch.inference_mode()
    def _generate_by_reference(self, pictures: list[Picture], prompts: list[list[int]]) -> list[Answer]:
        texts = self.processor.tokenizer.pad(
            {"input_ids": prompts}, padding_side="right", return_tensors="pt"
        )
        pixels = self._pixels(pictures)
        inputs = {
            "input_ids": texts["input_ids"].to(self._device),
            "attention_mask": texts["attention_mask"].to(self._device),
            "pixel_values": pixels.to(self._device, self.model.dtype),
            "generation_config": self.generation,
        }
        if self._quality == "none":
            return [self._answer(row) for row in self.model.generate(**inputs).tolist()]
        out = self.model.generate(**inputs, return_dict_in_generate=True, output_logits=True)
        return [
            self._answer(row, *scores)
            for row, scores in zip(out.sequences.tolist(), self._scores(out), strict=True)
        ]

    def _scores(self, out: Any) -> Iterator[tuple[list[float], float]]:
        """Of each answer of `generate`, its tokens' log-probabilities and the probability of an early end."""
        log_probs = torch.stack(out.logits).float().log_softmax(dim=-1)  # (steps, rows * beams, V)
        tokens, steps = out.sequences[:, 1:], torch.arange(len(log_probs), device=self._device)
        beams = getattr(out, "beam_indices", None)
        forced = int(self.generation.forced_bos_token_id is not None)
        for row, own in enumerate(tokens):
            length = min(len(own), len(steps))
            if beams is None:
                source = torch.full((length,), row, device=self._device)
            else:
                source = beams[row, :length].clamp(min=0)
            scores = log_probs[steps[:length], source, own[:length]]
            scores[:forced] = 0
            first = row * self.generation.num_beams
            end = log_probs[forced : forced + 1, first, self._ends].exp().sum()
            yield scores.tolist(), float(end)

    def _answer(self, row: list[int], log_probs: Sequence[float] = (), end_prob: float = 0.0) -> Answer:
        written = row[1:]
        length = next((place + 1 for place, token in enumerate(written) if token in self._ends), len(written))
        truncated = length >= self.generation.max_new_tokens
        return Answer(written[:length], truncated, list(log_probs[:length]), end_prob)

    def _polygons(self, answer: Answer, picture: Picture) -> list[np.ndarray]:
        """The answer's outlines, float64 (n, 2), in pixels: the middle of each place.

        The processor parses, asked for an image of 1000 x 1000 pixels, so that its whole pixels are the
        places themselves. For the real size it would cut coordinates down to whole pixels, which moves
        every outline half a pixel up and left.
        """
        text = self.processor.tokenizer.decode(answer.ids, skip_special_tokens=False)
        parsed = self.processor.post_process_generation(text, task=TASK, image_size=(PLACES, PLACES))
        size = np.array([picture.width, picture.height], dtype=np.float64)
        return [
            (np.array(places, dtype=np.float64).reshape(-1, 2) + 0.5) / PLACES * size
            for instance in parsed[TASK]["polygons"]
            for places in instance
            if places
        ]


def _identity(picture: Picture) -> object:
    """Equal for pictures of the same bytes."""
    return picture.data or id(picture)


def _load(config: Florence2) -> tuple[Any, Any]:
    """Model (eval mode, CPU) and processor; whatever goes wrong is one sentence with its remedy."""
    folder = weights.florence2_folder(config)
    refuse_lfs_pointers(folder)
    weights.refuse_custom_code(folder)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        kind = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
        if kind != "florence2":
            raise ValueError(f"it is a {kind} model")
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
        model, report = Florence2ForConditionalGeneration.from_pretrained(
            folder,
            dtype=torch.float32 if config.exact else getattr(torch, config.dtype),
            use_safetensors=True,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            raise ValueError(f"{len(report['missing_keys'])} weights are missing from it")
        if processor.image_token_id != model.config.image_token_id:
            raise ValueError("its tokenizer is not the one that the model was made with")
    except Exception as error:  # transformers raises nearly every type for a folder it cannot read
        detail = " ".join(str(error).split()).rstrip(".")[:300] or type(error).__name__
        raise MaskgenError(
            f"proposer.model: the checkpoint in {folder} cannot be loaded: {detail}. The folder must hold a "
            "Florence-2 in transformers' native format (config.json, model.safetensors, processor and "
            "tokenizer files), as florence-community/Florence-2-large does; fetch or save it again."
        ) from error
    return model.eval(), processor


def _own_length(generation: Any) -> int:
    if generation.max_new_tokens is not None:
        return generation.max_new_tokens
    if generation.max_length is not None:
        return generation.max_length - 1  # max_length counts the decoder's start token too
    return PUBLISHED_LENGTH
