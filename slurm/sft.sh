#!/bin/bash
# Supervised fine-tuning (or DPO): 4 nodes x 8 GPUs, one task a node, torchrun with Axolotl inside.
#   sbatch slurm/sft.sh --recipe configs/recipes/zagreus-0.4b-ita.yaml [key=value ...]
#   sbatch --export=ALL,DUETTO_VERB=dpo slurm/sft.sh --recipe ...
#SBATCH --job-name=sft
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
set -uo pipefail

# cluster lines
cd "${DUETTO_ROOT:-$SLURM_SUBMIT_DIR}" && source .venv/bin/activate || exit 2
eval "$(python -m slurm.environment "$@")" || exit 2
# end of cluster lines
source slurm/common.sh

across_nodes
check_nodes
supervised python -m slurm.driver "${DUETTO_VERB:-sft}" "$@"
