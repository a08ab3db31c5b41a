"""What a job does before anything else: modules, virtual environment, variables, as shell lines.

    eval "$(python -m slurm.environment --recipe configs/recipes/demo.yaml)"

A script that is submitted by hand asks for these lines; ``duetto submit`` writes them into the scripts it makes.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from duetto.cli import DEFAULT_RECIPE
from duetto.errors import WRONG_INPUT, UserError
from duetto.files import atomic_write
from duetto.process import OFFLINE
from duetto.recipe import ROOT, Recipe, load_recipe
from slurm.config import ClusterConfig, find


def cluster_of(recipe: Recipe) -> ClusterConfig:
    """The cluster that the recipe names, or the one detected.

    Raises:
        UserError: there is none.
    """
    return recipe.cluster or find()


def run_folder(recipe: Recipe, cluster: ClusterConfig) -> Path:
    """Where jobs keep the run: DUETTO_HOME, else the cluster's ``runs``, else ``runs/`` of the repository."""
    if "DUETTO_HOME" in os.environ or cluster.runs is None:
        return recipe.run_root
    return Path(os.path.expandvars(cluster.runs)) / recipe.name


def at_home(recipe: Recipe, overrides: Sequence[str], cluster: ClusterConfig) -> Recipe:
    """The recipe with its run folder where the jobs keep it: on a login node nobody has set DUETTO_HOME."""
    folder = run_folder(recipe, cluster)
    return recipe if folder == recipe.run_root else load_recipe(recipe.file, overrides, home=folder.parent)


def venv_folder(cluster: ClusterConfig) -> Path:
    return ROOT / os.path.expandvars(cluster.venv)


def frozen(run: Path) -> Path:
    """The cluster file as this run's jobs see it, overrides applied."""
    return run / "slurm" / "cluster.yaml"


def freeze(cluster: ClusterConfig, run: Path) -> None:
    with atomic_write(frozen(run)) as f:
        f.write("# As of the last submission; jobs read it when they start.\n")
        yaml.safe_dump(cluster.model_dump(mode="json"), f, sort_keys=False, allow_unicode=True)


def lines(cluster: ClusterConfig, run: Path) -> list[str]:
    """Shell lines in the order in which they must run."""
    out = [f"export DUETTO_ROOT={shlex.quote(str(ROOT))}", 'cd "$DUETTO_ROOT" || exit 2']
    if cluster.modules:
        # A batch shell is no login shell: the module function may be missing.
        out.append("command -v module >/dev/null || source /etc/profile")
        out.append(f"module load {' '.join(map(shlex.quote, cluster.modules))} || exit 2")
    out.append(f"source {shlex.quote(str(venv_folder(cluster) / 'bin' / 'activate'))} || exit 2")
    for name, value in variables(cluster, run).items():
        out.append(f'export {name}="{value}"')  # $VARIABLES in a value are meant
    return out


def variables(cluster: ClusterConfig, run: Path) -> dict[str, str]:
    """Of every job. Compute nodes have no internet: whatever tries anyway fails at once instead of waiting."""
    out = {**OFFLINE, "DUETTO_HOME": str(run.parent), "DUETTO_RUN": str(run), "DUETTO_CLUSTER": str(frozen(run))}
    out["DUETTO_WARNING"] = str(cluster.warning_seconds)
    out["DUETTO_REQUEUE"] = "1" if cluster.requeue else "0"
    out["DUETTO_HEALTH"] = "1" if cluster.health.enabled else "0"
    if cluster.hub_cache:
        out["HF_HOME"] = cluster.hub_cache
    if cluster.temporary:
        out["TMPDIR"] = cluster.temporary
    return out | cluster.environment


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m slurm.environment", description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE)
    parser.add_argument("overrides", nargs="*")
    args, _ = parser.parse_known_intermixed_args(argv)
    try:
        recipe = load_recipe(args.recipe, args.overrides)
        cluster = cluster_of(recipe)
        run = run_folder(recipe, cluster)
        logs = run / "logs" / "slurm"
        logs.mkdir(parents=True, exist_ok=True)
        freeze(cluster, run)
    except UserError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.stdout.write("false\n")  # what the script evaluates: it stops there
        return WRONG_INPUT
    # Literal #SBATCH lines cannot know the run folder: the log goes there from here on.
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    log = f"{logs}/$SLURM_JOB_NAME-{job}.log"
    redirect = [f'echo "log: {log}"', f'exec >>"{log}" 2>&1']
    sys.stdout.write("\n".join([*lines(cluster, run), *redirect]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
