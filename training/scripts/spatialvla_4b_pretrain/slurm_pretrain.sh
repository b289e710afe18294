#!/usr/bin/env bash
#SBATCH --job-name=spatialvla
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=7-00:00:00
#SBATCH --requeue
# Pretrain by Slurm: one torchrun a machine. Nodes, GPUs and time are options of sbatch:
#
#   VLM=... DATA=... OUT=... sbatch --nodes 4 slurm_pretrain.sh [further arguments]
#
# A job that is requeued goes on from its newest checkpoint. Slurm runs a copy of this file, so
# SCRIPTS tells where its neighbours are if that is not where sbatch was called.
set -euo pipefail
scripts=${SCRIPTS:-${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")}}
if [ ! -f "$scripts/torchrun_pretrain.sh" ]; then
    echo "torchrun_pretrain.sh is not in $scripts: set SCRIPTS to its folder" >&2
    exit 1
fi
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT="${MASTER_PORT:-29500}" NODES="$SLURM_NNODES"
export GPUS="${GPUS:-${SLURM_GPUS_ON_NODE:-8}}"
# shellcheck disable=SC2016 # SLURM_NODEID is each task's own
srun --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec bash "$0" "$@"' \
    "$scripts/torchrun_pretrain.sh" "$@"
