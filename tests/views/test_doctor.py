import json
import os
import socket
import time
import zipfile

import psutil
import pytest
import tiny_sets
import torch
from tiny_sets import CONFIG, record

from maskgen.config import Config, load, parse
from maskgen.errors import MaskgenError
from maskgen.running import address
from maskgen.store import Store
from maskgen.views import doctor, inputs, machine
from maskgen.views.doctor import examine, render
from maskgen.views.finding import Finding, checked


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def with_model(kind: str, **facts: object) -> Config:
    tree = CONFIG.model_dump()
    tree["proposer" if kind == "florence2" else "refiner"] = {"kind": kind, **facts}
    return parse(tree, "test")


def test_demo_needs_nothing_more(tmp_path):
    findings = examine(load("demo"), str(tmp_path / "out"), "", "")
    assert [finding.name for finding in findings if finding.ok is False] == []
    assert len(findings) == 10 and not (tmp_path / "out").exists()
    assert "small model" in named(findings, "proposer").found


def test_the_bare_machine():
    findings = examine(None, None, None, "")
    assert [finding.name for finding in findings] == ["packages", "GPU", "processors", "Ray"]
    assert "With --split" in render(findings)


def test_a_check_that_breaks_is_a_warning_and_a_known_problem_a_problem(monkeypatch):
    def broken() -> Finding:
        raise RuntimeError("\x1b[31mboom")

    def known() -> Finding:
        raise MaskgenError("no such thing. Get one.")

    assert checked("a", broken).ok is None and checked("b", known) == Finding(
        "b", False, "no such thing. Get one."
    )
    monkeypatch.setattr(machine, "python", broken)
    shown = render(examine(None, None, None, ""))
    assert "boom" in shown and "\x1b" not in shown and "1 warning" in shown


