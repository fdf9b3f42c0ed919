"""The pipeline files: typed, overridable, and wrong ones explained."""

from pathlib import Path

import pytest
import yaml

from maskgen import config
from maskgen.errors import MaskgenError


@pytest.mark.parametrize("split", config.shipped())
def test_a_shipped_file_is_named_after_its_split_and_survives_its_own_dump(split):
    loaded = config.load(split)
    assert loaded.split == split
    assert config.parse(yaml.safe_load(config.dump(loaded)), "the dump") == loaded


def test_the_shipped_counts_are_the_papers():
    assert config.load("pretrain").select.count == 77_000
    assert config.load("finetune").select.count == 150_000


def test_an_empty_value_is_an_empty_string_where_a_string_is_wanted():
    told = config.load("pretrain", overrides=["refiner.checkpoint=", "source.truth=", "select.count="])
    assert (told.refiner.checkpoint, told.source.truth, told.select.count) == ("", "", None)  # type: ignore[union-attr]
    with pytest.raises(MaskgenError, match=r"--set proposer\.model=: .* at least 1 character"):
        config.load("pretrain", overrides=["proposer.model="])
    with pytest.raises(MaskgenError, match=r"grid\.fit"):
        config.load("pretrain", overrides=["grid.fit="])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("select.cuont=3", ["select.cuont", "no such key"]),
        ("select.count=three", ["select.count", "'three'"]),
        ("select.count=0", ["select.count", "greater than or equal to 1"]),
        ("select.fraction=0.5", ["select", "not both"]),
        ("proposer.kind=yolo", ["proposer", "no such kind"]),
        ("proposer.kind=recorded", ["proposer", "file", "required"]),
        ("select.count", ["KEY=VALUE"]),
        ("grid.fit=stretch", ["grid.fit", "'squash', 'pad' or 'crop'"]),
        ("split=../x", ["split"]),
    ],
)
def test_what_is_wrong_is_said_with_file_key_and_remedy(override, said):
    with pytest.raises(MaskgenError) as error:
        config.load("pretrain", overrides=[override])
    for part in said:
        assert part in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_another_kind_drops_the_keys_of_the_kind_before():
    overrides = ["proposer.kind=recorded", "proposer.file=polygons.json", "refiner.kind=none"]
    loaded = config.load("pretrain", overrides=overrides)
    assert isinstance(loaded.proposer, config.Recorded)
    assert isinstance(loaded.refiner, config.NoRefiner)


def test_override_values_are_yaml():
    loaded = config.load(
        "pretrain", overrides=["select.count=null", "select.fraction=0.25", "text.query=question"]
    )
    assert loaded.select.count is None
    assert loaded.select.fraction == 0.25
    assert loaded.text.query == "question"


@pytest.mark.parametrize("text", ["", "- a\n- b", "split: [", "\x00"])
def test_a_file_that_is_no_pipeline_is_a_sentence(tmp_path: Path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(MaskgenError) as error:
        config.load(file=str(path))
    assert str(path) in str(error.value)


def test_an_unknown_split_names_the_known_ones():
    with pytest.raises(MaskgenError, match="demo, finetune, pretrain"):
        config.load("pretrian")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("select.cuont=3", "select.count"),
        ("slots=4", "proposer.slots"),
        ("count=4", "select.count"),
        ("refiner.promt=box", "refiner.prompt"),
        ("resorces.actors=1", "resources.actors"),
    ],
)
def test_a_mistyped_key_is_blamed_on_set_and_the_nearest_is_named(typed, meant):
    with pytest.raises(MaskgenError) as error:
        config.load("demo", overrides=["shards.size=4", typed])
    assert str(error.value).startswith(f"--set {typed}: there is no such key. Did you mean {meant}?")


def test_the_files_own_mistakes_are_blamed_on_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(config.dump(config.load("demo")).replace("fit: squash", "fit: squish"))
    with pytest.raises(MaskgenError, match=r"mine\.yaml: grid\.fit: "):
        config.load(file=str(path), overrides=["grid.cells=8"])
    with pytest.raises(MaskgenError, match=r"no split demp\. Did you mean demo"):
        config.load("demp")


_LEVELS = range(1, 14)
BOMBS = {
    "lists": "\n".join(
        ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in _LEVELS)]
    ),
    "merged": "\n".join(
        ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in _LEVELS)]
    ),
    "deep": f"source: {'[' * 5000}{']' * 5000}",
    "deep mappings": f"source: {'{a: ' * 5000}1{'}' * 5000}",
    "long": f"source: [{'x, ' * 200_000}]",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_would_fill_the_memory_is_refused_at_once(tmp_path, name):
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMBS[name])
    with pytest.raises(MaskgenError, match=r"bomb\.yaml is not YAML: .*more than"):
        config.load(file=str(path))
    with pytest.raises(MaskgenError, match=r"not YAML: .*more than"):
        config.load("demo", overrides=[f"source={BOMBS[name].replace('source: ', '')}"])


def test_a_file_of_another_kind_is_not_read_whole(tmp_path):
    path = tmp_path / "weights.yaml"
    with path.open("wb") as file:
        file.truncate(11_000_000)
    with pytest.raises(MaskgenError, match="no configuration"):
        config.load(file=str(path))


def test_anchors_and_merged_keys_still_work(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "split: demo\nsource: {files: &files [a.jsonl, b.jsonl]}\ntext: {query: question}\n"
        "proposer: &models {kind: florence2, model: demo}\nselect: {<<: {count: 5}}\n"
    )
    assert config.load(file=str(path)).select.count == 5


@pytest.mark.parametrize("text", ["source: &a {files: *a}", "source: &a {<<: *a}", "source: &a [*a]", "*a"])
def test_aliases_of_themselves_or_of_nothing_are_a_sentence(tmp_path, text):
    path = tmp_path / "loop.yaml"
    path.write_text(text)
    with pytest.raises(MaskgenError, match=r"loop\.yaml"):
        config.load(file=str(path))
