#!/bin/bash
# Sources to tokens. One node's cores, or (data_arrays in the cluster file) datatrove's own SLURM arrays: then this job
# only waits, and each step of the pipeline is an array of its own with one task a shard.
#   sbatch slurm/tokenize.sh --recipe configs/recipes/zagreus-0.4b-ita.yaml [key=value ...]
#SBATCH --job-name=tokenize
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --mem=500G
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

say "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"
supervised python -m slurm.driver tokenize "$@"
