#!/bin/bash
# Sources to tokens. One node's cores, or (data_arrays in the cluster file) datatrove's own SLURM arrays: then this job
# only waits, and each step of the pipeline is an array of its own with one task a shard.
#   sbatch slurm/tokenize.sh --recipe configs/recipes/zagreus-0.4b-ita.yaml [key=value ...]
#SBATCH --job-name=tiny.tokenize
#SBATCH --partition=gpu
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64000M
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/tiny/logs/slurm/%x-%j.log
set -uo pipefail

# cluster lines
# a100-8x8, job tokenize; written by duetto submit
export DUETTO_ROOT=/shared/duetto
cd "$DUETTO_ROOT" || exit 2
source /shared/duetto/.venv/bin/activate || exit 2
export HF_HUB_OFFLINE="1"
export TRANSFORMERS_OFFLINE="1"
export HF_DATASETS_OFFLINE="1"
export DUETTO_HOME="/shared/runs"
export DUETTO_RUN="/shared/runs/tiny"
export DUETTO_CLUSTER="/shared/runs/tiny/slurm/cluster.yaml"
export DUETTO_WARNING="300"
export DUETTO_REQUEUE="1"
export DUETTO_HEALTH="1"
export NCCL_SOCKET_IFNAME="ib0"
export NCCL_IB_HCA="mlx5"
export TORCH_NCCL_ASYNC_ERROR_HANDLING="1"
set -- --recipe /shared/duetto/configs/recipes/tiny.yaml pretrain.general.seed=7
# end of cluster lines
source slurm/common.sh

say "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"
supervised python -m slurm.driver tokenize "$@"
