"""A GPU checked and measured in nine minutes.

Prints what it finds as it goes and appends it to card.jsonl and card.log in a folder, from which
`python benchmarks/card/page.py FOLDER` fills docs/performance.md. With --rehearse everything runs on a CPU,
with tiny models. Needs no installation: this checkout, PyTorch and transformers, and the few wheels that
`python benchmarks/card/wheels.py DIR` gathers where a network is.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from card.plan import PARTS, REHEARSAL_SECONDS, SECONDS
from card.runner import Run, run


def main() -> int:
    """0 if all parts were done and all checks hold, else 1."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/card.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("card"), help="the folder to append to (card)")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny models")
    parser.add_argument("--device", default="cuda:0", help="cuda:0 unless --rehearse")
    parser.add_argument("--minutes", type=float, default=0, help="at most, for all parts (9; to rehearse 30)")
    parser.add_argument("--only", default="", help="parts by name, with commas between them")
    parser.add_argument(
        "--wheels", type=Path, help="a folder of wheels to install beside first, for this run"
    )
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [part.name for part in PARTS]
    if unknown := set(wanted) - {part.name for part in PARTS}:
        parser.error(
            f"--only: no part {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in PARTS)}"
        )
    with tempfile.TemporaryDirectory(prefix="card-") as scratch:
        environment = {"HF_HUB_OFFLINE": "1", "TMPDIR": scratch}
        if options.rehearse:
            environment["OMP_NUM_THREADS"] = "1"  # small models are slowest when threads wait for one another
        if options.wheels:
            environment["PYTHONPATH"] = _install(options.wheels, Path(scratch) / "site")
        given = Run(
            out=options.out,
            device="cpu" if options.rehearse else options.device,
            small=options.rehearse,
            seconds=60 * options.minutes or (REHEARSAL_SECONDS if options.rehearse else SECONDS),
            name=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            environment=environment,
        )
        return 0 if run([part for part in PARTS if part.name in wanted], given) else 1


def _install(wheels: Path, target: Path) -> str:
    """The parts' PYTHONPATH with the wheels' packages first."""
    files = sorted(str(path) for path in wheels.glob("*.whl"))
    if not files:
        raise SystemExit(
            f"--wheels {wheels}: no wheel is there. Gather some: python benchmarks/card/wheels.py DIR"
        )
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", *quiet]
    subprocess.run([*command, "--target", str(target), *files], check=True)
    return os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])


if __name__ == "__main__":
    sys.exit(main())
