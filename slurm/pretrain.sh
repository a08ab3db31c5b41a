#!/bin/bash
# Pretraining: 8 nodes x 8 GPUs, one task a node, torchrun inside.
#   sbatch slurm/pretrain.sh --recipe configs/recipes/zagreus-0.4b-ita.yaml [key=value ...]
# The whole graph around it: duetto submit. Edit the #SBATCH lines for your cluster, or let duetto submit do it.
#SBATCH --job-name=pretrain
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=128
#SBATCH --mem=0
#SBATCH --exclusive
#SBATCH --time=24:00:00
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
# The driver runs here, on the first node; it starts one torchrun on each node and the watchdog beside them.
supervised python -m slurm.driver pretrain "$@"
