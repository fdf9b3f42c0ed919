"""All masks of a set are made in one dtype: the workers' device chooses it, and a resume keeps it."""

import json

import pytest

from maskgen import config
from maskgen.errors import MaskgenError
from maskgen.pipeline import ray_cluster, run
from maskgen.pipeline.run import RunRequest, prepare
from maskgen.runtime.store import Store
from maskgen.sources.data_root import ensure

CPU = {"name": "cpu", "dtype": "float32"}
GPU = {"name": "NVIDIA H100 80GB HBM3", "dtype": "bfloat16"}
AUTO = ["proposer.dtype=auto", "proposer.batch=auto", "refiner.dtype=auto", "refiner.batch=auto"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("scenes") / "data")
    ensure(config.load("demo", overrides=["source.scenes.count=3"]), place, lambda _: None)
    return place


@pytest.fixture
def prepared(data, tmp_path, monkeypatch):
    """Plans or checks the set in `tmp_path` where a device is; returns the job and what was said."""

    def call(here, *overrides, address=""):
        settings = config.load("demo", overrides=["source.scenes.count=3", *overrides])
        said: list[str] = []
        monkeypatch.setattr(run, "describe_device", lambda: here)
        request = RunRequest(settings, data, str(tmp_path), address)
        return prepare(request, Store(str(tmp_path)), said.append)[0], said

    return call


def dtypes(job):
    return job.config.proposer.dtype, job.config.refiner.dtype


def record(place):
    return json.loads((place / "run.json").read_text())


@pytest.mark.parametrize("here", [CPU, GPU])
def test_a_new_set_takes_what_suits_the_device(prepared, tmp_path, here):
    job, said = prepared(here, *AUTO)
    assert dtypes(job) == (here["dtype"], here["dtype"])
    assert f"proposer.dtype and refiner.dtype: {here['dtype']}, for {here['name']}" in said
    told = record(tmp_path)
    for part in ("proposer", "refiner"):
        assert told["config"][part]["dtype"] == told["identity"]["config"][part]["dtype"] == here["dtype"]
        assert told["config"][part]["batch"] == "auto"  # each worker has its own


def test_a_resume_keeps_the_dtype_on_workers_of_another_kind(prepared):
    begun, _ = prepared(GPU, *AUTO)
    there, _ = prepared(CPU, *AUTO)
    assert there.fingerprint == begun.fingerprint and dtypes(there) == ("bfloat16", "bfloat16")


def test_a_set_with_explicit_dtypes_resumes_with_the_defaults(prepared):
    begun, _ = prepared(CPU, "proposer.dtype=bfloat16", "refiner.dtype=float32")
    there, _ = prepared(GPU, *AUTO)
    assert there.fingerprint == begun.fingerprint and dtypes(there) == ("bfloat16", "float32")


def test_another_dtype_that_is_asked_for_is_refused(prepared):
    prepared(GPU, *AUTO)
    with pytest.raises(MaskgenError, match=r"refiner\.dtype: bfloat16 → float32"):
        prepared(GPU, *AUTO, "refiner.dtype=float32")


def test_another_kind_is_refused_and_not_given_the_recorded_dtype(prepared):
    prepared(GPU, *AUTO, "refiner={kind: none}")
    with pytest.raises(MaskgenError, match=r"refiner\.kind: none → sam"):
        prepared(GPU, *AUTO)


def test_a_forgotten_kind_is_said_before_anybody_looks_for_its_weights(prepared):
    """The recorded file's pin is no revision of a hub model."""
    prepared(CPU, "proposer={kind: recorded, file: truth.json}")
    said = r"begun with other settings:\n(.*\n)*  proposer\.kind: recorded → florence2"
    with pytest.raises(MaskgenError, match=said):
        prepared(CPU, "proposer={kind: florence2, model: nobody/has-this}")


def test_a_clusters_workers_are_asked_and_not_this_machine(prepared, monkeypatch):
    monkeypatch.setattr(ray_cluster, "ask_device", lambda address: {"head:6379": GPU}[address])
    job, said = prepared(CPU, *AUTO, address="head:6379")
    assert dtypes(job) == ("bfloat16", "bfloat16") and "asking the cluster" in said[0]


def test_nobody_is_asked_where_nothing_is_auto(prepared, monkeypatch):
    monkeypatch.setattr(ray_cluster, "ask_device", lambda address: pytest.fail("asked"))
    assert dtypes(prepared(CPU, address="head:6379")[0]) == ("float32", "float32")


def test_workers_of_other_kinds_are_said_once(prepared, tmp_path):
    job, _ = prepared(GPU, *AUTO)
    request = RunRequest(config.load("demo", overrides=AUTO), "", str(tmp_path))
    drive = run.GroundingRun(request, Store(str(tmp_path)), job, None, [], None, None)  # type: ignore[arg-type]
    said: list[str] = []
    first = {"proposer": {"commit": "a"}, "device": GPU}
    for models in (first, first, first | {"device": CPU}, first | {"device": CPU}):
        drive.loaded(models, said.append)
    assert record(tmp_path)["models"] == first
    assert len(said) == len(set(said)) == 4
    assert "note: unlike when the run began, device.name: NVIDIA H100 80GB HBM3 → cpu" in said
    other = "which would choose refiner.dtype float32; the set was begun in bfloat16"
    assert sum(other in one for one in said) == 1


def test_a_record_of_an_earlier_version_gives_no_notes(prepared, tmp_path):
    job, _ = prepared(CPU)
    request = RunRequest(job.config, "", str(tmp_path))
    drive = run.GroundingRun(request, Store(str(tmp_path)), job, None, [], None, None)  # type: ignore[arg-type]
    said: list[str] = []
    store = Store(str(tmp_path))
    store.write_json("run.json", record(tmp_path) | {"models": {"proposer": {"commit": "a"}}})
    drive.loaded({"proposer": {"commit": "a"}, "device": CPU}, said.append)
    assert said == []


@pytest.mark.slow
def test_a_worker_says_what_it_computes_on():
    told = ray_cluster.ask_device("")
    assert set(told) == {"name", "dtype"} and told["dtype"] in ("float32", "bfloat16")
