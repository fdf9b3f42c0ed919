import io
import json
import os
import socket
import time
import zipfile
from types import SimpleNamespace

import psutil
import pytest
import torch
from PIL import Image

from helpers import tiny_sets
from helpers.archive_files import split, write_tar
from helpers.tiny_sets import CONFIG, record
from maskgen.config import Config, load, parse
from maskgen.errors import MaskgenError
from maskgen.estimate import preview
from maskgen.estimate.estimate import estimate
from maskgen.grounding.weights import SAM_FILES
from maskgen.runtime import ray_address
from maskgen.runtime.store import Store
from maskgen.sources import rows
from maskgen.sources.plan import make_plan
from maskgen.sources.row_layout import RawRow
from maskgen.views import doctor, doctor_inputs, doctor_machine
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
    assert len(findings) == 12 and not (tmp_path / "out").exists()
    assert "small model" in named(findings, "proposer").found


def test_the_bare_machine():
    findings = examine(None, None, None, "")
    assert [finding.name for finding in findings] == ["packages", "GPU", "processors", "/dev/shm", "Ray"]
    assert "With --split" in render(findings)


def test_a_check_that_breaks_is_a_warning_and_a_known_problem_a_problem(monkeypatch):
    def broken() -> Finding:
        raise RuntimeError("\x1b[31mboom")

    def known() -> Finding:
        raise MaskgenError("no such thing. Get one.")

    assert checked("a", broken).ok is None and checked("b", known) == Finding(
        "b", False, "no such thing. Get one."
    )
    monkeypatch.setattr(doctor_machine, "python", broken)
    shown = render(examine(None, None, None, ""))
    assert "boom" in shown and "\x1b" not in shown and "1 warning" in shown


