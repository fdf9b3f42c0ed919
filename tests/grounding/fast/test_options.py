"""The engine's options: wired to what they say, and part of what a set is made from."""

import pytest
from torch import nn

from maskgen import config
from maskgen.grounding.fast.compiled import Compiled
from maskgen.grounding.fast.fp8 import Fp8Linear
from maskgen.grounding.florence2 import Florence2Proposer
from maskgen.grounding.sam import SamRefiner
from maskgen.pipeline.fingerprint import digest, identity


def linears(module: nn.Module, kind: type) -> int:
    return sum(isinstance(each, kind) for each in module.modules())


@pytest.mark.parametrize(
    "option", ["proposer.exact", "proposer.fp8", "proposer.compile", "refiner.fp8", "refiner.compile"]
)
def test_options_are_part_of_the_fingerprint(option):
    plain, other = config.load("demo"), config.load("demo", overrides=[f"{option}=true"])
    assert digest(identity(plain, "", [])) != digest(identity(other, "", []))


def test_the_proposers_options_reach_its_encoders():
    settings = {"model": "demo", "dtype": "float32"}
    plain = Florence2Proposer(config.Florence2.model_validate(settings), "cpu")
    other = Florence2Proposer(
        config.Florence2.model_validate(settings | {"fp8": True, "compile": True}), "cpu"
    )
    for part in ("vision_tower", "language_model.encoder"):
        assert linears(plain.model.model.get_submodule(part), Fp8Linear) == 0
        assert linears(other.model.model.get_submodule(part), Fp8Linear) > 0
    assert plain.generator is not None and other.generator is not None
    assert not plain.generator.encoder.compiled
    assert other.generator.encoder.compiled


def test_the_refiners_options_reach_its_encoder():
    plain = SamRefiner(config.Sam(model="demo", checkpoint=""), "cpu")
    other = SamRefiner(config.Sam(model="demo", checkpoint="", fp8=True, compile=True), "cpu")
    assert linears(plain.sam.image_encoder, Fp8Linear) == 0 < linears(other.sam.image_encoder, Fp8Linear)
    assert isinstance(other._encoder, Compiled) and not isinstance(plain._encoder, Compiled)
