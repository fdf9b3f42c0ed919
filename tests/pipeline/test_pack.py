"""`maskgen pack` as it is typed, over real photographs."""

import pyarrow.parquet as pq
import pytest

from helpers.command import finished_set, maskgen

pytestmark = pytest.mark.slow


def test_rows_are_packed_without_a_model_and_only_once(photos, tmp_path):
    line = ["pack", "--split", "finetune", "--data", photos, "--set", "resources.failure_budget=0.1"]
    done = maskgen(*line, "--out", tmp_path / "all")
    assert done.returncode == 0, done.stderr
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "all" / "index.parquet").to_pylist()}
    left_out = {name for name, row in rows.items() if row["offset"] < 0}
    assert left_out == {"gone"} and rows["text-only-1"]["outcome"] == "text_only"
    assert {row["outcome"] for name, row in rows.items() if name not in {"gone", "text-only-1"}} == {
        "not_grounded"
    }
    assert maskgen("verify", tmp_path / "all").returncode == 0

    before = finished_set(tmp_path / "all")
    assert maskgen(*line, "--out", tmp_path / "all").returncode == 0
    assert finished_set(tmp_path / "all") == before

    rest = maskgen(*line, "--no-text-only", "--without", tmp_path / "all", "--out", tmp_path / "rest")
    assert pq.read_table(tmp_path / "rest" / "index.parquet").num_rows == 1, rest.stderr