def test_gpu_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(doctor_machine, "_nvidia_smi", lambda: [("NVIDIA X", "535.1")] * 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = doctor_machine.gpus(True)
    assert (
        found.ok is False and "2 x NVIDIA X, driver 535.1" in found.found and torch.__version__ in found.found
    )


@pytest.mark.parametrize(("gigabytes", "ok"), [(80, True), (8, None)])
def test_gpus_in_order(monkeypatch, gigabytes, ok):
    facts = type("Properties", (), {"name": "NVIDIA X", "total_memory": gigabytes << 30})
    monkeypatch.setattr(doctor_machine, "_nvidia_smi", lambda: [("NVIDIA X", "580.1")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: facts)
    found = doctor_machine.gpus(True)
    assert found.ok is ok and "driver 580.1" in found.found and f"{gigabytes << 10:,} MiB" in found.found


def test_no_gpu_matters_for_full_size_models_only(monkeypatch):
    monkeypatch.setattr(doctor_machine, "_nvidia_smi", list)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (doctor_machine.gpus(True).ok, doctor_machine.gpus(False).ok) == (None, True)
    assert doctor.is_full_size(load("pretrain")) and not doctor.is_full_size(load("demo"))


def test_the_settings_are_said_as_what_they_become():
    said = {
        (split, ray_address): next(
            one for one in examine(load(split), None, None, ray_address) if one.name == "settings"
        )
        for split, ray_address in (("pretrain", ""), ("pretrain", "127.0.0.1:1"), ("demo", ""))
    }
    assert all(one.ok and "images a pass, " in one.found and "auto" not in one.found for one in said.values())
    assert "refiner float32, 8 images" in said["demo", ""].found and not said["demo", ""].remedy
    assert "127.0.0.1:1 choose by their own" in said["pretrain", "127.0.0.1:1"].remedy


def test_a_ray_that_answers_and_one_that_does_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor_machine.ray(f"127.0.0.1:{port}").ok is True
        assert doctor_machine.ray(f"ray://127.0.0.1:{port}").ok is True
    found = doctor_machine.ray(f"127.0.0.1:{port}")
    assert found.ok is False and "cannot be reached" in found.found and "ray status" in found.remedy


def test_auto_without_a_cluster(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_address, "_RECORD", tmp_path / "none")
    assert "no Ray cluster" in doctor_machine.ray("auto").found
    (tmp_path / "none").write_text("127.0.0.1:1")
    assert "127.0.0.1:1 cannot be reached" in doctor_machine.ray("auto").found


def test_hub_model_without_network(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    config = with_model("florence2", model="nobody/no-such-model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in doctor_inputs.proposer(config, "").found
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(doctor_inputs, "unreachable", lambda host, port: "no route")
    assert doctor_inputs.proposer(config, "").ok is False
    monkeypatch.setattr(doctor_inputs, "unreachable", lambda host, port: "")
    found = doctor_inputs.proposer(config, "")
    assert found.ok is None and "maskgen fetch weights" in found.remedy
    assert "nor a hub id" in doctor_inputs.proposer(with_model("florence2", model="a/b/c"), "").found


def test_local_florence2_folders(tmp_path):
    config = with_model("florence2", model=str(tmp_path))
    assert "no weights" in doctor_inputs.proposer(config, "").found
    (tmp_path / "model.safetensors").write_bytes(b"0" * 2000)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert '"bert"' in doctor_inputs.proposer(config, "").found
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "florence2"}))
    found = doctor_inputs.proposer(config, "")
    assert found.ok is True and "2.0 kB" in found.found
    custom = {"model_type": "florence2", "text_config": {"model_type": "florence2_language", "d_model": 1024}}
    (tmp_path / "config.json").write_text(json.dumps(custom))
    found = checked("proposer", lambda: doctor_inputs.proposer(config, ""))
    assert found.ok is False and "proposer.model=florence-community/Florence-2-large" in found.found


def test_sam_checkpoints(tmp_path, monkeypatch):
    path = tmp_path / "sam.pth"
    config = with_model("sam", model="vit_b", checkpoint=str(path))
    assert checked("refiner", lambda: doctor_inputs.refiner(config)).ok is False
    torch.save({"a": torch.zeros(3000)}, path)
    found = doctor_inputs.refiner(config)
    assert found.ok is None and "375 MB" in found.found, "a checkpoint of another size may be one's own"
    official = SAM_FILES["vit_b"]._replace(bytes=path.stat().st_size)
    monkeypatch.setitem(SAM_FILES, "vit_b", official)
    assert doctor_inputs.refiner(config).ok is True
    path.write_bytes(path.read_bytes()[:5000])
    found = doctor_inputs.refiner(config)
    assert found.ok is False and "not a whole" in found.found and "vit_b" in found.remedy
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/a.jpg", b"")
    assert doctor_inputs.refiner(config).ok is False


def test_recorded_polygons_and_rows(tmp_path):
    assert doctor_inputs.proposer(CONFIG, "").ok is None and doctor_inputs.rows(CONFIG, "").ok is None
    assert doctor_inputs.proposer(CONFIG, str(tmp_path)).ok is False
    assert "no annotation file" in checked("data", lambda: doctor_inputs.rows(CONFIG, str(tmp_path))).found
    (tmp_path / "polygons.json").write_text("{}")
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]
    lines = [{"id": str(n), "image": f"{n}.jpg", "conversations": turns} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert doctor_inputs.proposer(CONFIG, str(tmp_path)).ok is True
    assert doctor_inputs.rows(CONFIG, str(tmp_path)).ok is True
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write("\nbroken\n")
    found = doctor_inputs.rows(CONFIG, str(tmp_path))
    assert found.ok is None and "of 4 rows drawn 1 are broken: not JSON" in found.found
    (tmp_path / "rows.jsonl").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert doctor_inputs.rows(CONFIG, str(tmp_path)).ok is False


@pytest.fixture
def images(tmp_path):
    """Writes rows that name these images, and says what the doctor finds of them."""

    def look(*names: str | None, out: str = "", **source: object) -> Finding:
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a"}]
        lines = [json.dumps({"id": n, "image": name, "conversations": turns}) for n, name in enumerate(names)]
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / "rows.jsonl").write_text("\n".join(lines))
        tree = CONFIG.model_dump()
        tree["source"] |= source
        return doctor_inputs.images(parse(tree, "test"), str(tmp_path / "data"), out)

    return look


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 200, 30)).save(stream, "JPEG")
    return stream.getvalue()


