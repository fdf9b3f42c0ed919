"""The package as it is installed: nothing heavy at import, nothing missing from the wheel."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_importing_maskgen_is_light():
    script = (
        "import sys, maskgen, maskgen.config, maskgen.cli\n"
        "heavy = {'torch', 'ray', 'transformers', 'segment_anything', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_an_installed_wheel_has_all_it_needs(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("maskgen-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import maskgen, maskgen.config as config, maskgen.small_models as demo, maskgen.views.report\n"
        f"assert maskgen.__file__.startswith({str(tmp_path)!r}), maskgen.__file__\n"
        "assert config.shipped() == ['demo', 'finetune', 'pretrain'], config.shipped()\n"
        "[config.load(split) for split in config.shipped()]\n"
        "[demo.checkpoint(name) for name in ('florence2', 'sam', 'llama', 'convnext')]\n"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)
