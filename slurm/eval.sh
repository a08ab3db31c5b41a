#!/bin/bash
# Evaluation: one array task for each model and task group, one GPU each; `duetto eval` afterwards makes the tables.
#   python -m slurm.evaluation --recipe FILE          # lists the parts: one number each
#   sbatch --array=0-3 slurm/eval.sh --recipe configs/recipes/zagreus-0.4b-ita.yaml [key=value ...]
# (duetto submit sends the same parts through submitit, and the tables as a job behind them.)
#SBATCH --job-name=eval
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=128G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%A_%a.out
set -uo pipefail

# cluster lines
cd "${DUETTO_ROOT:-$SLURM_SUBMIT_DIR}" && source .venv/bin/activate || exit 2
eval "$(python -m slurm.environment "$@")" || exit 2
# end of cluster lines
source slurm/common.sh

say "job ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID on $SLURM_JOB_NODELIST"
python -m slurm.evaluation --part "$SLURM_ARRAY_TASK_ID" "$@"