def test_images_are_opened_as_a_worker_opens_them_and_failures_named(images, tmp_path):
    assert images("0.jpg", "1.jpg").ok is False
    data = tmp_path / "data"
    (data / "0.jpg").write_bytes(jpeg())
    found = images("0.jpg", "1.jpg", None, "none")
    assert found.ok is None
    assert (
        found.found
        == "1 of 2 images drawn can be opened; 1 image_missing, such as 1.jpg: there is no such file"
    )
    assert images("0.jpg").ok is True and images("0.jpg", None).ok is True
    assert images(None, "none").ok is None and "no row drawn names an image" in images(None).found
    (data / "1.jpg").write_bytes(jpeg()[:200])
    (data / "2.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (data / "3.jpg").write_bytes(b"<svg/>")
    (tmp_path / "4.jpg").write_bytes(jpeg())
    (data / "4.jpg").symlink_to("../4.jpg")
    found = images(*(f"{number}.jpg" for number in range(5)))
    assert found.found.startswith("1 of 5 images drawn can be opened; ") and found.ok is None
    for said in (
        "2 image_corrupt, such as ",
        "1 image_unsupported, such as 3.jpg",
        "1 path_escape, such as 4.jpg",
    ):
        assert said in found.found
    assert "source.allow_links_to" in found.remedy
    assert images("4.jpg", **{"allow_links_to": [str(tmp_path)]}).ok is True
    assert "git-lfs pointer" in images("2.jpg").found


def test_archives_that_are_missing_a_part_or_are_pointers_are_said(images, tmp_path):
    data = tmp_path / "data"
    write_tar(data / "a.tar", {f"{number}.jpg": jpeg() for number in range(40)})
    split(data / "a.tar", ["a.tar_part1", "a.tar_part2", "a.tar_part3"])
    assert images("a/0.jpg", "a/39.jpg").ok is True
    (data / "a.tar_part2").unlink()
    found = images("a/0.jpg", "a/39.jpg")
    assert found.ok is None and "a.tar is read up to part 2, which is missing" in found.remedy
    (data / "b.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "b.tar is a git-lfs pointer" in images("b/0.jpg").remedy
    assert "b.tar is a git-lfs pointer" in images("a/0.jpg").remedy  # though no image drawn needs it


def test_packed_archives_are_read_through_where_that_is_soon_done(images, tmp_path, monkeypatch):
    write_tar(tmp_path / "data" / "c.tar.gz", {"0.jpg": jpeg()}, "w:gz")
    assert images("c/0.jpg").ok is True
    monkeypatch.setattr(preview, "READ_THROUGH", 10)
    found = images("c/0.jpg", out=str(tmp_path / "out"))
    assert found.ok is False and "1 .tar.gz archives (0.0 GB) are not looked into" in found.remedy
    assert not (tmp_path / "out").exists()
    kept = Store(str(tmp_path / "out"))
    make_plan(CONFIG, str(tmp_path / "data"), tmp_path / "plan.parquet", kept=kept)
    assert images("c/0.jpg", out=kept.url).ok is True  # what planning has read through is used


def test_nothing_is_in_place_while_images_fail(images, tmp_path):
    assert images("0.jpg").ok is False
    findings = examine(CONFIG, None, str(tmp_path / "data"), "")
    assert "Everything is in place" not in render(findings) and named(findings, "images").ok is False


def test_rows_are_drawn_from_all_over_a_large_file(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_SOON_READ", 1000)
    file = tmp_path / "rows.jsonl"
    turn = {"from": "human", "value": "w"}
    with file.open("w") as out:
        for number in range(2000):
            out.write(json.dumps({"id": number, "conversations": [turn]}) + "\n" * (1 + number % 2))

    def draw() -> list[int]:
        return [int(str(row.id)) for row in rows.draw_rows([str(file)], 64) if isinstance(row, RawRow)]

    assert len(draw()) > 55 and min(draw()) < 200 and max(draw()) > 1800


def test_an_output_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    findings = examine(None, str(tmp_path / "file"), None, "")
    assert named(findings, "output").ok is False and "not a folder" in named(findings, "output").found


def test_an_output_that_cannot_be_written():
    found = doctor_inputs.output("/proc/maskgen/out")
    assert found.ok is False and "--out" in found.remedy


def test_output_leaves_nothing_behind(tmp_path):
    assert doctor_inputs.output(str(tmp_path)).ok is True and list(tmp_path.iterdir()) == []
    assert doctor_inputs.output("memory://somewhere").ok is True


def test_disk_is_reckoned_from_finished_shards(tmp_path, monkeypatch):
    store = tiny_sets.make_set(tmp_path / "set", [[record(1)], None, None])
    took = sum((tmp_path / "set" / f"000000.{kind}").stat().st_size for kind in ("tar", "parquet"))
    assert doctor_inputs.bytes_still_needed(CONFIG, store) == 2 * took
    monkeypatch.setattr(Store, "disk_free", lambda self: took)
    assert doctor_inputs.disk(CONFIG, store.url).ok is False
    monkeypatch.setattr(Store, "disk_free", lambda self: 9 * took)
    assert doctor_inputs.disk(CONFIG, store.url).ok is True
    assert doctor_inputs.disk(None, str(tmp_path / "new")).ok is True


def test_disk_is_reckoned_from_the_rows_that_are_there(tmp_path):
    """Twelve rows are no 77,000, whatever select.count allows."""
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a"}]
    lines = [{"id": str(n), "image": f"{n}.jpg", "conversations": turns} for n in range(12)]
    (tmp_path / "alignment_2.5m.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes(bytes(100_000))
    store = Store(str(tmp_path / "out"))
    needed = doctor_inputs.bytes_still_needed(load("pretrain"), store, str(tmp_path))
    assert needed == pytest.approx(12 * 104_096)
    assert needed == estimate(load("pretrain"), str(tmp_path), 0, (), lambda _: None).disk_bytes
    assert doctor_inputs.bytes_still_needed(load("pretrain"), store) == 77_000 * 170_000  # without --data


def test_the_lease(tmp_path):
    out = str(tmp_path)
    assert doctor_inputs.lease(out).ok is True
    facts = {"host": os.uname().nodename, "pid": os.getpid(), "time": time.time()}
    lease = Store(f"{out}/.maskgen")
    lease.write_json("lease.json", {**facts, "started": psutil.Process().create_time()})
    found = doctor_inputs.lease(out)
    assert found.ok is None and str(os.getpid()) in found.found
    lease.write_json("lease.json", {**facts, "started": 1.0})
    assert doctor_inputs.lease(out).ok is True and "takes it over" in doctor_inputs.lease(out).found


@pytest.mark.parametrize(("size", "ok"), [(67_108_864, None), (8 << 30, True), (0, None)])
def test_a_container_without_shared_memory_warns(monkeypatch, size, ok):
    def usage(_):
        if not size:
            raise FileNotFoundError
        return SimpleNamespace(total=size)

    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", usage)
    found = doctor_machine.shared_memory()
    assert found.ok is ok and ("--shm-size=8g" in found.remedy) is not bool(ok)


def test_a_container_without_memory_warns(monkeypatch):
    monkeypatch.setattr(doctor_machine, "host_memory", lambda: (1_000_000_000, 1_000_000_000))
    found = doctor_machine.memory(False)
    assert found.ok is None and "1.0 GB" in found.found and "resources.actors" in found.remedy


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(
        doctor_machine, "requires", lambda name: ["numpy", "no-such-package>=2", "x; extra == 'dev'"]
    )
    found = doctor_machine.python()
    assert found.ok is False and "no-such-package>=2" in found.found and "numpy" not in found.found
