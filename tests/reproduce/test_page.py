"""docs/reproduction.md says what its run's files say, which lie beside it."""

import json
from pathlib import Path

import pytest

from maskgen.reproduce import findings_page
from maskgen.reproduce.scales import SCALES, ReproductionFolder, shared_recipe
from maskgen.training.recipe import Recipe

DOCS = Path(__file__).parents[2] / "docs"
KEPT = DOCS / "reproduction"


@pytest.fixture(scope="module")
def again(tmp_path_factory) -> Path:
    """The report, written anew from the kept files."""
    to = tmp_path_factory.mktemp("report")
    kept = json.loads((KEPT / findings_page.FINDINGS).read_text())
    findings_page.write_pages(
        ReproductionFolder(KEPT),
        to,
        shared_recipe(SCALES["demo"]),
        kept["seeds"],
        kept["exam"],
        kept["command"],
    )
    return to


def test_the_page_follows_from_the_files(again):
    page = (again / findings_page.MARKDOWN).read_text()
    for picture in (findings_page.PICTURE, findings_page.MAPS):
        page = page.replace(f"]({picture})", f"](reproduction/{picture})")
        assert (KEPT / picture).is_file()
    assert page == (DOCS / "reproduction.md").read_text()


def test_a_scale_that_shows_nothing_gives_no_verdicts(tmp_path):
    kept = json.loads((KEPT / findings_page.FINDINGS).read_text())
    assert SCALES["demo"].verdicts and not SCALES["tiny"].verdicts
    (tmp_path / findings_page.MAPS).write_bytes((KEPT / findings_page.MAPS).read_bytes())
    place, recipe = ReproductionFolder(KEPT), shared_recipe(SCALES["tiny"])
    findings_page.write_pages(place, tmp_path, recipe, kept["seeds"], 12, "maskgen", verdicts=False)
    page = (tmp_path / findings_page.MARKDOWN).read_text()
    claims = page[page.index("| claim ") : page.index("\n\n", page.index("| claim "))]
    assert "holds" not in claims and "not shown" not in claims
    assert "gives no verdicts" in page
    found = json.loads((tmp_path / findings_page.FINDINGS).read_text())
    assert {claim["verdict"] for claim in found["claims"]} == {None}


def test_the_findings_follow_from_the_files(again):
    ours, theirs = (json.loads((place / findings_page.FINDINGS).read_text()) for place in (again, KEPT))
    assert ours == theirs


def test_the_run_is_the_recipe_that_is_shipped():
    """Keys that came later stand at their defaults, which change nothing."""
    kept = Recipe.model_validate(json.loads((KEPT / "run.json").read_text())["recipe"])
    assert kept.content() == shared_recipe(SCALES["demo"]).content()
