#!/bin/bash
# maskgen on several nodes of a Slurm cluster: a Ray over the job's nodes, one driver on the first.
#
#   DATA=/shared/cambrian OUT=/shared/masks sbatch --nodes=4 deploy/slurm.sh --split pretrain
#
# What stands behind the script's name goes to `maskgen run`. maskgen must be on the PATH of every node (an
# environment on a shared file system, or a container). The time limit and a lost node end the job with what is
# finished kept; the same line, or `scontrol requeue`, goes on.
#SBATCH --job-name=maskgen
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

: "${DATA:?set DATA to the folder with annotations and images, which all nodes see}"
: "${OUT:?set OUT to the folder for the shards, which all nodes see}"

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
log="maskgen-$SLURM_JOB_ID"

# Whoever reaches a Ray may run code on it: every process of this job shows the same token, and nobody else has it.
RAY_AUTH_TOKEN=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

step=(srun --overlap --nodes=1 --ntasks=1)

"${step[@]}" --nodelist="$head" ray start --head --node-ip-address="$head" --port="$port" --include-dashboard=false --block \
    >"$log-head.log" 2>&1 &
others=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n +2)
for node in $others; do
    "${step[@]}" --nodelist="$node" ray start --address="$head:$port" --block >"$log-$node.log" 2>&1 &
done
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

for attempt in $(seq 60); do
    if "${step[@]}" --nodelist="$head" ray status --address="$head:$port" >/dev/null 2>&1; then break; fi
    if [ "$attempt" = 60 ]; then
        echo "Ray did not start on $head: see $log-head.log" >&2
        exit 1
    fi
    sleep 2
done

# In the background, so that Slurm's signal two minutes before the time limit reaches the driver, which stops at a
# good place and ends with 3.
"${step[@]}" --nodelist="$head" maskgen run --data "$DATA" --out "$OUT" --address "$head:$port" "$@" &
driver=$!
trap 'kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
if kill -0 "$driver" 2>/dev/null; then # the wait was ended by the signal
    code=0
    wait "$driver" || code=$?
fi
if [ "$code" = 3 ]; then
    echo "not finished; submit the same line again to go on" >&2
fi
exit "$code"
