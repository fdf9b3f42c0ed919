import errno
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import tiny_sets
from helpers.tiny_sets import note, record
from maskgen.draw import charts, page
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.views import set_statistics
from maskgen.views.report import write_report

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=\"alert('2')\"> & \x00\x1b[2J \u202e"


class Page(HTMLParser):
    """What a browser would make of the page: elements, their attributes, their text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def read(store: Store) -> Page:
    where = write_report(store)
    assert where == f"{store.url}/report.html"
    return Page(Path(where).read_text())


def test_no_run_is_a_sentence(tmp_path):
    with pytest.raises(MaskgenError, match="no run was begun"):
        write_report(Store(str(tmp_path)))


def test_every_outcome_is_shown_and_nothing_is_live(tmp_path):
    every = [
        record(number, one, HOSTILE, HOSTILE, id=HOSTILE, image=HOSTILE) for number, one in enumerate(Outcome)
    ]
    store = tiny_sets.make_set(tmp_path / "set", [every])
    note(store, 1.0, "run_started", shards=1)
    note(store, 2.0, "worker_died", worker=HOSTILE, shard=0, why=HOSTILE)
    note(store, 9.0, "shard_done", shard=0, worker="000", seconds=5.0, planned=17)
    store.write_json(
        "quality.json",
        {
            HOSTILE: HOSTILE,
            "mask_iou": {"mean": [0.875, 0.85, 0.9]},
            "range": [1, 2],
            "gain": 0.5,
            "gain_interval": [0.25, 1.0],
        },
    )
    found = read(store)
    assert {"script", "iframe", "link", "object", "form"}.isdisjoint(tag for tag, _ in found.tags)
    assert all(name != "onerror" and not name.startswith("on") for _, attrs in found.tags for name in attrs)
    pictures = [str(attributes["src"]) for attributes in found.all("img")]
    assert len(pictures) == sum(one.in_tar for one in Outcome)
    assert all(src.startswith("data:image/jpeg;base64,") for src in pictures)
    html = Path(f"{store.url}/report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', html) and "url(" not in html and "@import" not in html
    assert all(outcome in found.text for outcome in Outcome)
    assert "<script>alert(1)" in found.text and "\x1b" not in html and "\u202e" not in html
    assert "0.875 (0.85 to 0.9)" in found.text and "1 to 2" in found.text
    assert "0.5 (0.25 to 1)" in found.text and "mask IoU" in found.text
    assert "default-src 'none'" in html


def test_the_same_set_gives_the_same_page(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(number) for number in range(12)]])
    pages = []
    for _ in range(2):
        write_report(store)
        pages.append(store.read_bytes("report.html"))
    assert pages[0] == pages[1]


@pytest.mark.parametrize("shards", [[None, None], [[record(1), record(2)], None], []])
def test_unfinished_and_empty_sets(tmp_path, shards):
    store = tiny_sets.make_set(tmp_path / "set", shards)
    note(store, 1.0, "run_started", shards=2)
    found = read(store)
    done = sum(records is not None for records in shards)
    assert len(found.all("img")) == 2 * done
    assert (f"{done} of 2 shards are made" in found.text) == bool(shards)


def test_a_damaged_tar_costs_only_its_pictures(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1), record(2)], [record(3)]])
    tar = Path(store.url) / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    found = read(store)
    assert len(found.all("img")) == 1 and found.text.count("cannot be shown") == 2


def test_a_missing_tar_costs_only_its_pictures(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)], [record(3)]])
    store.remove("000000.tar")
    assert len(read(store).all("img")) == 1


def test_a_disk_that_fails_does_not_end_in_a_page_without_pictures(tmp_path, monkeypatch):
    """It would stay: a finished set's page is not written again."""
    store = tiny_sets.make_set(tmp_path, [[record(0)]])
    plain = Path.open

    def fail(self, *rest, **options):
        if self.suffix == ".tar":
            raise OSError(errno.EIO, "Input/output error", str(self))
        return plain(self, *rest, **options)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(MaskgenError, match=r"000000\.tar.*run the same command again"):
        write_report(store)
    assert not store.exists("report.html")


def test_thumbnails_show_the_mask(tmp_path):
    one = tiny_sets.record(1)
    assert one.picture is not None and one.grounding is not None
    from maskgen.views.contact_sheet import thumbnail

    drawn = np.asarray(thumbnail(tiny_sets.sample_of(one), one.picture)).astype(int)
    mask = Image.fromarray(one.grounding.mask).resize((drawn.shape[1], drawn.shape[0]))
    spread = drawn.max(axis=2) - drawn.min(axis=2)
    assert spread[np.asarray(mask)].mean() > 2 * spread[~np.asarray(mask)].mean()


