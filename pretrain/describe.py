"""What ``duetto pretrain --dry-run`` prints: everything that will happen, before it does."""

import yaml

from duetto.recipe import Recipe
from pretrain.config import PretrainConfig
from pretrain.mapping import checkpoints_folder
from pretrain.schedule import plot
from pretrain.sources import Draw, draws


def describe(recipe: Recipe) -> str:
    """Resolved configuration, learning-rate curve, tokens and passes by source, for each pretraining file.

    Raises:
        UserError: a file has no data.
    """
    parts = []
    for position, config in enumerate(recipe.pretrain):
        title = f"pretraining file {position + 1} of {len(recipe.pretrain)}: {config.general.run or recipe.name}"
        resolved = yaml.safe_dump(config.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)
        found = draws(config, position, recipe.data, recipe.run_root)
        parts += [title, "=" * len(title), "", resolved, _steps(config), "", _curve(config), "", _table(found), ""]
        parts.append(f"checkpoints: {checkpoints_folder(config, recipe.run_root)}")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _steps(config: PretrainConfig) -> str:
    t, p = config.tokens, config.parallelism
    return (
        f"{t.train_steps:,} steps of {config.tokens_per_step:,} tokens = {config.total_tokens:,} tokens\n"
        f"a step: {p.dp} replicas x {t.batch_accumulation_per_replica} micro batches x {t.micro_batch_size} windows x "
        f"{t.sequence_length:,} tokens, on {p.world_size} processes (dp {p.dp} x tp {p.tp} x pp {p.pp})"
    )


def _curve(config: PretrainConfig) -> str:
    o = config.optimizer
    muon = o.optimizer_factory.muon_learning_rate
    name = "learning rate" if muon is None else f"learning rate of AdamW (Muon: the same curve below {muon:g})"
    return f"{name}\n{plot(o.learning_rate_scheduler, config.tokens.train_steps)}"


def _table(found: list[Draw]) -> str:
    stages = dict.fromkeys((d.stage, d.first_step) for d in found)
    rows = [f"{'source':<40} {'share':>7} {'tokens drawn':>18} {'on disk':>18} {'passes':>7}"]
    for stage, first in stages:
        rows.append(f"{stage}, from step {first}:")
        for d in (d for d in found if (d.stage, d.first_step) == (stage, first)):
            here = "not there yet" if d.available is None else f"{d.available:,}"
            passes = "n/a" if d.epochs is None else f"{d.epochs:.2f}"
            short = d.source if len(d.source) <= 38 else "..." + d.source[-35:]
            rows.append(f"  {short:<38} {d.weight:>7.1%} {d.tokens:>18,} {here:>18} {passes:>7}")
    return "\n".join(rows)
