#!/usr/bin/env bash
# A GPU checked and measured in nine minutes, or everything rehearsed on a CPU: benchmarks/card.sh --help
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
export PYTHONPATH="$root:$root/benchmarks:$root/tests${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m card "$@"
