#!/bin/bash
# Pretraining: 8 nodes x 8 GPUs, one task a node, torchrun inside.
#   sbatch slurm/pretrain.sh --recipe configs/recipes/zagreus-0.4b-ita.yaml [key=value ...]
# The whole graph around it: duetto submit. Edit the #SBATCH lines for your cluster, or let duetto submit do it.
#SBATCH --job-name=tiny.pretrain-1
#SBATCH --partition=gpu
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --exclusive
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/tiny/logs/slurm/%x-%j.log
set -uo pipefail

# cluster lines
# a100-8x8, job pretrain-1; written by duetto submit
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
export DUETTO_LINKS_LEFT=2
set -- --recipe /shared/duetto/configs/recipes/tiny.yaml pretrain.general.seed=7
# end of cluster lines
source slurm/common.sh

across_nodes
check_nodes
# The driver runs here, on the first node; it starts one torchrun on each node and the watchdog beside them.
supervised python -m slurm.driver pretrain "$@"