def test_gpu_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(machine, "_nvidia_smi", lambda: [("NVIDIA X", "535.1")] * 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = machine.gpus(True)
    assert (
        found.ok is False and "2 x NVIDIA X, driver 535.1" in found.found and torch.__version__ in found.found
    )


@pytest.mark.parametrize(("gigabytes", "ok"), [(80, True), (8, None)])
def test_gpus_in_order(monkeypatch, gigabytes, ok):
    facts = type("Properties", (), {"name": "NVIDIA X", "total_memory": gigabytes << 30})
    monkeypatch.setattr(machine, "_nvidia_smi", lambda: [("NVIDIA X", "580.1")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: facts)
    found = machine.gpus(True)
    assert found.ok is ok and "driver 580.1" in found.found and f"{gigabytes << 10:,} MiB" in found.found


def test_no_gpu_matters_for_full_size_models_only(monkeypatch):
    monkeypatch.setattr(machine, "_nvidia_smi", list)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (machine.gpus(True).ok, machine.gpus(False).ok) == (None, True)
    assert doctor._is_full_size(load("pretrain")) and not doctor._is_full_size(load("demo"))


def test_a_ray_that_answers_and_one_that_does_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert machine.ray(f"127.0.0.1:{port}").ok is True
        assert machine.ray(f"ray://127.0.0.1:{port}").ok is True
    found = machine.ray(f"127.0.0.1:{port}")
    assert found.ok is False and "cannot be reached" in found.found and "ray status" in found.remedy


def test_auto_without_a_cluster(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(address, "_RECORD", tmp_path / "none")
    assert "no Ray cluster" in machine.ray("auto").found
    (tmp_path / "none").write_text("127.0.0.1:1")
    assert "127.0.0.1:1 cannot be reached" in machine.ray("auto").found


def test_hub_model_without_network(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    config = with_model("florence2", model="nobody/no-such-model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in inputs.proposer(config, "").found
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(inputs, "unreachable", lambda host, port: "no route")
    assert inputs.proposer(config, "").ok is False
    monkeypatch.setattr(inputs, "unreachable", lambda host, port: "")
    found = inputs.proposer(config, "")
    assert found.ok is None and "hf download nobody/no-such-model" in found.remedy
    assert "nor a hub id" in inputs.proposer(with_model("florence2", model="a/b/c"), "").found


def test_local_florence2_folders(tmp_path):
    config = with_model("florence2", model=str(tmp_path))
    assert "no weights" in inputs.proposer(config, "").found
    (tmp_path / "model.safetensors").write_bytes(b"0" * 2000)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert '"bert"' in inputs.proposer(config, "").found
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "florence2"}))
    found = inputs.proposer(config, "")
    assert found.ok is True and "2.0 kB" in found.found


def test_sam_checkpoints(tmp_path, monkeypatch):
    path = tmp_path / "sam.pth"
    config = with_model("sam", model="vit_b", checkpoint=str(path))
    assert checked("refiner", lambda: inputs.refiner(config)).ok is False
    torch.save({"a": torch.zeros(3000)}, path)
    found = inputs.refiner(config)
    assert found.ok is None and "375 MB" in found.found, "a checkpoint of another size may be one's own"
    monkeypatch.setitem(inputs._OFFICIAL_BYTES, "vit_b", path.stat().st_size)
    assert inputs.refiner(config).ok is True
    path.write_bytes(path.read_bytes()[:5000])
    found = inputs.refiner(config)
    assert found.ok is False and "not a whole" in found.found and "vit_b" in found.remedy
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/a.jpg", b"")
    assert inputs.refiner(config).ok is False


def test_recorded_polygons_and_rows(tmp_path):
    assert inputs.proposer(CONFIG, "").ok is None and inputs.rows(CONFIG, "").ok is None
    assert inputs.proposer(CONFIG, str(tmp_path)).ok is False
    assert "no annotation file" in checked("data", lambda: inputs.rows(CONFIG, str(tmp_path))).found
    (tmp_path / "polygons.json").write_text("{}")
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]
    lines = [{"id": str(n), "image": f"{n}.jpg", "conversations": turns} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert inputs.proposer(CONFIG, str(tmp_path)).ok is True
    found = inputs.rows(CONFIG, str(tmp_path))
    assert found.ok is None and "0 of the first 3 images" in found.found and "0.jpg" in found.remedy
    (tmp_path / "1.jpg").write_bytes(b"x")
    assert inputs.rows(CONFIG, str(tmp_path)).ok is True
    (tmp_path / "rows.jsonl").write_text("broken\n")
    assert inputs.rows(CONFIG, str(tmp_path)).ok is False


def test_an_output_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    findings = examine(None, str(tmp_path / "file"), None, "")
    assert named(findings, "output").ok is False and "not a folder" in named(findings, "output").found


def test_an_output_that_cannot_be_written():
    found = inputs.output("/proc/maskgen/out")
    assert found.ok is False and "--out" in found.remedy


def test_output_leaves_nothing_behind(tmp_path):
    assert inputs.output(str(tmp_path)).ok is True and list(tmp_path.iterdir()) == []
    assert inputs.output("memory://somewhere").ok is True


def test_disk_is_reckoned_from_finished_shards(tmp_path, monkeypatch):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)], None, None])
    took = sum((tmp_path / "set" / f"000000.{kind}").stat().st_size for kind in ("tar", "parquet"))
    assert inputs._still_needed(CONFIG, store) == 2 * took
    monkeypatch.setattr(Store, "disk_free", lambda self: took)
    assert inputs.disk(CONFIG, store.url).ok is False
    monkeypatch.setattr(Store, "disk_free", lambda self: 9 * took)
    assert inputs.disk(CONFIG, store.url).ok is True
    assert inputs.disk(None, str(tmp_path / "new")).ok is True


def test_the_lease(tmp_path):
    out = str(tmp_path)
    assert inputs.lease(out).ok is True
    facts = {"host": os.uname().nodename, "pid": os.getpid(), "time": time.time()}
    lease = Store(f"{out}/.maskgen")
    lease.write_json("lease.json", {**facts, "started": psutil.Process().create_time()})
    found = inputs.lease(out)
    assert found.ok is None and str(os.getpid()) in found.found
    lease.write_json("lease.json", {**facts, "started": 1.0})
    assert inputs.lease(out).ok is True and "takes it over" in inputs.lease(out).found


def test_a_container_without_memory_warns(monkeypatch):
    monkeypatch.setattr(machine, "host_memory", lambda: (1_000_000_000, 1_000_000_000))
    found = machine.memory(False)
    assert found.ok is None and "1.0 GB" in found.found and "resources.actors" in found.remedy


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(
        machine, "requires", lambda name: ["numpy", "no-such-package>=2", "x; extra == 'dev'"]
    )
    found = machine.python()
    assert found.ok is False and "no-such-package>=2" in found.found and "numpy" not in found.found
