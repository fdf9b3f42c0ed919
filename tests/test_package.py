"""The package as it is installed: nothing heavy at import, nothing missing from the wheel."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_importing_maskgen_is_light():
    script = (
        "import sys, maskgen, maskgen.config, maskgen.cli\n"
        "heavy = {'torch', 'ray', 'transformers', 'segment_anything', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_is_imported_is_declared():
    """Every package that maskgen or its examples import is a dependency or an extra; torchvision is
    segment-anything's, which does not declare it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {_distribution(line) for line in project["dependencies"]}
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "dev"}
    declared = base | {_distribution(line) for lines in extras.values() for line in lines}
    imported = set()
    for path in [*(ROOT / "maskgen").rglob("*.py"), *(ROOT / "examples").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.split(".")[0] for name in names}
    imported -= set(sys.stdlib_module_names) | {"maskgen"}
    imported -= {"datasets", "loguru", "triton"}  # used where they are installed
    known = {**packages_distributions(), "lmms_eval": ["lmms-eval"]}
    used = {_distribution(known.get(name, [name])[0]) for name in imported}
    assert used - declared == set()
    assert base - used <= {"torchvision"}


def _distribution(requirement: str) -> str:
    return str(canonicalize_name(Requirement(requirement).name))


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


def test_a_name_means_one_thing():
    """Of modules and of public classes: a traceback or a search names one place."""
    modules: list[str] = []
    classes: list[str] = []
    for path in (ROOT / "maskgen").rglob("*.py"):
        if not path.name.startswith("__"):
            modules.append(path.stem)
        tree = ast.parse(path.read_text())
        classes += [node.name for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
    assert {name for name in modules if modules.count(name) > 1} == set()
    assert {name for name in classes if classes.count(name) > 1} == set()