def test_figures_count_every_ok_sample_once(tmp_path):
    shards = [
        [record(4 * shard + one, Outcome.NO_GROUNDING if one == 3 else Outcome.OK) for one in range(4)]
        for shard in range(5)
    ]
    found = set_statistics.collect_statistics(tiny_sets.make_set(tmp_path / "set", list(shards)))
    assert found.outcomes == {Outcome.OK: 15, Outcome.NO_GROUNDING: 5} and found.rows == 20
    by_column = {one.column: one for one in found.distributions}
    assert set(by_column) == {"coverage", "agreement", "sam_iou", "polygons", "tokens"}
    assert all(sum(one.counts) == 15 and len(one.edges) == len(one.counts) + 1 for one in found.distributions)
    assert by_column["agreement"].median == pytest.approx(0.8, abs=1e-3)
    assert (by_column["tokens"].mean, by_column["polygons"].median) == (12, 1)
    assert [pick.key for pick in found.picks[Outcome.OK]] == [f"k{n:06d}" for n in (0, 1, 2, 4, 5, 6, 8, 9)]
    assert len(found.picks[Outcome.NO_GROUNDING]) == 5


def test_columns_without_values_have_no_chart(tmp_path):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1, Outcome.NO_GROUNDING)]])
    assert set_statistics.collect_statistics(store).distributions == []


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40).filter(any))
def test_histogram_bars_are_as_tall_as_their_counts(counts):
    svg = charts.histogram(counts, [str(place) for place in range(len(counts))], [(0, "<0>")], 'a "title"')
    bars = Page(svg).all("rect")
    heights = [float(str(bar["height"])) for bar in bars]
    assert len(bars) == len(counts) and "&lt;0&gt;" in svg
    full = max(heights)
    assert all(abs(tall - full * n / max(counts)) < 0.2 for tall, n in zip(heights, counts, strict=True))


def test_area_of_nothing():
    assert "NaN" not in charts.area([0.0, 0.0], [0.5], ("0 s", "1 s"), "speed")


@given(st.text(st.characters(), max_size=50))
def test_said_is_inert(words):
    found = Page(f"<p>{page.escape_text(words)}</p>")
    assert [tag for tag, _ in found.tags] == ["p"]
    found.text.encode()


def test_the_picture_is_a_jpeg_of_modest_size(tmp_path):
    import base64

    store = tiny_sets.make_set(tmp_path / "set", [[record(1, size=(1600, 1200))]])
    (attributes,) = read(store).all("img")
    data = base64.b64decode(str(attributes["src"]).partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (360, 270)


def test_an_empty_mask_is_no_mask_and_sam_is_silent_where_it_never_ran(tmp_path):
    """SAM may return nothing (sam_disagrees); a polygon taken as the mask has no score of SAM's."""
    empty, outlined = record(1, Outcome.SAM_DISAGREES, "empty mask"), record(2)
    assert empty.grounding is not None and outlined.grounding is not None
    nothing = np.zeros_like(empty.grounding.mask)
    grid = np.zeros_like(empty.grounding.grid)
    empty = replace(empty, grounding=replace(empty.grounding, mask=nothing, grid=grid, coverage=0.0))
    outlined = replace(outlined, grounding=replace(outlined.grounding, sam_iou=0.0, agreement=1.0))
    shown = read(tiny_sets.make_set(tmp_path / "set", [[empty, outlined]])).text
    assert "1with a mask, 50.0 %" in shown and "1with a zero mask, 50.0 %" in shown
    assert "coverage " in shown and "SAM 0" not in shown and "SAM IoU" not in shown


def test_a_page_fits_a_phone():
    """Nothing outside what scrolls by itself asks for more than the 292 pixels that a small phone has."""
    html = page.document("title", page.section("a", page.table(["x"], [["y"]])))
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    narrow = [rule for rule in re.findall(r"([^{}]+)\{([^{}]*)\}", style) if ".wide" not in rule[0]]
    for selector, rule in narrow:
        assert not re.search(r"minmax\(\d+px", rule), f"{selector.strip()} overflows where there is less"
        for width in re.findall(r"(?<!max-)width: (\d+)px", rule):
            assert int(width) <= 292, selector
    assert "img { max-width: 100%" in style and ".wide { overflow-x: auto; }" in style
