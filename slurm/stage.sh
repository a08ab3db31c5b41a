#!/bin/bash
# Any verb that needs one node: convert, eval (tables), card, report.
#   sbatch --export=ALL,DUETTO_VERB=convert slurm/stage.sh --recipe configs/recipes/zagreus-0.4b-ita.yaml [key=value ...]
#SBATCH --job-name=stage
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=02:00:00
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

say "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST: ${DUETTO_VERB:?the verb to run}"
supervised python -m slurm.driver $DUETTO_VERB "$@"
