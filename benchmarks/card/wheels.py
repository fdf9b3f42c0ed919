"""Gather what a bare GPU machine lacks, as wheels for its Python, to be carried there.

    python benchmarks/card/wheels.py wheels                     # for Python 3.12 on x86-64
    python benchmarks/card/wheels.py wheels --python 3.11

There, `benchmarks/card.sh --wheels wheels` uses them. Gathered are the packages that grounding, bench and
training need beside PyTorch, transformers and what comes with them, each in the version that is installed
here; no more than 7 MB.
"""

import argparse
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("orjson", "pycocotools", "shapely", "segment-anything"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
)
_GLIBC = (17, 24, 27, 28, 31, 34, 35, 39)  # pip matches a platform exactly
LARGEST = 7_000_000  # bytes, all together


def main() -> None:
    """Download, and say what it weighs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="its version there (3.12)")
    parser.add_argument("--machine", default="x86_64", help="its processor there (x86_64)")
    parser.add_argument("--package", action="append", default=[], help="another one that is missing there")
    options = parser.parse_args()
    platforms = [f"manylinux_2_{minor}_{options.machine}" for minor in reversed(_GLIBC)]
    platforms += [f"manylinux2014_{options.machine}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--no-deps",
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        options.python,
    ]
    command += [word for platform in platforms for word in ("--platform", platform)]
    command += ["--dest", str(options.folder), *map(_pinned, (*PACKAGES, *options.package))]
    subprocess.run(command, check=True)
    found = sorted(options.folder.glob("*.whl"))
    size = sum(path.stat().st_size for path in found)
    print(f"{len(found)} wheels, {size / 1e6:.1f} MB, in {options.folder}")
    if size > LARGEST:
        sys.exit(f"That is more than {LARGEST / 1e6:.0f} MB: leave out what the machine there has.")


def _pinned(package: str) -> str:
    try:
        return f"{package}=={version(package)}"
    except PackageNotFoundError:
        return package


if __name__ == "__main__":
    main()
