#!/bin/bash
# Supervised fine-tuning (or DPO): 4 nodes x 8 GPUs, one task a node, torchrun with Axolotl inside.
#   sbatch slurm/sft.sh --recipe configs/recipes/zagreus-0.4b-ita.yaml [key=value ...]
#   sbatch --export=ALL,DUETTO_VERB=dpo slurm/sft.sh --recipe ...
#SBATCH --job-name=tiny.sft
#SBATCH --partition=gpu
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --exclusive
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/tiny/logs/slurm/%x-%j.log
set -uo pipefail

# cluster lines
# a100-8x8, job sft; written by duetto submit
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

across_nodes
check_nodes
supervised python -m slurm.driver "${DUETTO_VERB:-sft}" "$@"
