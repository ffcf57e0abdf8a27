#!/bin/bash
# A run on Slurm: Ray over the nodes of one allocation, the driver on the first of them.
#
#     . env/bin/activate        # on a disk that all nodes share, as is the checkout you stand in
#     sbatch --nodes=2 jobs/clusters/slurm.sh jobs/configs/llama3.1-8b-anah.yaml \
#         run_dir=/shared/runs/llama3.1-8b data.train=train.jsonl data.test=test.jsonl
#
# Whatever follows the script's name goes to jobs/pipeline.py. Options of sbatch before it override
# those below: partition, account, time. Out of time, or queued again after the loss of a
# node, the same command goes on from what stands in run_dir.
#SBATCH --job-name=maskdpo
#SBATCH --output=%x-%j.log
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --time=2-00:00:00
#SBATCH --requeue
set -euo pipefail

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# This script runs on the first host; by its address as Ray sees it, on a port of this job's own.
address=$(python -c 'import ray; print(ray.util.get_node_ip_address())')
address=$address:$((20000 + SLURM_JOB_ID % 10000))
# Other users reach the nodes too; srun hands the token on. Set both, as clients do not all look for
# a token in the home directory, where `ray start` would find one.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

# Not `ray symmetric-run`: it ends with `ray stop`, which takes along the user's other jobs on a node.
ray_on() { # NODES LIST START...: a task on each node, with all that the job got there
    srun --nodes="$1" --ntasks="$1" --nodelist="$2" --cpus-per-task="$SLURM_CPUS_ON_NODE" \
        ray start --block --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
        "${@:3}" &
}
head_answers() { ray health-check --address "$address" 2>/dev/null; }
every_node_joined() {
    python -c '
import sys, ray
ray.init(log_to_driver=False, logging_level="error")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]))
' "$SLURM_JOB_NUM_NODES"
}
wait_until() {
    local deadline=$((SECONDS + 300))
    until "$@"; do
        ((SECONDS < deadline)) || { echo "not in 5 minutes: $1" >&2; return 1; }
        sleep 2
    done
}
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

ray_on 1 "${hosts[0]}" --head --port="${address##*:}" --include-dashboard=false
wait_until head_answers
if ((SLURM_JOB_NUM_NODES > 1)); then
    workers=$(IFS=,; echo "${hosts[*]:1}")
    ray_on $((SLURM_JOB_NUM_NODES - 1)) "$workers" --address="$address"
fi

export RAY_ADDRESS=$address
wait_until every_node_joined # the run insists at its start that its pools fit
python jobs/pipeline.py "$@"
