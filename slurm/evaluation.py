"""Parts of an evaluation: one model, the tasks of one language. ``duetto eval`` afterwards finds their result files.

    python -m slurm.evaluation --recipe FILE              # list the parts
    python -m slurm.evaluation --recipe FILE --part 2     # do one

Parts write different files of one folder, so they run side by side without the lock of the run folder.
"""

import argparse
import functools
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duetto.cli import DEFAULT_RECIPE, VERBS
from duetto.console import log
from duetto.errors import DONE, WRONG_INPUT, UserError
from duetto.recipe import Recipe, load_recipe
from duetto.run import Run
from slurm.graph import EvalPart, eval_parts


def all_parts(recipe: Recipe) -> list[EvalPart]:
    models = [m for m in ("base", "instruct") if m in recipe.eval.models and (m == "base" or recipe.sft is not None)]
    return [part for model in models for part in eval_parts(recipe, model)]


def evaluate(recipe_file: str, overrides: Sequence[str], model: str, tasks: Sequence[str]) -> None:
    """Measure the tasks that have no current result on one model of the run; what submitit runs on a node."""
    recipe = load_recipe(recipe_file, overrides)
    run = Run(recipe, lock=False)
    # By name: the evaluation's own functions, without importing a stage from a stage.
    stage, models = (importlib.import_module(name) for name in (VERBS["eval"].module, "eval.models"))
    config = stage.select(recipe.eval, [model])
    config = config.model_copy(update={"tasks": [t for t in config.tasks if t.task in tasks]})

    @functools.cache
    def loader() -> Any:  # indexing lm-eval's tasks takes seconds: only when something is to be measured
        found = importlib.import_module("eval.harness").TaskLoader(config)
        found.check(config.selected)
        return found

    for made in models.run_models(run, config):
        stage.measure(config=config, model=made, folder=run.path("eval", made.name), loader=loader)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m slurm.evaluation", description="parts of an evaluation")
    parser.add_argument("--recipe", type=Path, default=DEFAULT_RECIPE)
    parser.add_argument("--part", type=int)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_intermixed_args(argv)
    try:
        parts = all_parts(load_recipe(args.recipe, args.overrides))
        if args.part is None:
            for i, part in enumerate(parts):
                log(f"{i}: {part.model}: {', '.join(part.tasks)}")
            return DONE
        if not 0 <= args.part < len(parts):
            raise UserError(f"--part {args.part}: there are {len(parts)}; sbatch --array=0-{len(parts) - 1}")
        part = parts[args.part]
        evaluate(str(args.recipe), args.overrides, part.model, part.tasks)
    except UserError as e:
        sys.stderr.write(f"error: {e}\n")
        return WRONG_INPUT
    return DONE


if __name__ == "__main__":
    sys.exit(main())
