"""The run's figures for Prometheus."""

import pytest

from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.pipeline import metrics_file
from maskgen.pipeline.metrics_file import MetricsFile
from maskgen.runtime.journal import Heartbeat
from maskgen.sharding.commit import Commit, Digest

parser = pytest.importorskip("prometheus_client.parser")
LABELS = {"split": "demo", "out": 'a "quoted"\\place'}


def read(path) -> dict[str, float]:
    """Value by name, and by name and outcome, as Prometheus' own reader has them."""
    found = {}
    for family in parser.text_string_to_metric_families(path.read_text()):
        assert family.documentation and family.type in ("gauge", "counter")
        for sample in family.samples:
            labels = dict(sample.labels)
            assert {name: labels.pop(name) for name in LABELS} == LABELS
            found[sample.name.removeprefix("maskgen_") + labels.get("outcome", "")] = sample.value
    return found


def commit(shard: int) -> Commit:
    outcomes = {Outcome.OK: 3, Outcome.IMAGE_MISSING: 1}
    return Commit(
        schema=2, shard=shard, planned=4, samples=3, outcomes=outcomes,
        tar=Digest(), parquet=Digest(), fingerprint="0" * 16,
    )  # fmt: skip


def test_prometheus_reads_the_figures(tmp_path, monkeypatch):
    path = tmp_path / "maskgen.prom"
    metrics = MetricsFile(str(path), LABELS, rows=40, rows_done=8, shards=10, left=8)
    metrics.tick({"000": Heartbeat("000", shard=2, planned=4, done=3)})
    now = read(path)
    assert (now["run_running"], now["workers"], now["rows_done"], now["shards_done"]) == (1, 1, 11, 2)
    assert now["driver_resident_bytes"] > 1e6 and now["run_info"] == 1

    metrics.event("worker_died", {})
    metrics.committed(4, commit(2))
    metrics.tick({})
    assert read(path) == now, "not more often than need be"
    metrics.close()
    now = read(path)
    assert (now["run_running"], now["workers"], now["rows_done"], now["shards_done"]) == (0, 0, 12, 3)
    assert (now["samples_totalok"], now["samples_totalimage_missing"]) == (3, 1)
    assert now["worker_deaths_total"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["maskgen.prom"]


def test_no_path_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metrics = MetricsFile("", LABELS, 1, 0, 1, 1)
    metrics.tick({})
    metrics.close()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(MaskgenError, match=r"resources\.metrics_file: the folder of .* is not there"):
        MetricsFile(str(tmp_path / "no" / "x.prom"), LABELS, 1, 0, 1, 1)


def test_a_disk_that_is_full_ends_nothing(tmp_path, monkeypatch):
    metrics = MetricsFile(str(tmp_path / "x.prom"), LABELS, 1, 0, 1, 1)

    def full(*_: object) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(metrics_file.Path, "write_text", full)
    metrics.tick({})
