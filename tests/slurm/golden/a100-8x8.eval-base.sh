#!/bin/bash

# Parameters
#SBATCH --array=0-1%2
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --job-name=tiny.eval-base
#SBATCH --mem=128000M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/tiny/logs/slurm/eval/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@300
#SBATCH --time=480
#SBATCH --wckey=submitit

# setup
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
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/runs/tiny/logs/slurm/eval/%A_%a_%t_log.out python -u -m submitit.core._submit /shared/runs/tiny/logs/slurm/eval

